//! The smallest application: one task, and the whole command line with it.

use std::process::ExitCode;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{
    Application, Context, Handler, Registry, RegistryError, Task, TaskOptions, TaskResult,
};

/// Greets somebody.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Greet {
    name: String,
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

fn registry() -> Result<Registry<()>, RegistryError> {
    Registry::builder().register::<Greet>().build()
}

fn main() -> ExitCode {
    umbel::run(Application::new("greeter").registry(registry))
}
