//! C9: somebody deletes what is in Redis, while tasks wait and run.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rand::Rng;
use redis::{
    aio::MultiplexedConnection,
    cmd, pipe,
    streams::{StreamInfoGroupsReply, StreamRangeReply},
};
use tokio::time::sleep;
use umbel_broker::keys::{GROUP, Shard, Stream};

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::Moment,
    probe::{Act, QUEUE, Trial},
    report::Report,
    stage::{self, Stage},
};

const DRAIN_MAX: Duration = Duration::from_secs(120);

/// How long groups are waited for: far longer than they may take.
const GROUPS_MAX: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(5);

const WORKERS: usize = 3;

/// What waits and runs at each wipe: more than the workers can take at once.
const BACKLOG: usize = 150;

#[derive(Debug, Clone, Copy)]
struct Size {
    rounds: usize,
    between: Duration,
}

const SMOKE: Size = Size { rounds: 1, between: Duration::from_secs(3) };

const FULL: Size = Size { rounds: 10, between: Duration::from_secs(6) };

#[derive(Debug, Clone, Copy)]
enum Wipe {
    FlushAll,
    DelStream,
    DestroyGroup,
    FlushScripts,
}

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::new(stage::redis(&[]), plan.seed)?;
    let mut crew = Crew::start(stage.launch(&stage.redis.url()), Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let before = crew.living();
    let shard = Shard::first(&QUEUE.parse()?);
    let mut redis = stage.connection().await?;
    let (mut taken, mut slowest) = (BTreeSet::new(), Duration::ZERO);
    for _ in 0..size.rounds {
        for wipe in [Wipe::FlushAll, Wipe::DelStream, Wipe::DestroyGroup, Wipe::FlushScripts] {
            let backlog = (0..BACKLOG).map(|_| some(&mut stage)).collect();
            stage.enqueue(backlog).await?;
            // Some have ended by then, some run, some wait for their second attempt.
            sleep(Duration::from_millis(stage.dice.random_range(100..500))).await;
            let from = Moment::now();
            taken.extend(wipe.wipe(&mut redis, &shard).await?);
            slowest = slowest.max(groups_are_back(&mut redis, &shard).await?);
            let until = Moment::now();
            // Whose group was made anew may be handed out again.
            let excuses = matches!(wipe, Wipe::DestroyGroup);
            stage.faults.push(Fault { what: wipe.name(), pid: None, from, until, excuses });
            sleep(size.between).await;
        }
    }
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.at_least("tasks that were there to be wiped out", size.rounds, taken.len());
    let told: BTreeSet<String> = report.audit.taken.iter().cloned().collect();
    let differing = told.symmetric_difference(&taken).count();
    report.exactly("tasks wiped out that the audit does not tell, or tells wrongly", 0, differing);
    let longest = plan.profile.time(Duration::from_secs(1));
    report.within("until all groups were back", longest, Some(slowest.as_millis() as i64));
    report.exactly("starts again without a wipe", 0, report.audit.unexplained.len());
    let gone = before.iter().filter(|pid| !evidence.living.contains(*pid)).count();
    report.exactly("workers that had to be started again", 0, gone);
    Ok(report)
}

/// Short tasks, and some that fail once: they wait for their time.
fn some(stage: &mut Stage) -> Trial {
    match stage.dice.random_range(0..10) {
        0 => Trial::new(Act::Fail(1)),
        _ => Trial::new(Act::Sleep(stage.dice.random_range(20..300))),
    }
}

impl Wipe {
    const fn name(self) -> &'static str {
        match self {
            Self::FlushAll => "FLUSHALL",
            Self::DelStream => "DEL",
            Self::DestroyGroup => "XGROUP DESTROY",
            Self::FlushScripts => "SCRIPT FLUSH",
        }
    }

    /// Wipes, and tells which tasks were there in the moment before.
    async fn wipe(
        self,
        redis: &mut MultiplexedConnection,
        shard: &Shard,
    ) -> anyhow::Result<BTreeSet<String>> {
        let normal = shard.ready(Stream::Normal);
        let mut step = pipe();
        step.atomic();
        let streams = match self {
            Self::FlushAll => Stream::IN_ORDER.map(|stream| shard.ready(stream)).to_vec(),
            Self::DelStream => vec![normal.clone()],
            Self::DestroyGroup | Self::FlushScripts => Vec::new(),
        };
        for stream in &streams {
            step.cmd("XRANGE").arg(stream).arg("-").arg("+");
        }
        match self {
            Self::FlushAll => {
                step.cmd("HKEYS").arg(shard.waiting()).cmd("FLUSHALL").ignore();
            }
            Self::DelStream => {
                step.cmd("DEL").arg(&normal).ignore();
            }
            Self::DestroyGroup => {
                step.cmd("XGROUP").arg("DESTROY").arg(&normal).arg(GROUP).ignore();
            }
            Self::FlushScripts => {
                step.cmd("SCRIPT").arg("FLUSH").ignore();
            }
        }
        let mut answers: Vec<redis::Value> = step.query_async(redis).await?;
        let mut ids = BTreeSet::new();
        if answers.len() > streams.len() {
            let waiting = answers.split_off(streams.len()).remove(0);
            ids.extend(redis::from_redis_value::<Vec<String>>(waiting)?);
        }
        for entries in answers {
            let entries: StreamRangeReply = redis::from_redis_value(entries)?;
            ids.extend(entries.ids.iter().filter_map(|entry| entry.get::<String>("id")));
        }
        Ok(ids)
    }
}

/// How long it takes until every stream has its group.
async fn groups_are_back(
    redis: &mut MultiplexedConnection,
    shard: &Shard,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for stream in Stream::IN_ORDER {
        let ask = cmd("XINFO").arg("GROUPS").arg(shard.ready(stream)).to_owned();
        loop {
            // An error: there is not even the stream.
            let groups: Result<StreamInfoGroupsReply, _> = ask.query_async(redis).await;
            if groups.is_ok_and(|reply| reply.groups.iter().any(|group| group.name == GROUP)) {
                break;
            }
            anyhow::ensure!(began.elapsed() < GROUPS_MAX, "no group after {GROUPS_MAX:?}");
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(began.elapsed())
}
