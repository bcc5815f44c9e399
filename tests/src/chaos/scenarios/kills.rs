//! C1: workers are killed while they work, alone and under supervisors.

use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep_until};

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    report::Report,
    stage::Stage,
};

/// A settle takes so many at once: what a worker may have done and not said.
const SETTLE_BATCH: usize = 128;

const CONCURRENCY: usize = 8;

/// More than fits into any backlog that the last kill leaves.
const DRAIN_MAX: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    kills: usize,
    workers: usize,
    /// Between two kills.
    every: Duration,
}

/// Who watches a death must outlive the lease after it (15 s, and up to 3 s until it looks): of the
/// workers that are there at a death, one at least is not killed within 20 s.
const ALONE: [Size; 2] = [
    Size { tasks: 3_000, kills: 4, workers: 4, every: Duration::from_secs(3) },
    Size { tasks: 100_000, kills: 100, workers: 8, every: Duration::from_secs(3) },
];

/// Who takes the tasks of a dead worker needs no time to watch.
const SUPERVISED: [Size; 2] = [
    Size { tasks: 2_000, kills: 4, workers: 3, every: Duration::from_secs(2) },
    Size { tasks: 100_000, kills: 100, workers: 6, every: Duration::from_secs(3) },
];

pub async fn alone(plan: Plan) -> anyhow::Result<Report> {
    let [smoke, full] = ALONE;
    let mut report = play(plan, plan.profile.of(smoke, full), Keeping::Alone).await?;
    let p99 = report.audit.recovery(99);
    report.within("recovery, 99 of 100", plan.profile.time(Duration::from_secs(20)), p99);
    Ok(report)
}

pub async fn supervised(plan: Plan) -> anyhow::Result<Report> {
    let [smoke, full] = SUPERVISED;
    let mut report = play(plan, plan.profile.of(smoke, full), Keeping::Supervised).await?;
    let p99 = report.audit.recovery(99);
    report.within("recovery, 99 of 100", plan.profile.time(Duration::from_secs(3)), p99);
    Ok(report)
}

async fn play(plan: Plan, size: Size, keeping: Keeping) -> anyhow::Result<Report> {
    let mut stage = Stage::with_database(plan.seed)?;
    let launch = stage.launch(&stage.redis.url()).env("CRASH_LIMIT", 20);
    let mut crew = Crew::start(launch, keeping, size.workers);
    stage.ready(&crew).await?;
    let trials = stage.mix(size.tasks);
    // All the while there is work, until a little after the last kill.
    let over = size.every * (size.kills as u32 + 1);
    let feed = stage.feed(stage.client.clone(), trials, over);
    let began = Instant::now();
    for n in 1..=size.kills {
        let jitter = stage.dice.random_range(0.8..1.2);
        sleep_until(began + size.every.mul_f64(n as f64 - 1.0 + jitter)).await;
        let place = stage.dice.random_range(0..crew.len());
        let fault = crew.kill(place).await;
        stage.faults.push(fault);
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.exactly("kills", size.kills, report.audit.faults);
    let most = size.kills * (CONCURRENCY + SETTLE_BATCH);
    report.at_most("repeated starts", most, report.audit.repeated);
    report.exactly("repeated starts without a kill", 0, report.audit.unexplained.len());
    report.exactly("double effects", 0, report.audit.double_effects);
    report.exactly("workers that ended badly when asked", 0, evidence.ended_badly);
    Ok(report)
}
