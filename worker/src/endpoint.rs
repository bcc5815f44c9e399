//! Where generics end: a handler with its state behind one object-safe trait.

use std::marker::PhantomData;

use async_trait::async_trait;
use umbel_proto::{Outcome, codec};

use crate::{Context, End, Handler, Run, TaskError, handler::Chain};

#[async_trait]
pub(crate) trait Endpoint: Send + Sync {
    async fn run(&self, args: &[u8], run: Run) -> Outcome;

    /// Tells the application of an end; `Err` is for the log.
    async fn ended(&self, args: &[u8], end: &End, run: Run) -> Result<(), String>;
}

pub(crate) struct Bound<S, T> {
    state: S,
    of: PhantomData<fn() -> T>,
}

impl<S, T> Bound<S, T> {
    pub fn new(state: S) -> Self {
        Self { state, of: PhantomData }
    }
}

#[async_trait]
impl<S: Clone + Send + Sync, T: Handler<S>> Endpoint for Bound<S, T> {
    async fn run(&self, args: &[u8], run: Run) -> Outcome {
        let task: T = match codec::decode(args) {
            Ok(task) => task,
            Err(error) => return Outcome::Undecodable { error: Chain(&error).to_string() },
        };
        let ctx = Context::new(self.state.clone(), run);
        match task.run(&ctx).await {
            Ok(output) => match codec::encode(&output) {
                Ok(output) => Outcome::Succeeded { output },
                // The work was done; doing it again gives the same output.
                Err(error) => Outcome::Fatal { error: format!("the output: {}", Chain(&error)) },
            },
            Err(TaskError::Retry(error)) => Outcome::Failed { error: Chain(&*error).to_string() },
            Err(TaskError::Fatal(error)) => Outcome::Fatal { error: Chain(&*error).to_string() },
            Err(TaskError::Snooze(delay)) => Outcome::Snoozed { delay, reason: None },
            Err(TaskError::SnoozeFor { delay, reason }) => {
                Outcome::Snoozed { delay, reason: Some(reason) }
            }
        }
    }

    async fn ended(&self, args: &[u8], end: &End, run: Run) -> Result<(), String> {
        // Undecodable arguments are why it is buried; there is no task to tell of it.
        let Ok(task) = codec::decode::<T>(args) else { return Ok(()) };
        let ctx = Context::new(self.state.clone(), run);
        match task.ended(end, &ctx).await {
            Ok(()) => Ok(()),
            Err(TaskError::Retry(error) | TaskError::Fatal(error)) => {
                Err(Chain(&*error).to_string())
            }
            Err(TaskError::Snooze(_) | TaskError::SnoozeFor { .. }) => {
                Err("an end cannot be snoozed".to_owned())
            }
        }
    }
}
