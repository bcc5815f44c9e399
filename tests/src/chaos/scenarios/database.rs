//! C13: Postgres and its pooler are killed, restarted and frozen under load; and workers die between
//! the commit of an effect and the word that its task is done.

use std::{collections::HashSet, time::Duration};

use nix::sys::signal::Signal;
use rand::Rng;
use tokio::time::sleep;

use super::Plan;
use crate::{
    chaos::{
        crew::{Crew, Keeping},
        faults::Fault,
        history::{Event, Moment},
        probe::{Act, Trial},
        report::Report,
        stage::Stage,
    },
    process::send,
};

const DRAIN_MAX: Duration = Duration::from_secs(300);

const WORKERS: usize = 4;

/// How long the database works between two troubles.
const BETWEEN: Duration = Duration::from_secs(3);

/// How long one lasts at most.
const TROUBLE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// `kill -9` of the pooler.
    Pooler,
    /// `kill -9` of Postgres.
    Postgres,
    /// Postgres ends as on a restart by its operator.
    Restart,
    /// The pooler takes and answers nothing.
    Frozen,
}

const IN_TURN: [Trouble; 4] =
    [Trouble::Pooler, Trouble::Postgres, Trouble::Restart, Trouble::Frozen];

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    rounds: usize,
}

const SMOKE: Size = Size { tasks: 1_000, rounds: 1 };

const FULL: Size = Size { tasks: 40_000, rounds: 6 };

pub async fn restarted(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::with_a_database_of_its_own(plan.seed)?;
    let launch = stage.launch(&stage.redis.url()).env("DATABASE_ACQUIRE_TIMEOUT", "2s");
    let mut crew = Crew::start(launch, Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let before = crew.living();
    let trials = stage.mix(size.tasks);
    let troubles = IN_TURN.len() * size.rounds;
    let over = (BETWEEN + TROUBLE_MAX) * troubles as u32;
    let feed = stage.feed(stage.client.clone(), trials, over);
    for n in 0..troubles {
        sleep(BETWEEN).await;
        let lasting = TROUBLE_MAX.mul_f64(stage.dice.random_range(0.3..1.0));
        let from = Moment::now();
        let what = suffer(IN_TURN[n % IN_TURN.len()], &stage, lasting).await?;
        let until = Moment::now();
        stage.faults.push(Fault { what, pid: None, from, until, excuses: false });
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    let gone = before.iter().filter(|pid| !evidence.living.contains(*pid)).count();
    report.exactly("workers that had to be started again", 0, gone);
    report.exactly("starts again", 0, report.audit.repeated);
    report.exactly("double effects", 0, report.audit.double_effects);
    report.at_least("attempts that the trouble spent", 1, report.audit.retries);
    Ok(report)
}

async fn suffer(
    trouble: Trouble,
    stage: &Stage,
    lasting: Duration,
) -> anyhow::Result<&'static str> {
    let (pooler, server) = stage.database()?;
    Ok(match trouble {
        Trouble::Pooler => {
            pooler.kill9();
            sleep(lasting).await;
            pooler.restart();
            "kill -9 of the pooler"
        }
        Trouble::Postgres => {
            server.kill9();
            sleep(lasting).await;
            server.restart();
            "kill -9 of postgres"
        }
        Trouble::Restart => {
            server.stop();
            sleep(lasting).await;
            server.restart();
            "restart of postgres"
        }
        Trouble::Frozen => {
            send(pooler.pid(), Signal::SIGSTOP);
            sleep(lasting).await;
            send(pooler.pid(), Signal::SIGCONT);
            "freeze of the pooler"
        }
    })
}

/// How many tasks kill their worker once, each after its effect was committed.
const DEATHS: [usize; 2] = [6, 120];

pub async fn unsaid(plan: Plan) -> anyhow::Result<Report> {
    let [smoke, full] = DEATHS;
    let deaths = plan.profile.of(smoke, full);
    let mut stage = Stage::with_database(plan.seed)?;
    // Each death is charged to all that was there; nobody is the culprit of all.
    let launch = stage.launch(&stage.redis.url()).env("CRASH_LIMIT", 1_000).env("CONCURRENCY", 2);
    let mut crew = Crew::start(launch, Keeping::Supervised, WORKERS);
    stage.ready(&crew).await?;
    let innocents = stage.mix(deaths * 10);
    stage.enqueue(innocents).await?;
    let mortal = vec![Trial::new(Act::AbortAfterEffect); deaths];
    stage.enqueue(mortal).await?;
    stage.drained(DRAIN_MAX).await;
    let history = stage.history()?;
    let ended: HashSet<_> =
        history.of(Event::End).map(|line| (&line.task, line.pid, line.attempt)).collect();
    let unsaid = history
        .of(Event::Effect)
        .filter(|line| !ended.contains(&(&line.task, line.pid, line.attempt)));
    stage.faults = unsaid.map(|line| Fault::kill(line.pid, line.at)).collect();
    stage
        .until("all workers are back", DRAIN_MAX, async || crew.living().len() == crew.len())
        .await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.at_least("deaths between commit and word", deaths, report.audit.faults);
    let effects = evidence.effects.as_ref().map_or(0, Vec::len);
    report.exactly("rows for as many tasks", report.audit.tasks, effects);
    report.exactly("double effects", 0, report.audit.double_effects);
    Ok(report)
}
