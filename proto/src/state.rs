//! What a person sees of a task.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a task stands. An id that never existed has no state: it is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Its time has not come yet.
    Scheduled,
    /// Waits for a worker.
    Queued,
    /// A worker has started it.
    Running,
    /// Failed, and waits for its next attempt.
    Retrying,
    /// Ended well; its result is kept for a while.
    Succeeded,
    /// Ended badly for good: it is a dead letter.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
    /// Ended because its start came too late.
    Expired,
    /// Waits for a worker that knows its name.
    Parked,
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a task state")]
pub struct UnknownState(pub String);

const STATES: [TaskState; 9] = [
    TaskState::Scheduled,
    TaskState::Queued,
    TaskState::Running,
    TaskState::Retrying,
    TaskState::Succeeded,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Expired,
    TaskState::Parked,
];

impl TaskState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Parked => "parked",
        }
    }

    /// Whether the task will never run again by itself.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TaskState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        STATES
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_back_from_its_word() {
        for state in STATES {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("pending".parse::<TaskState>().is_err());
    }
}
