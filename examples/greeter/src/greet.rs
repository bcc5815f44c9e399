//! A task: what it takes, what it is called, what it does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{Context, Handler, Task, TaskOptions, TaskResult};

/// Greets somebody.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Greet {
    pub name: String,
}

impl Task for Greet {
    const NAME: &'static str = "greet";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT.over_http();
    type Output = String;
}

impl Handler<()> for Greet {
    async fn run(self, _: &Context<()>) -> TaskResult<String> {
        Ok(format!("Hello, {}!", self.name))
    }
}
