//! What figures mean nothing without: the machine, the versions, the settings.

use std::fs;

use serde_json::{Value, json};

use crate::{ARGUMENT_BYTES, Bench, HAND_OVER_EVERY, raw::BATCH};

/// The head of a run of the benchmark.
pub fn head(bench: &Bench) -> Value {
    let cpus = read("/proc/cpuinfo");
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let plan = &bench.plan;
    json!({
        "umbel": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "redis": server(&bench.redis.cli(&["info", "server"])),
        "kernel": kernel.trim(),
        "cpu": field(&cpus, "model name").unwrap_or("unknown"),
        "cores": cpus.lines().filter(|line| line.starts_with("processor")).count(),
        // What else the machine does while it is measured.
        "load_1m": load.split(' ').next(),
        "pinned": false,
        "persistence": "none, and an append-only file every second where a figure ends in _aof",
        "workloads": plan.workloads.iter().map(|workload| format!("{workload:?}")).collect::<Vec<_>>(),
        "tasks": plan.tasks,
        "concurrency": plan.concurrency,
        "hand_overs": plan.hand_overs,
        "hand_over_every_ms": HAND_OVER_EVERY.as_millis() as u64,
        "argument_bytes": ARGUMENT_BYTES,
        "raw_batch": BATCH,
    })
}

fn server(info: &str) -> String {
    // Valkey tells the version of Redis that it is compatible with, too.
    match (field(info, "valkey_version"), field(info, "redis_version")) {
        (Some(version), _) => format!("valkey {version}"),
        (None, version) => format!("redis {}", version.unwrap_or("unknown")),
    }
}

/// The value of a line `name : value`.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then_some(value.trim())
    })
}

/// Empty where the system has no such file.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_told_by_its_own_version() {
        assert_eq!(server("# Server\r\nredis_version:7.0.15\r\n"), "redis 7.0.15");
        assert_eq!(server("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n"), "valkey 8.0.1");
        assert_eq!(field("processor\t: 0\nmodel name\t: A: B\n", "model name"), Some("A: B"));
    }
}
