//! What is asked of a task after it was enqueued: to come to its end, and how far it is.

use std::time::Duration;

use umbel_proto::{TaskId, TaskState};

use crate::{
    BrokerError, Client,
    keys::{self, Shard},
    new_task::OWNER_LONGEST,
    script,
};

/// How long a worker is told of a task that it runs and somebody wants ended: many beats, and a
/// restart of Redis. The mark on the task itself stays as long as its record.
const TOLD_FOR: Duration = Duration::from_secs(10 * 60);

/// The longest progress, as JSON: it stands in Redis beside the task's states.
pub const PROGRESS_LONGEST: usize = 4 * 1024;

/// What a cancel met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// The task waits; it ends as cancelled without being started.
    Waiting,
    /// A worker runs it and is asked to end it, within a few seconds.
    Running,
    /// It had ended before.
    Ended(TaskState),
}

impl Client {
    /// Asks for the end of a tracked task, in the name of `by` (at most 1 KiB). What waits
    /// never starts any more; what runs gets its token cancelled. `None`: nothing is known of it,
    /// so that it never existed, is untracked, or its end is forgotten.
    pub async fn cancel(&self, id: &TaskId, by: &str) -> Result<Option<Cancel>, BrokerError> {
        if by.len() > OWNER_LONGEST {
            return Err(BrokerError::Owner);
        }
        let shard = Shard::of(id);
        let mut call = script::of_shard(&self.scripts().cancel, &shard);
        call.key(shard.delayed()).key(shard.waiting()).key(shard.parked());
        call.arg(shard.prefix()).arg(id.as_str()).arg(by);
        let answer: Vec<String> = self.call(&call).await?;
        let [state, worker] = answer.as_slice() else { return Ok(None) };
        let state: TaskState = state.parse().map_err(|error| {
            BrokerError::Unexpected(format!("the record of task {id} has no state: {error}"))
        })?;
        if state.has_ended() {
            return Ok(Some(Cancel::Ended(state)));
        }
        if worker.is_empty() {
            return Ok(Some(Cancel::Waiting));
        }
        let key = keys::asked(worker);
        let mut tell = redis::pipe();
        tell.hset(&key, id.as_str(), by).ignore();
        tell.expire(&key, TOLD_FOR.as_secs() as i64).ignore();
        self.pipeline::<()>(&tell).await?;
        Ok(Some(Cancel::Running))
    }

    /// Notes how far the run of a tracked task is, as JSON of at most 4 KiB. `false`: this is not
    /// the run that its record tells of, any more or at all.
    pub async fn progress(
        &self,
        id: &TaskId,
        worker: &str,
        attempt: u32,
        progress: &str,
    ) -> Result<bool, BrokerError> {
        if progress.len() > PROGRESS_LONGEST {
            return Err(BrokerError::Progress);
        }
        let mut call = self.scripts().progress.key(Shard::of(id).task(id));
        call.arg(worker).arg(attempt).arg(progress);
        self.call(&call).await
    }
}
