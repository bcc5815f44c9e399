//! What a handler may ask of its surroundings.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use umbel_broker::{Acquired, BrokerError, Client, LimitRules, Permit, limit};
use umbel_proto::{TaskId, TaskName};

use crate::{TaskError, TaskResult, cancels::Wanted};

/// How long a task waits that could not ask for its permit.
const LIMIT_UNKNOWN: Duration = Duration::from_secs(1);

/// One run of one task.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: TaskId,
    pub task: TaskName,
    /// The first attempt is 1.
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued: DateTime<Utc>,
    /// Whose task it is, where it came in over HTTP or was enqueued for somebody.
    pub owner: Option<Arc<str>>,
    pub(crate) client: Client,
    pub(crate) worker: Arc<str>,
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) told: Told,
}

/// When a run last told how far it is.
pub(crate) type Told = Arc<Mutex<Option<Instant>>>;

/// A run tells how far it is at most so often; what it says in between is passed over.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Why a progress was not noted.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    #[error("the progress is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("the progress was not noted")]
    Broker(#[from] BrokerError),
}

/// A run, with the application's state.
#[derive(Debug)]
pub struct Context<S> {
    app: S,
    run: Run,
}

impl<S> Context<S> {
    pub(crate) fn new(app: S, run: Run) -> Self {
        Self { app, run }
    }

    /// The application's state.
    pub fn app(&self) -> &S {
        &self.app
    }

    /// The task's id: the same in every attempt.
    pub fn task_id(&self) -> &TaskId {
        &self.run.id
    }

    /// What is known of this run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether a failure of this attempt is the last one.
    pub fn is_last_attempt(&self) -> bool {
        self.run.attempt >= self.run.max_attempts
    }

    /// Enqueues further tasks.
    pub fn client(&self) -> &Client {
        &self.run.client
    }

    /// Notes how far this run is, for whoever asks about the task: anything that becomes JSON of at
    /// most 4 KiB. Ten times a second at most; what comes in between is passed over, and so is
    /// everything of an untracked task. Whether it was noted.
    pub async fn progress(
        &self,
        progress: &(impl Serialize + Sync),
    ) -> Result<bool, ProgressError> {
        let is_early = {
            let mut told = self.run.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_early = told.is_some_and(|last| last.elapsed() < TELL_EVERY);
            if !is_early {
                *told = Some(Instant::now());
            }
            is_early
        };
        if is_early {
            return Ok(false);
        }
        let Run { id, worker, attempt, client, .. } = &self.run;
        let json = serde_json::to_string(progress)?;
        Ok(client.progress(id, worker, *attempt, &json).await?)
    }

    /// Is cancelled when this run should come to its end soon: the worker stops, and what has not
    /// ended by the end of the grace time runs again elsewhere; or somebody has cancelled the task,
    /// and it is ended ten seconds later.
    pub fn cancelled(&self) -> &CancellationToken {
        self.run.wanted.token()
    }

    /// A place under `key` of the limit `name`, which all workers share; it is given back when the
    /// permit is dropped. See [`Client::acquire`] for what names, keys and rules may be.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use umbel_broker::LimitRules;
    /// # use umbel_worker::{Context, TaskResult};
    /// const POLITE: LimitRules = LimitRules::new().at_once(2).every(Duration::from_millis(500));
    ///
    /// # async fn run(ctx: &Context<()>, host: &str) -> TaskResult<()> {
    /// let _permit = ctx.limit("host", host, &POLITE).await?;
    /// // At most two tasks are here at once for this host, half a second apart.
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Where there is no room now, or Redis cannot be asked, a snooze: by `?` the same attempt runs
    /// again when there may be. A name, key or rule that cannot be is fatal.
    pub async fn limit(&self, name: &str, key: &str, rules: &LimitRules) -> TaskResult<Permit> {
        match self.client().acquire(name, key, rules).await {
            Ok(Acquired::Granted(permit)) => Ok(permit),
            Ok(Acquired::NotBefore(at)) => {
                let delay = at.saturating_duration_since(Instant::now());
                Err(TaskError::snooze_for(delay, limit::no_room(name, key)))
            }
            Err(error) if error.is_transient() => Err(TaskError::snooze(LIMIT_UNKNOWN)),
            Err(error) => Err(TaskError::fatal(error)),
        }
    }
}
