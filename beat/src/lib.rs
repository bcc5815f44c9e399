//! Periodic work: a timetable of tasks, and the loop that enqueues each of them once a slot.
//!
//! - [`Timetable`]: the entries of an application, by name
//! - [`Schedule`], made by [`every`] or [`cron`]: when an entry is due
//! - [`tick`]: what is due now; pure
//! - [`Beat`]: claims due slots and fires them; any number of them may run
//!
//! ```
//! use std::time::Duration;
//!
//! use chrono_tz::Europe::Berlin;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use umbel_beat::{Timetable, TimetableError, cron, every};
//! use umbel_proto::Task;
//!
//! #[derive(Default, Serialize, Deserialize, JsonSchema)]
//! struct SweepSites {}
//!
//! impl Task for SweepSites {
//!     const NAME: &'static str = "sites.sweep";
//!     type Output = ();
//! }
//!
//! fn timetable() -> Result<Timetable, TimetableError> {
//!     Timetable::new()
//!         .entry("sweep", every(Duration::from_mins(5)), SweepSites::default())
//!         .entry("nightly", cron("0 3 * * *")?.timezone(Berlin), SweepSites::default())
//!         .build()
//! }
//! # assert_eq!(timetable().unwrap().entries().len(), 2);
//! ```

mod beat;
mod meters;
mod schedule;
pub mod tick;
mod timetable;

pub use beat::{Beat, Fired, StepError};
pub use schedule::{Schedule, ScheduleError, cron, every};
pub use timetable::{Entry, Timetable, TimetableBuilder, TimetableError};
