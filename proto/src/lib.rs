//! The words on the wire: what a task is, how it is named, packed and ended. No I/O, no clock.
//!
//! - [`Task`], [`TaskOptions`], [`RetryPolicy`]: what an application declares
//! - [`TaskName`], [`QueueName`], [`TaskId`]: names that cannot be wrong
//! - [`Envelope`], [`codec`]: what travels through the broker
//! - [`Outcome`], [`TaskState`]: how a run ended, and what a person sees of a task
//! - [`Catalog`]: what may be enqueued from outside, with its schemas
//! - [`trace`]: where a trace goes on
//! - [`misleads`]: what a name or a line of a log must not carry

pub mod catalog;
pub mod codec;
pub mod envelope;
mod id;
mod names;
mod options;
mod outcome;
mod retry;
mod state;
mod task;
mod text;
pub mod trace;

pub use catalog::{ArgsError, Catalog, CatalogEntry};
pub use codec::CodecError;
pub use envelope::{Body, Envelope, EnvelopeError};
pub use id::{TaskId, TaskIdError};
pub use names::{NameError, QueueName, TaskName};
pub use options::{Priority, TaskOptions};
pub use outcome::Outcome;
pub use retry::RetryPolicy;
pub use state::{TaskState, UnknownState};
pub use task::Task;
pub use text::misleads;
