//! What the kernel says of this process and of the container around it, read when it is asked for.

use std::{fs, path::Path, time::Duration};

use nix::unistd::{SysconfVar, sysconf};

use super::exposition::sample;

/// Of this process, by the names that Prometheus' own libraries use.
pub(crate) fn process() -> String {
    let mut text = String::new();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program stands in brackets, and may hold anything.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok());
    let unit = |var| sysconf(var).ok().flatten().and_then(|unit| u64::try_from(unit).ok());
    let ticks = unit(SysconfVar::CLK_TCK).unwrap_or(100);
    // Fields 14, 15 and 22, 24 of proc(5), the first of which stands before the bracket.
    if let (Some(user), Some(system)) = (field(11), field(12)) {
        let seconds = (user + system) as f64 / ticks as f64;
        sample(&mut text, "process_cpu_seconds_total", "counter", "Time on the processor", seconds);
    }
    if let Some(began) = field(19).zip(boot_time()).map(|(at, boot)| boot + at / ticks) {
        let help = "When the process began, since 1970";
        sample(&mut text, "process_start_time_seconds", "gauge", help, began);
    }
    if let Some(pages) = field(21) {
        let bytes = pages * unit(SysconfVar::PAGE_SIZE).unwrap_or(4096);
        let help = "Memory of the process that is resident";
        sample(&mut text, "process_resident_memory_bytes", "gauge", help, bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is that of the list itself.
        let open = open.count().saturating_sub(1);
        sample(&mut text, "process_open_fds", "gauge", "Open files and connections", open);
    }
    text
}

fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())
}

/// What a container has, and how often it was held back.
#[derive(Debug, Default, PartialEq)]
struct Container {
    memory: Option<u64>,
    memory_limit: Option<u64>,
    cpu_limit: Option<f64>,
    periods: Option<u64>,
    throttled_periods: Option<u64>,
    throttled: Option<Duration>,
}

/// Of the container, where there is one with limits or accounts.
pub(crate) fn container() -> String {
    let found = read_container(Path::new("/sys/fs/cgroup"));
    let mut text = String::new();
    let mut tell = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            sample(&mut text, name, kind, help, value);
        }
    };
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    tell("umbel_container_memory_bytes", "gauge", "Memory of the container", whole(found.memory));
    tell(
        "umbel_container_memory_limit_bytes",
        "gauge",
        "Memory that the container may have",
        whole(found.memory_limit),
    );
    tell(
        "umbel_container_cpu_limit_cores",
        "gauge",
        "Processors that the container may use",
        found.cpu_limit,
    );
    tell(
        "umbel_container_cpu_periods_total",
        "counter",
        "Periods in which the container wanted the processor",
        whole(found.periods),
    );
    tell(
        "umbel_container_cpu_throttled_periods_total",
        "counter",
        "Periods in which it was held back",
        whole(found.throttled_periods),
    );
    tell(
        "umbel_container_cpu_throttled_seconds_total",
        "counter",
        "How long it was held back in all",
        found.throttled.map(|time| time.as_secs_f64()),
    );
    text
}

/// Reads both kinds of control groups, as they are mounted in a container.
fn read_container(root: &Path) -> Container {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let number = |path: &str| text(path)?.trim().parse::<u64>().ok();
    let entry = |stat: &Option<String>, name: &str| {
        let stat = stat.as_ref()?;
        stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let is_v2 = root.join("cgroup.controllers").exists();
    let stat = text(if is_v2 { "cpu.stat" } else { "cpu/cpu.stat" });
    let both = (entry(&stat, "nr_periods "), entry(&stat, "nr_throttled "));
    if is_v2 {
        let cpu_limit = text("cpu.max").and_then(|max| {
            let (quota, period) = max.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
        });
        return Container {
            memory: number("memory.current"),
            // "max" is no number, and no limit.
            memory_limit: number("memory.max"),
            cpu_limit,
            periods: both.0,
            throttled_periods: both.1,
            throttled: entry(&stat, "throttled_usec ").map(Duration::from_micros),
        };
    }
    let quota = text("cpu/cpu.cfs_quota_us").and_then(|quota| quota.trim().parse::<f64>().ok());
    let period = number("cpu/cpu.cfs_period_us");
    Container {
        memory: number("memory/memory.usage_in_bytes"),
        // Without a limit it is the largest number of pages, which is beyond any machine.
        memory_limit: number("memory/memory.limit_in_bytes").filter(|limit| *limit < 1 << 60),
        cpu_limit: quota.filter(|quota| *quota > 0.0).zip(period).map(|(q, p)| q / p as f64),
        periods: both.0,
        throttled_periods: both.1,
        throttled: entry(&stat, "throttled_time ").map(Duration::from_nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("umbel-cgroup-{}", uuid::Uuid::new_v4()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn both_kinds_of_control_groups_say_the_same() {
        let limited = Container {
            memory: Some(1_000),
            memory_limit: Some(536_870_912),
            cpu_limit: Some(0.5),
            periods: Some(7),
            throttled_periods: Some(3),
            throttled: Some(Duration::from_millis(1_500)),
        };
        let newer = folder(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "536870912\n"),
            ("cpu.max", "50000 100000\n"),
            ("cpu.stat", "usage_usec 9\nnr_periods 7\nnr_throttled 3\nthrottled_usec 1500000\n"),
        ]);
        let older = folder(&[
            ("memory/memory.usage_in_bytes", "1000\n"),
            ("memory/memory.limit_in_bytes", "536870912\n"),
            ("cpu/cpu.cfs_quota_us", "50000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("cpu/cpu.stat", "nr_periods 7\nnr_throttled 3\nthrottled_time 1500000000\n"),
        ]);
        for root in [newer, older] {
            assert_eq!(read_container(&root), limited, "{}", root.display());
            fs::remove_dir_all(root).unwrap();
        }
    }

    #[test]
    fn no_limit_is_none() {
        for files in [
            &[("cgroup.controllers", ""), ("memory.max", "max\n"), ("cpu.max", "max 100000\n")][..],
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("cpu/cpu.cfs_quota_us", "-1\n"),
                ("cpu/cpu.cfs_period_us", "100000\n"),
            ],
        ] {
            let root = folder(files);
            let found = read_container(&root);
            assert_eq!((found.memory_limit, found.cpu_limit), (None, None), "{files:?}");
            fs::remove_dir_all(root).unwrap();
        }
    }

    #[test]
    fn this_process_is_told_of() {
        let text = process();
        for name in ["cpu_seconds_total", "start_time_seconds", "resident_memory_bytes", "open_fds"]
        {
            let line = format!("\nprocess_{name} ");
            let value = text.split_once(&line).map(|(_, rest)| rest.lines().next().unwrap());
            assert!(value.unwrap().parse::<f64>().unwrap() >= 0.0, "{text}");
        }
        let start = text.split("\nprocess_start_time_seconds ").nth(1).unwrap();
        let start: i64 = start.lines().next().unwrap().parse().unwrap();
        assert!((chrono::Utc::now().timestamp() - start).abs() < 3600, "{start}");
    }
}
