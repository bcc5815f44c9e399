//! What a handler may ask of its surroundings.

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use umbel_broker::Client;
use umbel_proto::{TaskId, TaskName};

/// One run of one task.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: TaskId,
    pub task: TaskName,
    /// The first attempt is 1.
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued: DateTime<Utc>,
    pub(crate) client: Client,
    pub(crate) cancelled: CancellationToken,
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

    /// Is cancelled when the worker stops and this run should come to its end soon; what has not
    /// ended by the end of the grace time runs again elsewhere.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.run.cancelled
    }
}
