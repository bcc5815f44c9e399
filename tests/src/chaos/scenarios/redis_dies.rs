//! C4: Redis is killed and comes back with what its append-only file has.

use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::Moment,
    report::Report,
    stage::Stage,
};

const DRAIN_MAX: Duration = Duration::from_secs(120);

const WORKERS: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    kills: usize,
    /// Between a return and the next kill.
    between: Duration,
}

const SMOKE: Size = Size { tasks: 2_000, kills: 3, between: Duration::from_secs(4) };

const FULL: Size = Size { tasks: 60_000, kills: 30, between: Duration::from_secs(5) };

/// What a kill, up to 1.5 s of absence and the start take together.
const OUTAGE: Duration = Duration::from_secs(2);

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::with_database(plan.seed)?;
    let launch = stage.launch(&stage.redis.url());
    let mut crew = Crew::start(launch, Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let before = crew.living();
    let trials = stage.mix(size.tasks);
    // Beyond the last kill: without work nothing can complete after it.
    let over = (size.between + OUTAGE) * (size.kills as u32 + 1);
    let feed = stage.feed(stage.client.clone(), trials, over);
    for _ in 0..size.kills {
        sleep(size.between).await;
        let from = Moment::now();
        stage.redis.kill9();
        sleep(Duration::from_millis(stage.dice.random_range(0..1_500))).await;
        stage.redis.restart();
        let until = Moment::now();
        let what = "kill -9 of redis";
        stage.faults.push(Fault { what, pid: None, from, until, excuses: false });
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.exactly("kills of redis", size.kills, report.audit.faults);
    let mut ends: Vec<i64> =
        evidence.ledger.stories.values().flat_map(|story| &story.ends).map(|end| end.at).collect();
    ends.sort_unstable();
    // From the moment when it serves again to the first completion that it accepts.
    let waits = evidence.faults.iter().map(|fault| {
        let serves = fault.until.wall;
        ends.iter().find(|end| **end >= serves).map_or(i64::MAX, |end| end - serves)
    });
    let longest = plan.profile.time(Duration::from_secs(3));
    report.within("first completion once it serves", longest, waits.max());
    let gone = before.iter().filter(|pid| !evidence.living.contains(*pid)).count();
    report.exactly("workers that had to be started again", 0, gone);
    report.exactly("double effects", 0, report.audit.double_effects);
    Ok(report)
}
