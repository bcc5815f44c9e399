//! Control groups for processes of a test: a part of a processor, a part of the memory.

use std::{fs, io, path::PathBuf, thread::sleep, time::Duration};

use umbel_tests::process::{Launch, Process};

use super::UNPRIVILEGED;

const ROOT: &str = "/sys/fs/cgroup";

/// A control group, removed when dropped. To make one takes rights: without them the test fails, and
/// says how it is left out.
pub(super) struct Group(PathBuf);

impl Group {
    pub(super) fn half_a_processor() -> Option<Self> {
        let first = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")];
        Self::make("cpu", &first, &[("cpu.max", "50000 100000")])
    }

    pub(super) fn of_memory(mib: usize) -> Option<Self> {
        let bytes = (mib << 20).to_string();
        // What is swapped out is not gone.
        let second = [("memory.max", bytes.as_str()), ("memory.swap.max", "0")];
        Self::make("memory", &[("memory.limit_in_bytes", &bytes)], &second)
    }

    /// `first` and `second`: what is written in the two versions of control groups.
    fn make(controller: &str, first: &[(&str, &str)], second: &[(&str, &str)]) -> Option<Self> {
        if std::env::var_os(UNPRIVILEGED).is_some() {
            eprintln!("left out: {UNPRIVILEGED} is set");
            return None;
        }
        let made = if PathBuf::from(ROOT).join("cgroup.controllers").exists() {
            Self::write(PathBuf::from(ROOT), second)
        } else {
            // Below the group that we are in: beside it no limit of ours would hold.
            let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
            let own = groups.lines().find_map(|line| line.split_once(&format!(":{controller}:/")));
            let own = own.map_or("", |(_, path)| path);
            Self::write(PathBuf::from(ROOT).join(controller).join(own), first)
        };
        Some(made.unwrap_or_else(|error| {
            panic!("no control group can be made here ({error}): {UNPRIVILEGED}=1 leaves this out")
        }))
    }

    fn write(parent: PathBuf, settings: &[(&str, &str)]) -> io::Result<Self> {
        let group = parent.join(format!("umbel-test-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&group)?;
        let group = Self(group);
        for (file, value) in settings {
            fs::write(group.0.join(file), value)?;
        }
        Ok(group)
    }

    /// Starts a process in it.
    pub(super) fn start(&self, launch: &Launch) -> Process {
        let enter = format!(r#"echo $$ >{}/cgroup.procs && exec "$@""#, self.0.display());
        launch.clone().under(&["sh", "-c", &enter, "sh"]).start()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may be about to leave; an empty group that stays costs nothing.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}
