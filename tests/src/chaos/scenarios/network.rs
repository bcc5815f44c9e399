//! C7: what lies between workers and Redis delays, cuts, resets and falls silent.

use std::time::Duration;

use rand::Rng;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};
use umbel_broker::{BrokerSettings, Client};

use super::Plan;
use crate::{
    chaos::{
        crew::{Crew, Keeping},
        faults::Fault,
        ghosts::Ghosts,
        history::Moment,
        probe::{Act, Trial},
        report::Report,
        stage::Stage,
    },
    proxy::{Proxy, Way},
};

const DRAIN_MAX: Duration = Duration::from_secs(120);

const WORKERS: usize = 4;

/// Half of the latency on each way.
const LATENCY: Duration = Duration::from_millis(500);

/// Of all chunks of bytes.
const RESET_CHANCE: f64 = 0.01;

const CUT_EVERY: Duration = Duration::from_millis(150);

/// Cuts fall within short answers and within long ones.
const CUT_WITHIN: usize = 300;

/// After a silence: a read that lasts 5 s, its margin of 2 s, and what a new connection takes.
const AFTER_SILENCE: Duration = Duration::from_secs(10);

/// How long workers may take until they all read again.
const CONNECTED_MAX: Duration = Duration::from_secs(30);

/// How many tasks come in while all workers are deaf.
const GHOSTS: usize = 16;

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Latency,
    Cuts,
    Resets,
    HalfOpen,
    Away,
}

const IN_ORDER: [Trouble; 5] =
    [Trouble::Latency, Trouble::Cuts, Trouble::Resets, Trouble::HalfOpen, Trouble::Away];

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    rounds: usize,
    /// How long each trouble lasts.
    lasting: Duration,
}

const SMOKE: Size = Size { tasks: 2_000, rounds: 1, lasting: Duration::from_secs(4) };

const FULL: Size = Size { tasks: 40_000, rounds: 4, lasting: Duration::from_secs(8) };

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::with_database(plan.seed)?;
    // One for the workers, one for who enqueues.
    let mut lines = [
        Proxy::start(stage.redis.port(), plan.seed).await,
        Proxy::start(stage.redis.port(), plan.seed.wrapping_add(1)).await,
    ];
    let mut crew = Crew::start(stage.launch(&lines[0].url()), Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let before = crew.living();
    let outside = Client::open(&BrokerSettings::new(lines[1].url()), "outside")?;
    let trials = stage.mix(size.tasks);
    let round = size.lasting * IN_ORDER.len() as u32 + AFTER_SILENCE;
    let feed = stage.feed(outside, trials, round * size.rounds as u32);
    for _ in 0..size.rounds {
        for trouble in IN_ORDER {
            let from = Moment::now();
            suffer(trouble, &mut lines, &mut stage, size.lasting).await?;
            let until = Moment::now();
            let what = trouble.name();
            stage.faults.push(Fault { what, pid: None, from, until, excuses: false });
            sleep(trouble.rest()).await;
        }
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    let (keys, tasks) = (evidence.accepted.len(), evidence.ledger.stories.len());
    report.exactly("tasks enqueued for as many keys", keys, tasks);
    let ghosts = Ghosts::of(&evidence, |fault| Trouble::is_silence(fault.what));
    report.at_least("tasks lost on their way to a worker", 1, ghosts.count);
    let longest = plan.profile.time(Duration::from_secs(10));
    report.within("until such a task was found, the line being well", longest, ghosts.slowest);
    report.exactly("starts again", 0, report.audit.repeated);
    let gone = before.iter().filter(|pid| !evidence.living.contains(*pid)).count();
    report.exactly("workers that had to be started again", 0, gone);
    report.exactly("double effects", 0, report.audit.double_effects);
    Ok(report)
}

impl Trouble {
    const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Cuts => "cuts",
            Self::Resets => "resets",
            Self::HalfOpen => "half-open",
            Self::Away => "away",
        }
    }

    /// Whether nothing passes while it lasts.
    fn is_silence(name: &str) -> bool {
        [Self::HalfOpen.name(), Self::Away.name()].contains(&name)
    }

    /// How long the line is well after it.
    const fn rest(self) -> Duration {
        match self {
            Self::HalfOpen => AFTER_SILENCE,
            _ => Duration::from_secs(1),
        }
    }
}

/// How many clients are blocked in a read.
async fn readers(redis: &mut MultiplexedConnection) -> redis::RedisResult<usize> {
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(redis).await?;
    Ok(clients.lines().filter(|line| line.contains(" flags=b ")).count())
}

/// Lets one trouble last, and ends it.
async fn suffer(
    trouble: Trouble,
    lines: &mut [Proxy; 2],
    stage: &mut Stage,
    lasting: Duration,
) -> anyhow::Result<()> {
    for line in lines.iter_mut() {
        match trouble {
            Trouble::Latency => {
                line.delay(Way::ToServer, LATENCY / 2);
                line.delay(Way::ToClient, LATENCY / 2);
            }
            Trouble::Cuts | Trouble::HalfOpen => {}
            Trouble::Resets => line.reset_sometimes(RESET_CHANCE),
            Trouble::Away => {
                line.stop_listening().await;
                line.reset_all();
            }
        }
    }
    if matches!(trouble, Trouble::HalfOpen) {
        // Some may still wait before they connect again.
        let mut redis = stage.connection().await?;
        let all_read = async || readers(&mut redis).await.is_ok_and(|count| count == WORKERS);
        stage.until("every worker reads", CONNECTED_MAX, all_read).await?;
        let [workers, outside] = &*lines;
        workers.half_open();
        outside.swallow(Way::ToClient);
        // Handed to readers that never hear of them.
        stage.enqueue(vec![Trial::new(Act::Go); GHOSTS]).await?;
    }
    let began = Instant::now();
    while began.elapsed() < lasting {
        sleep(CUT_EVERY).await;
        if matches!(trouble, Trouble::Cuts) {
            for line in lines.iter() {
                line.cut_next_reply(stage.dice.random_range(0..CUT_WITHIN));
            }
        }
    }
    for line in lines {
        line.heal();
        if matches!(trouble, Trouble::Away) {
            line.listen().await;
        }
    }
    Ok(())
}
