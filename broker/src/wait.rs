//! A task that was enqueued, and the wait for its result.

use std::{marker::PhantomData, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use umbel_proto::{CodecError, TaskId, TaskState, codec};

use crate::{BrokerError, Client, TaskRecord};

/// The first look comes soon, since many tasks end at once; later looks get rarer.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const RAREST_LOOK: Duration = Duration::from_millis(500);

/// An enqueued task, typed by its output.
#[derive(Debug, Clone)]
pub struct TaskHandle<O> {
    client: Client,
    id: TaskId,
    of: PhantomData<fn() -> O>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The task has not ended in time; it goes on.
    #[error("not ended within {0:?}")]
    TimedOut(Duration),
    /// The task failed for good, was cancelled or expired.
    #[error("the task {state}: {error}")]
    Ended { state: TaskState, error: String },
    /// The output is not of this type.
    #[error("the result is of another type")]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl<O> TaskHandle<O> {
    /// The handle of a task whose id was kept elsewhere.
    pub fn new(client: Client, id: TaskId) -> Self {
        Self { client, id, of: PhantomData }
    }

    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// What is known of the task now; `None` where its end is forgotten, it never existed, or it
    /// is untracked and has not ended.
    pub async fn record(&self) -> Result<Option<TaskRecord>, BrokerError> {
        self.client.task(&self.id).await
    }
}

impl<O: DeserializeOwned> TaskHandle<O> {
    /// Waits for the result of the task, at most `longest`. Of a task that keeps no result
    /// (`result_ttl` zero) no end can be seen.
    pub async fn wait(&self, longest: Duration) -> Result<O, WaitError> {
        let record = self.ended(longest).await?;
        match record.state {
            TaskState::Succeeded => Ok(codec::decode(&record.result.unwrap_or_default())?),
            state => Err(WaitError::Ended { state, error: record.error.unwrap_or_default() }),
        }
    }
}

impl<O> TaskHandle<O> {
    /// Waits for the end of the task, however it ends, as [`wait`](Self::wait) does.
    pub async fn ended(&self, longest: Duration) -> Result<TaskRecord, WaitError> {
        // `None`: so far away that it never comes.
        let deadline = Instant::now().checked_add(longest);
        let mut pause = FIRST_LOOK;
        loop {
            let looked = self.record().await;
            if let Ok(Some(record)) = &looked
                && record.state.has_ended()
            {
                return Ok(record.clone());
            }
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            match looked {
                // The task goes on while Redis is away; only the end of the wait makes it an error.
                Err(error) if left.is_zero() || !error.is_transient() => return Err(error.into()),
                _ if left.is_zero() => return Err(WaitError::TimedOut(longest)),
                _ => {}
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(RAREST_LOOK);
        }
    }
}
