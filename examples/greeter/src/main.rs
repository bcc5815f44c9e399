//! The smallest application: one task, and the whole command line with it.

mod greet;

use std::process::ExitCode;

use umbel::{Application, Registry, RegistryError};

fn main() -> ExitCode {
    umbel::run(Application::new("greeter").registry(registry))
}

fn registry() -> Result<Registry<()>, RegistryError> {
    Registry::builder().register::<greet::Greet>().build()
}
