//! C3: tasks that take many leases, on workers that live, while the clock of Redis jumps.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::sleep;
use umbel_broker::When;

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::{Event, Moment},
    probe::{Act, Trial},
    report::Report,
    shim::Shim,
    stage::{self, Stage},
};

const DRAIN_MAX: Duration = Duration::from_secs(180);

/// How much later than they are enqueued some tasks may start.
const DELAY: TimeDelta = TimeDelta::seconds(4);

const WORKERS: usize = 4;
const CONCURRENCY: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Size {
    lease: Duration,
    /// How long the long tasks take.
    long: Duration,
    long_tasks: usize,
    short_tasks: usize,
}

const SMOKE: Size = Size {
    lease: Duration::from_secs(12),
    long: Duration::from_secs(30),
    long_tasks: 16,
    short_tasks: 800,
};

const FULL: Size = Size {
    lease: Duration::from_secs(15),
    long: Duration::from_secs(150),
    long_tasks: 48,
    short_tasks: 10_000,
};

/// Seconds by which the clock is off, one after the other for the same time each.
const OFFSETS: [i64; 5] = [0, 3_600, 0, -3_600, 0];

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let shim = Shim::build()?;
    let mut stage = Stage::new(stage::redis(&shim.launcher()), plan.seed)?;
    let grace = size.long.as_secs() + 10;
    let launch = stage
        .launch(&stage.redis.url())
        .env("LEASE", format!("{}s", size.lease.as_secs()))
        .env("GRACE", format!("{grace}s"))
        .env("CONCURRENCY", CONCURRENCY);
    let mut crew = Crew::start(launch, Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let long = Trial::new(Act::Sleep(size.long.as_millis() as u64));
    stage.enqueue(vec![long; size.long_tasks]).await?;
    let short = stage.mix(size.short_tasks);
    let feed = stage.feed(stage.client.clone(), short, size.long);
    let mut due = Vec::new();
    for seconds in OFFSETS {
        let from = Moment::now();
        shim.set_clock(seconds)?;
        let at = Utc::now() + DELAY;
        let first = stage.accepted.len();
        let delayed = vec![Trial::new(Act::Go); 5];
        stage.enqueue_with(delayed, |call| call.when = Some(When::At(at))).await?;
        due.extend(stage.accepted[first..].iter().map(|id| (id.clone(), at.timestamp_millis())));
        sleep(size.long / OFFSETS.len() as u32).await;
        if seconds != 0 {
            let until = Moment::now();
            stage.faults.push(Fault { what: "clock", pid: None, from, until, excuses: false });
        }
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    let leases = size.long.as_secs() / size.lease.as_secs();
    report.at_least("leases that a live task has taken", plan.profile.of(2, 10), leases as usize);
    report.exactly("starts again", 0, report.audit.repeated);
    let early = due.iter().filter(|(id, at)| {
        evidence.history.of(Event::Start).any(|line| line.task == *id && line.at.wall < *at)
    });
    report.exactly("delayed tasks that started early", 0, early.count());
    Ok(report)
}
