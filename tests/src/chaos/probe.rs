//! The application whose processes are harmed: one task, which does as its arguments say and
//! writes down what it did.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::sleep};
use umbel::{
    Application, Context, Db, Env, Handler, LimitRules, Migration, Registry, RegistryError,
    RetryPolicy, Setting, Setup, StoreError, Task, TaskError, TaskOptions, TaskResult,
};
use uuid::Uuid;

use super::history::{Event, Pen};

/// The queue of the task.
pub const QUEUE: &str = "chaos";

/// A limit with one place, by name and key.
pub const PLACE: (&str, &str) = ("probe", "the-one");
pub const ONE_PLACE: LimitRules = LimitRules::new().at_once(1).lease(Duration::from_secs(2));

/// Names the file that runs are written to; without it they are written nowhere.
pub const HISTORY: &str = "UMBEL_PROBE_HISTORY";

/// Set: the task is registered twice, a defect that no restart mends.
pub const TWICE: &str = "UMBEL_PROBE_TWICE";

const SETTINGS: &[Setting] = &[
    Setting::new(HISTORY, "what the runs are written to", "file"),
    Setting::new(TWICE, "registers the task twice", "anything"),
];

const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "effects",
    // Without a key: what happens twice must be seen twice.
    sql: "create table effects (task_id text not null, token text not null)",
}];

/// A sleep of so many milliseconds is told apart in the history.
const LONG_MS: u64 = 5_000;

/// Between its commit and its abort a trial is the only one of its process that means to abort: so
/// each of them dies once, and none is taken along before it has written down its effect.
static ABORTING: Mutex<()> = Mutex::const_new(());

/// What a trial does before its effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// Nothing.
    Go,
    /// Waits so many milliseconds.
    Sleep(u64),
    /// Fails in so many attempts.
    Fail(u32),
    /// Blocks its thread for so many milliseconds.
    Block(u64),
    /// Aborts the process.
    Abort,
    /// Ends the process with this code.
    Exit(i32),
    /// Aborts the process once its effect is committed, the first time.
    AbortAfterEffect,
    /// Takes the one place of [`PLACE`] for so many milliseconds.
    Permit(u64),
    /// Panics.
    Panic,
    /// Takes memory, MiB after MiB, until it has so many.
    Hog(usize),
    /// Starts a program whose parent ends at once, so many times; each goes on for a moment.
    Orphans(u32),
}

impl Act {
    /// What a start is noted with.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Sleep(ms) if *ms >= LONG_MS => "long",
            Self::Sleep(_) => "sleep",
            Self::Fail(_) => "fail",
            Self::Block(_) => "block",
            Self::Abort => "abort",
            Self::Exit(_) => "exit",
            Self::AbortAfterEffect => "abort-after-effect",
            Self::Permit(_) => "permit",
            Self::Panic => "panic",
            Self::Hog(_) => "hog",
            Self::Orphans(_) => "orphans",
        }
    }
}

/// The task. Where there is a database it ends with one row in `effects`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    pub act: Act,
    /// As long as it is to be.
    #[serde(default)]
    pub payload: String,
}

impl Trial {
    pub fn new(act: Act) -> Self {
        Self { act, payload: String::new() }
    }

    pub fn with_payload(bytes: usize) -> Self {
        Self { act: Act::Go, payload: "x".repeat(bytes) }
    }
}

impl Task for Trial {
    const NAME: &'static str = "trial";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT
        .queue(QUEUE)
        // An outage of the database spends attempts; this many outlive it.
        .max_attempts(50)
        .retry(RetryPolicy::exponential(Duration::from_millis(200), Duration::from_secs(1)))
        .over_http();
    /// The attempt that succeeded.
    type Output = u32;
}

/// What the runs of a process share.
#[derive(Debug, Clone)]
pub struct Desk {
    pen: Option<Arc<Pen>>,
    db: Option<Db>,
}

impl Desk {
    async fn open(setup: Setup) -> anyhow::Result<Self> {
        let pen = setup.env.get(HISTORY).map(|path| Pen::open(Path::new(path))).transpose()?;
        Ok(Self { pen: pen.map(Arc::new), db: setup.db().ok() })
    }

    fn write(&self, event: Event, ctx: &Context<Self>, note: Option<&str>) -> std::io::Result<()> {
        match &self.pen {
            Some(pen) => pen.write(event, ctx.task_id(), ctx.run().attempt, note),
            None => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct Effect<'a> {
    task_id: &'a str,
    token: Uuid,
}

impl Handler<Desk> for Trial {
    async fn run(self, ctx: &Context<Desk>) -> TaskResult<u32> {
        let desk = ctx.app();
        desk.write(Event::Start, ctx, Some(self.act.name()))?;
        let done = self.act(ctx).await;
        desk.write(Event::End, ctx, Some(if done.is_ok() { "done" } else { "failed" }))?;
        done
    }
}

impl Trial {
    async fn act(self, ctx: &Context<Desk>) -> TaskResult<u32> {
        let attempt = ctx.run().attempt;
        match &self.act {
            Act::Go | Act::AbortAfterEffect => {}
            Act::Sleep(ms) => sleep(Duration::from_millis(*ms)).await,
            Act::Fail(times) if attempt <= *times => return Err(TaskError::from("not yet")),
            Act::Fail(_) => {}
            Act::Block(ms) => std::thread::sleep(Duration::from_millis(*ms)),
            Act::Abort => std::process::abort(),
            Act::Exit(code) => std::process::exit(*code),
            Act::Panic => panic!("in two\nlines"),
            Act::Hog(mib) => {
                let mut held = Vec::new();
                for _ in 0..*mib {
                    held.push(vec![1_u8; 1 << 20]);
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Act::Orphans(count) => {
                for _ in 0..*count {
                    let parent = Command::new("sh").args(["-c", "sleep 1 &"]).status()?;
                    assert!(parent.success(), "{parent}");
                }
            }
            Act::Permit(ms) => {
                let (name, key) = PLACE;
                let _permit = ctx.limit(name, key, &ONE_PLACE).await?;
                sleep(Duration::from_millis(*ms)).await;
            }
        }
        if let Some(db) = &ctx.app().db {
            let _alone = match self.act {
                Act::AbortAfterEffect => Some(ABORTING.lock().await),
                _ => None,
            };
            let mut is_first = false;
            let token = effect(db, ctx, &mut is_first).await?;
            ctx.app().write(Event::Effect, ctx, Some(&token.simple().to_string()))?;
            if is_first && self.act == Act::AbortAfterEffect {
                std::process::abort();
            }
        }
        Ok(attempt)
    }
}

/// Has the effect once, and returns the token of the run that had it; whether it was this one.
async fn effect(db: &Db, ctx: &Context<Desk>, is_first: &mut bool) -> Result<Uuid, StoreError> {
    let task = ctx.task_id();
    db.once(task, "effect", async |tx| {
        let effect = Effect { task_id: task.as_str(), token: Uuid::new_v4() };
        tx.execute(
            "with p as materialized (select {params} as j)
             insert into effects select j->>'task_id', j->>'token' from p",
            &effect,
        )
        .await?;
        *is_first = true;
        Ok(effect.token)
    })
    .await
}

/// The application; with tables where a database is given.
pub fn application() -> Application<Desk> {
    let probe = Application::new("probe").state(Desk::open).registry(registry).settings(SETTINGS);
    match Env::of_process().get("DATABASE_URL") {
        Some(_) => probe.migrations(MIGRATIONS),
        None => probe,
    }
}

fn registry() -> Result<Registry<Desk>, RegistryError> {
    let registry = Registry::builder().register::<Trial>();
    match Env::of_process().get(TWICE) {
        Some(_) => registry.register::<Trial>().build(),
        None => registry.build(),
    }
}
