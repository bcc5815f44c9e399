//! The task `steps.prune`: forgets which steps of tasks were done (`db.once`), once no task is left
//! that could ask.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{Context, Handler, Task, TaskResult};

use crate::App;

/// The tasks here are over within hours. What waits for longer was delayed by hand or lies among
/// the dead letters; redriven after this, it has its effects again.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// Forgets steps that were done more than a week ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PruneSteps {}

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    pub steps: u64,
}

impl Task for PruneSteps {
    const NAME: &'static str = "steps.prune";
    type Output = Pruned;
}

impl Handler<App> for PruneSteps {
    async fn run(self, ctx: &Context<App>) -> TaskResult<Pruned> {
        Ok(Pruned { steps: ctx.app().db.prune_steps(KEPT).await? })
    }
}
