//! How one run of a task ended: a closed vocabulary, judged in one place (the worker's `decide`).

use std::time::Duration;

/// What came of handing a task to a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The handler returned; `output` is its encoded [`Task::Output`](crate::Task::Output).
    Succeeded { output: Vec<u8> },
    /// The handler failed in a way that another attempt may mend.
    Failed { error: String },
    /// The handler said that no attempt will ever succeed.
    Fatal { error: String },
    /// The handler asked to be run again later, and may have said why; not a failure.
    Snoozed { delay: Duration, reason: Option<String> },
    /// The handler panicked.
    Panicked { message: String },
    /// The attempt ran longer than its limit and was ended.
    TimedOut { limit: Duration },
    /// The arguments are not those of the task.
    Undecodable { error: String },
    /// This worker has no handler of that name, or the envelope is of a newer version.
    Unknown { what: String },
    /// The entry is not an envelope; it never will be.
    Unreadable { error: String },
    /// The worker stops before the run was started or had ended.
    Drained,
    /// Too many workers died while they held this task.
    CrashLimit { crashes: u32 },
    /// Somebody cancelled the task.
    Cancelled { by: String },
    /// Its start came after its expiry.
    Expired,
}
