//! A worker that has half a core and 512 MB, as the smallest container of a platform has them. Redis
//! stands outside.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{
    Bench,
    apart::{self, Process},
    figures::Kind,
    workloads::RATE,
};

/// The time of a processor in each period, both in microseconds.
const QUOTA: u32 = 50_000;
const PERIOD: u32 = 100_000;

const MEMORY: u64 = 512 << 20;

const MOUNTED: &str = "/sys/fs/cgroup";

/// A group whose last process has just ended may be in use for a moment.
const REMOVE_TRIES: usize = 100;
const REMOVE_AGAIN: Duration = Duration::from_millis(10);

const WHOLE: Kind = Kind::own("drain_unconfined", RATE);

impl Bench {
    pub(crate) fn confined(&mut self) -> anyhow::Result<()> {
        let group = match Group::make() {
            Ok(group) => group,
            Err(error) => {
                eprintln!(
                    "no control group can be made here, so half a core is not measured: {error:#}"
                );
                return Ok(());
            }
        };
        let tasks = self.tasks_of_seconds();
        let worker = apart::worker(&self.redis.url(), self.plan.concurrency, tasks, 0);
        let (took, _) = self.drained_apart(tasks, || Ok(vec![Process::start(&worker)?]))?;
        self.rate(WHOLE, tasks, took);
        let within = || Ok(vec![Process::start_within(&worker, group.folders())?]);
        let (took, _) = self.drained_apart(tasks, within)?;
        self.rate(Kind::against(WHOLE, "drain_half_core"), tasks, took);
        self.add(Kind::own("half_core_peak", "MB"), group.peak_mb()?);
        self.add(Kind::own("half_core_throttled", "periods"), group.throttled()?);
        Ok(())
    }
}

/// A control group of version 2, or two of version 1; removed when this is dropped.
#[derive(Debug)]
struct Group {
    folders: Vec<PathBuf>,
    /// Where the most memory that was in use at once stands.
    peak: PathBuf,
}

impl Group {
    fn make() -> anyhow::Result<Self> {
        let (root, name) = (Path::new(MOUNTED), format!("umbel-bench-{}", process::id()));
        if root.join("cgroup.controllers").exists() {
            write(&root.join("cgroup.subtree_control"), "+cpu +memory")?;
            let folder = root.join(name);
            let group = Self { peak: folder.join("memory.peak"), folders: vec![folder.clone()] };
            make(&folder)?;
            write(&folder.join("cpu.max"), format!("{QUOTA} {PERIOD}"))?;
            write(&folder.join("memory.max"), MEMORY.to_string())?;
            return Ok(group);
        }
        let [cpu, memory] = ["cpu", "memory"].map(|controller| root.join(controller).join(&name));
        let peak = memory.join("memory.max_usage_in_bytes");
        let group = Self { folders: vec![cpu.clone(), memory.clone()], peak };
        make(&cpu)?;
        make(&memory)?;
        write(&cpu.join("cpu.cfs_period_us"), PERIOD.to_string())?;
        write(&cpu.join("cpu.cfs_quota_us"), QUOTA.to_string())?;
        write(&memory.join("memory.limit_in_bytes"), MEMORY.to_string())?;
        Ok(group)
    }

    /// Where a process enters it.
    fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// In how many periods it had to wait for the next: none, and half a core was more than it wanted.
    fn throttled(&self) -> anyhow::Result<f64> {
        // That of the processor comes first.
        let file = self.folders[0].join("cpu.stat");
        let told = read(&file)?;
        let periods = told.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(periods.with_context(|| format!("{} tells no periods", file.display()))?.parse()?)
    }

    fn peak_mb(&self) -> anyhow::Result<f64> {
        let bytes: f64 = read(&self.peak)?.trim().parse()?;
        ensure!(bytes > 0.0, "nobody was in {}", self.peak.display());
        Ok(bytes / 1024.0 / 1024.0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in self.folders.iter().filter(|folder| folder.exists()) {
            let removed = (0..REMOVE_TRIES).any(|_| {
                let removed = fs::remove_dir(folder).is_ok();
                if !removed {
                    sleep(REMOVE_AGAIN);
                }
                removed
            });
            if !removed {
                eprintln!("{} is left behind", folder.display());
            }
        }
    }
}

fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder).with_context(|| format!("{} cannot be made", folder.display()))
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn write(file: &Path, text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}
