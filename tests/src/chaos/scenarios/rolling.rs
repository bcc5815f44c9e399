//! C12: workers are replaced one by one while they work, the new one before the old one goes.

use std::time::Duration;

use tokio::time::sleep;

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::Moment,
    probe::Act,
    report::Report,
    stage::Stage,
};

const DRAIN_MAX: Duration = Duration::from_secs(120);

const WORKERS: usize = 3;

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    replaced: usize,
    every: Duration,
}

const SMOKE: Size = Size { tasks: 2_000, replaced: 4, every: Duration::from_secs(4) };

const FULL: Size = Size { tasks: 60_000, replaced: 15, every: Duration::from_secs(10) };

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::with_database(plan.seed)?;
    let mut crew = Crew::start(stage.launch(&stage.redis.url()), Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let trials = stage.mix(size.tasks);
    let fails = trials.iter().filter(|trial| matches!(trial.act, Act::Fail(_))).count();
    let over = size.every * size.replaced as u32;
    let feed = stage.feed(stage.client.clone(), trials, over);
    let mut well = 0;
    for _ in 0..size.replaced {
        sleep(size.every).await;
        let from = Moment::now();
        crew.hire();
        stage.ready(&crew).await?;
        well += usize::from(crew.retire_first().await);
        let until = Moment::now();
        stage.faults.push(Fault { what: "SIGTERM", pid: None, from, until, excuses: false });
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.exactly("workers that ended well when asked", size.replaced, well);
    report.exactly("starts again", 0, report.audit.repeated);
    report.exactly(
        "second attempts, beside those of tasks that fail once",
        fails,
        report.audit.retries,
    );
    report.exactly("double effects", 0, report.audit.double_effects);
    Ok(report)
}
