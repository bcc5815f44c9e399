//! Runs tasks: fetch → execute → decide → settle, one permit a task.
//!
//! - [`Handler`], [`Context`], [`TaskError`]: what an application writes
//! - [`Registry`]: the list of its tasks
//! - [`Worker`]: the loops, from the first heartbeat to the drain
//! - [`verdict`]: what becomes of a task after a run, one pure table

mod cancels;
mod context;
mod endpoint;
mod execute;
mod handler;
mod hang;
mod heartbeat;
mod life;
mod listener;
mod meters;
mod pipeline;
mod promoter;
mod reaper;
mod registry;
mod running;
mod settings;
pub mod verdict;
mod worker;

pub use context::{Context, ProgressError, Run};
pub use handler::{End, Handler, TaskError, TaskResult};
pub use meters::fetched;
pub use registry::{Endpoints, Registry, RegistryBuilder, RegistryError};
pub use settings::{SettingsError, WorkerSettings};
pub use worker::{Stopped, Worker, WorkerError};
