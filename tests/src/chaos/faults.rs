//! What was done to the system, and when.

use super::history::Moment;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub what: &'static str,
    /// The process that was harmed, where it was one of those that run tasks.
    pub pid: Option<u32>,
    pub from: Moment,
    /// The same as `from` for a blow.
    pub until: Moment,
    /// Whether what the process held, or everybody where there is none, may be started again.
    pub excuses: bool,
}

impl Fault {
    /// The death of a process that ran tasks.
    pub fn kill(pid: u32, at: Moment) -> Self {
        Self { what: "kill -9", pid: Some(pid), from: at, until: at, excuses: true }
    }

    /// Whether a start at `again` of what was started at `first` by `pid` is explained by this.
    /// Monotonic milliseconds.
    pub fn explains(&self, pid: u32, first: i64, again: i64) -> bool {
        self.excuses
            && self.pid.is_none_or(|harmed| harmed == pid)
            && first <= self.until.monotonic
            && self.from.monotonic <= again
    }
}
