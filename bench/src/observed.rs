//! What it costs to be seen: the same drain by the worker of an application with metrics, traces or
//! logs, and with none of them.

use std::process::{Command, Stdio};

use anyhow::Context;
use umbel::Application;

use crate::{
    Bench,
    apart::Process,
    figures::Kind,
    noop::{Board, registry},
    workloads::{PLACES, RATE},
};

const UNSEEN: Kind = Kind::own("drain_unseen", RATE);

/// What each drain has, beside what all have. No span is sent, so nobody need listen.
const SEEN: [(Kind, &[(&str, &str)]); 4] = [
    (UNSEEN, &[("METRICS", "false"), ("LOG_LEVEL", "warn")]),
    (Kind::against(UNSEEN, "drain_with_metrics"), &[("METRICS", "true"), ("LOG_LEVEL", "warn")]),
    (
        Kind::against(UNSEEN, "drain_with_unsampled"),
        &[
            ("METRICS", "false"),
            ("LOG_LEVEL", "warn"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ],
    ),
    (
        Kind::against(UNSEEN, "drain_with_logs"),
        &[("METRICS", "false"), ("LOG_LEVEL", "info"), ("LOG_FORMAT", "json")],
    ),
];

/// The tasks that do nothing, as an application.
pub fn application() -> Application<Board> {
    Application::new("bench").state(|_| async { Ok(Board::new(PLACES)) }).registry(registry)
}

impl Bench {
    pub(crate) fn observed(&mut self) -> anyhow::Result<()> {
        let tasks = self.tasks_of_seconds();
        for (kind, seen) in SEEN {
            let (took, _) =
                self.drained_apart(tasks, || Ok(vec![self.application_worker(seen)?]))?;
            self.rate(kind, tasks, took);
        }
        Ok(())
    }

    fn application_worker(&self, seen: &[(&str, &str)]) -> anyhow::Result<Process> {
        // Built beside the benchmark.
        let program = std::env::current_exe()?.with_file_name("umbel-bench-application");
        let mut worker = Command::new(&program);
        // Settings of somebody's shell would make another figure; what is logged goes nowhere.
        worker.arg("worker").env_clear().envs(seen.iter().copied()).stderr(Stdio::null());
        worker.env("REDIS_URL", self.redis.url()).env("ALLOW_VOLATILE", "true");
        worker.env("CONCURRENCY", self.plan.concurrency.to_string());
        Process::spawn(worker).with_context(|| format!("{} cannot be started", program.display()))
    }
}
