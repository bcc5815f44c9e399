//! How a task wishes to be treated: defaults on its type, overrides at the call.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::RetryPolicy;

/// Which of a queue's streams a task waits in. Strict: a higher one is served first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The defaults of a task type, built in a `const`:
///
/// ```
/// use std::time::Duration;
/// use umbel_proto::TaskOptions;
///
/// const OPTIONS: TaskOptions = TaskOptions::DEFAULT
///     .queue("scrape")
///     .max_attempts(5)
///     .time_limit(Duration::from_secs(60));
/// assert_eq!(OPTIONS.max_attempts, 5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOptions {
    pub queue: &'static str,
    pub priority: Priority,
    pub max_attempts: u32,
    pub time_limit: Duration,
    pub retry: RetryPolicy,
    pub result_ttl: Duration,
    pub over_http: bool,
}

impl TaskOptions {
    pub const DEFAULT: Self = Self {
        queue: "default",
        priority: Priority::Normal,
        max_attempts: 5,
        time_limit: Duration::from_secs(10 * 60),
        retry: RetryPolicy::DEFAULT,
        result_ttl: Duration::from_secs(24 * 60 * 60),
        over_http: false,
    };

    /// The queue that the task waits in. Default `default`. A name that is none stops the boot.
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = queue;
        self
    }

    /// Default [`Priority::Normal`].
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// How often a task is tried in all, the first run included. Default 5. One means never
    /// again; zero is taken as one.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// How long one attempt may run; then it is ended and counts as failed. Default 10 min.
    ///
    /// The attempt ends at its next `.await`; code that blocks its thread cannot be ended.
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// The wait between attempts. Default [`RetryPolicy::DEFAULT`].
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long state and result stay readable after the end. Default 24 h. Zero keeps nothing.
    /// Whole seconds; less than one counts as zero, more than ten years as ten.
    pub const fn result_ttl(mut self, ttl: Duration) -> Self {
        self.result_ttl = ttl;
        self
    }

    /// Lets the HTTP API enqueue this task. Default: no.
    pub const fn over_http(mut self) -> Self {
        self.over_http = true;
        self
    }
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_always_tried_at_least_once() {
        assert_eq!(TaskOptions::DEFAULT.max_attempts(0).max_attempts, 1);
    }
}
