//! C8: Redis is full, or cannot write to its disk.

use std::{
    fs,
    time::{Duration, Instant},
};

use redis::{aio::MultiplexedConnection, cmd};
use tokio::time::sleep;
use umbel_broker::{BrokerError, NewTask};

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::Moment,
    probe::{Act, Trial},
    report::Report,
    shim::Shim,
    stage::{self, Stage},
};

const DRAIN_MAX: Duration = Duration::from_secs(120);

/// How long Redis may take to notice its trouble, and that it is over.
const NOTICE_MAX: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(50);

const WORKERS: usize = 3;

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    rounds: usize,
    lasting: Duration,
    between: Duration,
}

const SMOKE: Size = Size {
    tasks: 1_500,
    rounds: 1,
    lasting: Duration::from_secs(4),
    between: Duration::from_secs(2),
};

const FULL: Size = Size {
    tasks: 40_000,
    rounds: 3,
    lasting: Duration::from_secs(20),
    between: Duration::from_secs(5),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Its memory is full: new tasks are refused, what runs ends.
    Memory,
    /// It cannot save, and refuses every write.
    Saving,
    /// It cannot write its append-only file, and refuses every write.
    Appending,
}

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let shim = Shim::build()?;
    let mut stage = Stage::new(stage::redis(&shim.launcher()), plan.seed)?;
    let mut crew = Crew::start(stage.launch(&stage.redis.url()), Keeping::Alone, WORKERS);
    stage.ready(&crew).await?;
    let before = crew.living();
    let trials = stage.mix(size.tasks);
    let round = (size.lasting + size.between) * 3;
    let feed = stage.feed(stage.client.clone(), trials, round * size.rounds as u32);
    let (mut drained, mut refused) = (0, 0);
    for _ in 0..size.rounds {
        for trouble in [Trouble::Memory, Trouble::Saving, Trouble::Appending] {
            sleep(size.between).await;
            let from = Moment::now();
            trouble.begin(&stage, &shim).await?;
            let began = Instant::now();
            refused += usize::from(is_refused(&stage).await);
            if trouble == Trouble::Memory {
                drained += usize::from(stage.drained(DRAIN_MAX).await);
            }
            sleep(size.lasting.saturating_sub(began.elapsed())).await;
            trouble.end(&stage, &shim).await?;
            let until = Moment::now();
            stage.faults.push(Fault { what: "refusal", pid: None, from, until, excuses: false });
        }
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.exactly("times new tasks were refused", 3 * size.rounds, refused);
    report.exactly("times a full Redis was drained", size.rounds, drained);
    report.exactly("starts again", 0, report.audit.repeated);
    let gone = before.iter().filter(|pid| !evidence.living.contains(*pid)).count();
    report.exactly("workers that had to be started again", 0, gone);
    Ok(report)
}

/// Whether a new task is refused in a way that says: later.
async fn is_refused(stage: &Stage) -> bool {
    let Ok(new) = NewTask::of(&Trial::new(Act::Go)) else { return false };
    matches!(stage.client.submit(new).await, Err(BrokerError::Refused(_)))
}

impl Trouble {
    async fn begin(self, stage: &Stage, shim: &Shim) -> anyhow::Result<()> {
        let mut redis = stage.connection().await?;
        match self {
            Self::Memory => set(&mut redis, "maxmemory", "1").await?,
            Self::Saving => {
                // A folder stands where the file is to be.
                fs::create_dir(stage.redis.dir().join("dump.rdb"))?;
                set(&mut redis, "save", "1 1").await?;
            }
            Self::Appending => shim.fill_disk(true)?,
        }
        stage.until("redis refuses", NOTICE_MAX, async || self.shows(&mut redis).await).await
    }

    async fn end(self, stage: &Stage, shim: &Shim) -> anyhow::Result<()> {
        let mut redis = stage.connection().await?;
        match self {
            Self::Memory => set(&mut redis, "maxmemory", "0").await?,
            Self::Saving => {
                set(&mut redis, "save", "").await?;
                fs::remove_dir(stage.redis.dir().join("dump.rdb"))?;
            }
            Self::Appending => shim.fill_disk(false)?,
        }
        stage.until("redis is well", NOTICE_MAX, async || !self.shows(&mut redis).await).await
    }

    /// Whether Redis refuses a write of ours now.
    async fn shows(self, redis: &mut MultiplexedConnection) -> bool {
        let write = cmd("SET").arg("chaos:write").arg(1).to_owned();
        let answer: redis::RedisResult<()> = write.query_async(redis).await;
        let code = answer.as_ref().err().and_then(|error| error.code());
        matches!(code, Some("OOM" | "MISCONF"))
    }
}

async fn set(redis: &mut MultiplexedConnection, name: &str, value: &str) -> anyhow::Result<()> {
    // Asked again while Redis cannot: a full disk may refuse what would help.
    let began = Instant::now();
    loop {
        let set = cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
        match set.query_async::<()>(redis).await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > NOTICE_MAX => return Err(error.into()),
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}
