//! How a task runs: the trait that an application implements, and the four words of its answer.

use std::{error::Error, fmt, time::Duration};

use umbel_proto::Task;

use crate::Context;

/// Runs a task. `S` is the application's state, the same for all of its handlers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no handler for the state `{S}`",
    note = "implement `Handler<{S}>` for it: `async fn run(self, ctx: &Context<{S}>) -> TaskResult<…>`"
)]
pub trait Handler<S>: Task {
    /// Does the work. It may run more than once for one task: after a crash of its worker, or when
    /// a finished run could not be recorded. Effects in Postgres that must happen once go through
    /// `db.once`.
    fn run(self, ctx: &Context<S>) -> impl Future<Output = TaskResult<Self::Output>> + Send;

    /// Called before a task is ended other than by success: buried as a dead letter (attempts
    /// spent, fatal error, panic, time limit, crash of its workers), cancelled or expired. It lets
    /// an application's own rows end as the task did.
    ///
    /// An error is logged and changes nothing. It may be called more than once, like `run`, and is
    /// bounded by a time limit of 30 s. It is not called where the arguments cannot be decoded.
    fn ended(self, end: &End, ctx: &Context<S>) -> impl Future<Output = TaskResult<()>> + Send {
        let _ = (end, ctx);
        async { Ok(()) }
    }
}

/// How a task ended, other than by success.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum End {
    /// It becomes a dead letter. `why` is one word, as the dead letter has it.
    Failed { why: &'static str, error: String },
    /// Somebody cancelled it.
    Cancelled { by: String },
    /// Its start came too late.
    Expired,
}

/// What a handler answers.
pub type TaskResult<T> = Result<T, TaskError>;

/// Why a run did not succeed. Any error turns into "try again" by `?`.
#[derive(Debug)]
pub enum TaskError {
    /// Another attempt may succeed.
    Retry(Box<dyn Error + Send + Sync>),
    /// No attempt will ever succeed.
    Fatal(Box<dyn Error + Send + Sync>),
    /// Not now: run the same attempt again later. Not a failure.
    Snooze(Duration),
    /// The same, with a reason for whoever asks why the task waits.
    SnoozeFor { delay: Duration, reason: String },
}

impl TaskError {
    /// No attempt will ever succeed: the task becomes a dead letter at once.
    pub fn fatal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Fatal(error.into())
    }

    /// Run the same attempt again after `delay`; asked to wait is not a failure.
    pub fn snooze(delay: Duration) -> Self {
        Self::Snooze(delay)
    }

    /// As [`snooze`](Self::snooze), with a reason for whoever asks why the task waits.
    pub fn snooze_for(delay: Duration, reason: impl Into<String>) -> Self {
        Self::SnoozeFor { delay, reason: reason.into() }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::Retry(error.into())
    }
}

/// An error with all its sources on one line, cut at a length that a log line and a Redis field
/// can bear.
pub(crate) struct Chain<'a>(pub &'a (dyn Error + Send + Sync));

const CHAIN_BYTES_MAX: usize = 2_000;

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut source = self.0.source();
        while let Some(error) = source {
            let next = error.to_string();
            // Some errors repeat their source in their own text.
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            source = error.source();
        }
        if text.len() > CHAIN_BYTES_MAX {
            text.truncate(text.floor_char_boundary(CHAIN_BYTES_MAX));
            text.push('…');
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not fetch the page")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn any_error_means_try_again_and_keeps_its_chain() {
        fn run() -> TaskResult<()> {
            Err(Outer(std::io::Error::other("connection reset")))?;
            Ok(())
        }
        let Err(TaskError::Retry(error)) = run() else { panic!("must be a retry") };
        assert_eq!(Chain(&*error).to_string(), "could not fetch the page: connection reset");
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let error: Box<dyn Error + Send + Sync> = "ä".repeat(CHAIN_BYTES_MAX).into();
        let text = Chain(&*error).to_string();
        assert!(text.len() <= CHAIN_BYTES_MAX + '…'.len_utf8() && text.ends_with('…'));
    }
}
