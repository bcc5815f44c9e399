//! C10: a few tasks that end their process, among many that are innocent.

use std::{collections::BTreeSet, time::Duration};

use rand::Rng;

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::Event,
    probe::{Act, Trial},
    report::Report,
    stage::Stage,
};

/// A poison dies three times, and each time its worker is started again later.
const DRAIN_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    poison: usize,
    workers: usize,
    concurrency: usize,
}

const SMOKE: Size = Size { tasks: 1_000, poison: 2, workers: 3, concurrency: 16 };

const FULL: Size = Size { tasks: 20_000, poison: 5, workers: 4, concurrency: 32 };

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::with_database(plan.seed)?;
    let launch = stage.launch(&stage.redis.url()).env("CONCURRENCY", size.concurrency);
    let mut crew = Crew::start(launch, Keeping::Supervised, size.workers);
    stage.ready(&crew).await?;
    let mut trials = stage.mix(size.tasks);
    let mut places = BTreeSet::new();
    while places.len() < size.poison {
        places.insert(stage.dice.random_range(0..size.tasks));
    }
    for place in &places {
        trials[*place] = Trial::new(Act::Abort);
    }
    stage.enqueue(trials).await?;
    let poison: BTreeSet<String> =
        places.iter().map(|place| stage.accepted[*place].to_string()).collect();
    stage.drained(DRAIN_MAX).await;
    // Each start of a poison is the death of a process.
    let history = stage.history()?;
    let deaths = history.of(Event::Start).filter(|line| poison.contains(line.task.as_str()));
    stage.faults = deaths.map(|line| Fault::kill(line.pid, line.at)).collect();
    stage
        .until("all workers are back", DRAIN_MAX, async || crew.living().len() == crew.len())
        .await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, size.poison);
    let crashed = |id: &&String| report.audit.dead.get(*id).is_some_and(|why| why == "crash");
    let buried = poison.iter().filter(crashed).count();
    let innocents = report.audit.dead.keys().filter(|id| !poison.contains(*id)).count();
    report.exactly("poison that was buried as such", size.poison, buried);
    report.exactly("innocents that were buried", 0, innocents);
    report.at_most("deaths", 3 * size.poison, report.audit.faults);
    report.exactly("double effects", 0, report.audit.double_effects);
    Ok(report)
}
