//! Where the limits of this container stand: the control groups that a process is in, of version 2 or 1.

use std::{
    fs,
    path::{Path, PathBuf},
};

const MOUNTED: &str = "/sys/fs/cgroup";

/// The folders of the groups that this process is in, its own first, the root of the mount last.
pub(crate) fn of_process(controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    folders(&groups, controller)
}

/// The same by what stands in `/proc/self/cgroup`. Inside a container the path may be that of the host,
/// and what is mounted the container's own group: so all of its ancestors are named, those that are
/// not there too.
pub(crate) fn folders(groups: &str, controller: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = Path::new(path.trim_start_matches('/'));
        let of = |root: &Path| path.ancestors().map(|group| root.join(group)).collect::<Vec<_>>();
        let mounted = Path::new(MOUNTED);
        if controllers.is_empty() {
            folders.extend(of(mounted));
        } else if controllers.split(',').any(|name| name == controller) {
            // The mount is named after one of its controllers or after all of them.
            folders.extend(of(&mounted.join(controller)));
            if controllers != controller {
                folders.extend(of(&mounted.join(controllers)));
            }
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_from_the_own_to_the_root() {
        let named = |groups: &str| -> Vec<String> {
            folders(groups, "cpu").iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(named("0::/\n"), ["/sys/fs/cgroup/"]);
        assert_eq!(
            named("0::/a.slice/b.scope\n"),
            ["/sys/fs/cgroup/a.slice/b.scope", "/sys/fs/cgroup/a.slice", "/sys/fs/cgroup/"]
        );
        assert_eq!(
            named("2:cpuset:/x\n1:cpu:/t\n"),
            ["/sys/fs/cgroup/cpu/t", "/sys/fs/cgroup/cpu/"]
        );
        assert_eq!(
            named("3:cpu,cpuacct:/t\n"),
            [
                "/sys/fs/cgroup/cpu/t",
                "/sys/fs/cgroup/cpu/",
                "/sys/fs/cgroup/cpu,cpuacct/t",
                "/sys/fs/cgroup/cpu,cpuacct/",
            ]
        );
        assert_eq!(named(""), [""; 0]);
    }
}
