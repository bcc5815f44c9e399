//! How much of the machine's processors is ours: a container of half a processor on a host of sixty-four
//! must not behave as if it had sixty-four.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use crate::cgroup;

/// Tasks a processor: they wait for the network most of the time. Half a processor makes four.
const TASKS_A_CPU: f64 = 8.0;

/// Nobody is given fewer by default, so that one slow task does not hold up all, nor more: who has the
/// memory and the connections for it says so.
const TASKS_LEAST: usize = 2;
const TASKS_MOST: usize = 8;

/// A task that computes holds one thread of its worker; the others need one to go on.
const WORKER_THREADS_LEAST: usize = 2;

/// The processors that this process may use: those of its cgroup's quota, or all that there are.
pub(crate) fn cpus() -> f64 {
    let all = available_parallelism().map_or(1, usize::from) as f64;
    let quota = quota(&cgroup::of_process("cpu"), |path| fs::read_to_string(path).ok());
    quota.map_or(all, |quota| quota.min(all))
}

/// How many tasks a worker runs at once where nobody says so. Never more than there are connections
/// to the database: the others would only wait for one.
pub(crate) fn concurrency(cpus: f64, connections: Option<u32>) -> usize {
    let by_cpus = ((cpus * TASKS_A_CPU).round() as usize).clamp(TASKS_LEAST, TASKS_MOST);
    let most = connections.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    by_cpus.min(most).max(1)
}

/// How many threads the runtime of a worker has.
pub(crate) fn worker_threads(cpus: f64) -> usize {
    threads(cpus).max(WORKER_THREADS_LEAST)
}

/// How many threads the runtime of an API has. More than there are processors only take turns.
pub(crate) fn threads(cpus: f64) -> usize {
    (cpus.ceil() as usize).max(1)
}

/// The smallest quota of these groups, in processors: a group has what its ancestors leave it.
fn quota(groups: &[PathBuf], read: impl Fn(&Path) -> Option<String>) -> Option<f64> {
    let number = |path: PathBuf| read(&path)?.trim().parse::<f64>().ok();
    let of = |group: &PathBuf| match read(&group.join("cpu.max")) {
        Some(text) => v2(&text),
        None => {
            let quota = number(group.join("cpu.cfs_quota_us"))?;
            part(quota, number(group.join("cpu.cfs_period_us"))?)
        }
    };
    groups.iter().filter_map(of).min_by(f64::total_cmp)
}

/// `50000 100000` is half a processor, `max 100000` no limit.
fn v2(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    part(quota.parse().ok()?, period.parse().ok()?)
}

/// Version 1 says -1 where there is no limit.
fn part(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(groups: &str, files: &[(&str, &str)]) -> Option<f64> {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        quota(&cgroup::folders(groups, "cpu"), |path| {
            files.get(path.to_str()?).map(|text| (*text).to_owned())
        })
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let own = "/sys/fs/cgroup/cpu.max";
        assert_eq!(read("0::/\n", &[(own, "50000 100000\n")]), Some(0.5));
        assert_eq!(read("0::/\n", &[(own, "max 100000\n")]), None);
        assert_eq!(read("0::/\n", &[]), None);
        let slice = "/sys/fs/cgroup/a.slice/cpu.max";
        let scope = "/sys/fs/cgroup/a.slice/b.scope/cpu.max";
        let groups = "0::/a.slice/b.scope\n";
        assert_eq!(
            read(groups, &[(slice, "25000 100000\n"), (scope, "100000 100000\n")]),
            Some(0.25)
        );
        assert_eq!(read(groups, &[(slice, "max 100000\n"), (scope, "150000 100000\n")]), Some(1.5));
        // The path of the host, where only the group itself is mounted.
        assert_eq!(read("0::/docker/0123\n", &[(own, "50000 100000\n")]), Some(0.5));
    }

    #[test]
    fn the_first_version_of_cgroups_is_read() {
        let files = |mount: &str, quota: &str| {
            let of = |name: &str| format!("/sys/fs/cgroup/{mount}/t/{name}");
            [
                (of("cpu.cfs_quota_us"), format!("{quota}\n")),
                (of("cpu.cfs_period_us"), "100000\n".to_owned()),
            ]
        };
        for (groups, mount) in [
            ("2:cpuacct:/\n1:cpu:/t\n0::/\n", "cpu"),
            ("3:cpu,cpuacct:/t\n", "cpu"),
            ("3:cpu,cpuacct:/t\n", "cpu,cpuacct"),
        ] {
            for (text, expected) in [("50000", Some(0.5)), ("-1", None)] {
                let files = files(mount, text);
                let files: Vec<(&str, &str)> =
                    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
                assert_eq!(read(groups, &files), expected, "{groups} {mount}");
            }
        }
        assert_eq!(read("1:cpuset:/t\n", &[("/sys/fs/cgroup/cpu/t/cpu.cfs_quota_us", "1")]), None);
    }

    #[test]
    fn what_nobody_sets_goes_by_the_processors_and_the_connections() {
        for (cpus, connections, tasks, of_api, of_worker) in [
            (0.25, None, 2, 1, 2),
            (0.5, Some(15), 4, 1, 2),
            (0.5, Some(3), 3, 1, 2),
            (1.0, Some(15), 8, 1, 2),
            (1.5, Some(1), 1, 2, 2),
            (64.0, Some(15), 8, 64, 64),
        ] {
            assert_eq!(concurrency(cpus, connections), tasks, "{cpus}");
            assert_eq!((threads(cpus), worker_threads(cpus)), (of_api, of_worker), "{cpus}");
        }
    }

    #[test]
    fn here_is_at_least_a_part_of_a_processor() {
        assert!(cpus() > 0.0);
    }
}
