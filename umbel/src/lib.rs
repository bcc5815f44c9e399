//! Umbel: typed tasks over Redis Streams, an HTTP API, a scheduler, and one supervisor for all.
//!
//! An application is one value, and its `main` hands it to [`run`]. What an application needs of
//! the crates below is re-exported here; it depends on nothing else of the house.

mod application;
mod cli;
mod dev;
mod env;
mod roles;
mod run;
mod settings;
mod supervise;
mod telemetry;
mod verbs;

pub use application::{Application, Setup};
pub use env::{Env, EnvError};
pub use run::run;

pub use umbel_api::{Claims, FieldError, JsonBody, Problem};
pub use umbel_beat::{Schedule, Timetable, TimetableError, cron, every};
pub use umbel_broker::{BrokerError, Client, TaskHandle, WaitError};
pub use umbel_proto::{Priority, RetryPolicy, Task, TaskId, TaskOptions, TaskState};
pub use umbel_store::{Db, Migration, StoreError, Tx};
pub use umbel_worker::{Context, End, Handler, Registry, RegistryError, TaskError, TaskResult};
