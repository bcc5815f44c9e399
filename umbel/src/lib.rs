//! Umbel: typed tasks over Redis Streams, an HTTP API, a scheduler, and one supervisor for all.
//!
//! An application is one value, and its `main` hands it to [`run`]. What an application needs of
//! the crates below is re-exported here; it depends on nothing else of the house.
//!
//! Periodic work is a [`Timetable`]; any number of beats may run, each slot is enqueued once:
//!
//! ```
//! # use std::time::Duration;
//! # use chrono_tz::Europe::Berlin;
//! # use schemars::JsonSchema;
//! # use serde::{Deserialize, Serialize};
//! # use umbel::{Task, Timetable, TimetableError, cron, every};
//! # #[derive(Serialize, Deserialize, JsonSchema)]
//! # struct SweepSites {}
//! # impl Task for SweepSites {
//! #     const NAME: &'static str = "sites.sweep";
//! #     type Output = ();
//! # }
//! # #[derive(Serialize, Deserialize, JsonSchema)]
//! # struct Prune { days: u32 }
//! # impl Task for Prune {
//! #     const NAME: &'static str = "prune";
//! #     type Output = ();
//! # }
//! # fn timetable() -> Result<Timetable, TimetableError> {
//! Timetable::new()
//!     .entry("sweep-sites", every(Duration::from_mins(5)), SweepSites {})
//!     .entry("nightly", cron("0 3 * * *")?.timezone(Berlin), Prune { days: 90 })
//!     .build()
//! # }
//! # assert_eq!(timetable().unwrap().entries().len(), 2);
//! ```

mod application;
mod cgroup;
mod cli;
mod config;
mod death;
mod dev;
mod env;
mod health;
mod keeper;
mod lifeline;
mod memory;
mod one_line;
mod quota;
mod reap;
mod roles;
mod run;
mod settings;
mod short_line;
mod signals;
mod supervise;
pub mod telemetry;
mod terminal;
mod verbs;

/// The exit code of wrong usage or settings: starting again would not mend them.
const USAGE: u8 = 2;

pub use application::{Application, Setup};
pub use env::Env;
pub use run::run;
pub use settings::{Setting, SettingsError};

pub use umbel_api::{Claims, FieldError, JsonBody, Problem, Scope};
pub use umbel_beat::{Schedule, Timetable, TimetableError, cron, every};
pub use umbel_broker::{
    Acquired, Ahead, BrokerError, Client, LimitRules, Permit, TaskHandle, WaitError, limit::no_room,
};
pub use umbel_proto::{Priority, RetryPolicy, Task, TaskId, TaskOptions, TaskState};
pub use umbel_store::{Db, Migration, StoreError, Tx};
pub use umbel_worker::{Context, End, Handler, Registry, RegistryError, TaskError, TaskResult};
