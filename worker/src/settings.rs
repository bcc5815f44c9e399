//! How a worker works.

use std::time::Duration;

use umbel_proto::QueueName;

/// A lease shorter than four beats would be taken from a worker for one slow answer.
const LEASE_SHORTEST: Duration = Duration::from_secs(12);

/// More would not be seen whole when what a worker holds is compared with Redis.
const CONCURRENCY_MAX: usize = 4_096;

/// One death finds who was there, one who was running, and one who was running alone.
const CRASH_LIMIT_LEAST: u32 = 3;

/// How a worker works; see [`WorkerSettings::check`] for the limits.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The queues it serves. None: those of its tasks.
    pub queues: Vec<QueueName>,
    /// How many tasks run at once. Default 8.
    pub concurrency: usize,
    /// How long a worker may be silent before the others take its tasks. Default 15 s.
    pub lease: Duration,
    /// How long running tasks may go on after a stop was asked for. Default 25 s.
    pub grace: Duration,
    /// How long tasks may block every thread of the worker before its process is ended. Never
    /// shorter than the longest time limit of a task that it runs. Default 5 min.
    pub hang_limit: Duration,
    /// This many deaths of workers that count against a task make it a dead letter. Default 3.
    pub crash_limit: u32,
    /// How long a task whose name or envelope no worker knows is parked before it becomes a dead
    /// letter. Default 24 h.
    pub park_limit: Duration,
    /// Host and boot, for the worker's id.
    pub host: String,
    pub boot: String,
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl WorkerSettings {
    /// The defaults, for a worker of this host and boot.
    pub fn new(host: &str, boot: &str) -> Self {
        Self {
            queues: Vec::new(),
            concurrency: 8,
            lease: Duration::from_secs(15),
            grace: Duration::from_secs(25),
            hang_limit: Duration::from_secs(5 * 60),
            crash_limit: 3,
            park_limit: Duration::from_secs(24 * 60 * 60),
            host: host.to_owned(),
            boot: boot.to_owned(),
        }
    }

    /// Refuses, with a sentence, what cannot work.
    pub fn check(&self) -> Result<(), SettingsError> {
        let refuse = |text: String| Err(SettingsError(text));
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return refuse(format!(
                "CONCURRENCY must be between 1 and {CONCURRENCY_MAX}, and is {}",
                self.concurrency
            ));
        }
        if self.lease < LEASE_SHORTEST {
            return refuse(format!(
                "LEASE must be at least {LEASE_SHORTEST:?}, and is {:?}: a worker that misses a \
                 few beats would lose tasks that it is running",
                self.lease
            ));
        }
        if self.crash_limit < CRASH_LIMIT_LEAST {
            return refuse(format!(
                "CRASH_LIMIT must be at least {CRASH_LIMIT_LEAST}, and is {}: fewer deaths cannot \
                 tell the task that kills from those that ran beside it",
                self.crash_limit
            ));
        }
        Ok(())
    }

    /// `<host>-<boot>-<n>`, with what a key cannot carry taken out of the host.
    pub(crate) fn worker_id(&self, n: u32) -> String {
        let host: String = self
            .host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(64)
            .collect();
        format!("{host}-{}-{n}", self.boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let good = WorkerSettings::new("host", "0123456789abcdef");
        assert_eq!(good.check(), Ok(()));
        let none = WorkerSettings { concurrency: 0, ..good.clone() };
        assert!(none.check().unwrap_err().to_string().contains("CONCURRENCY"));
        let short = WorkerSettings { lease: Duration::from_secs(3), ..good.clone() };
        let few = WorkerSettings { crash_limit: 2, ..good.clone() };
        assert!(few.check().unwrap_err().to_string().contains("CRASH_LIMIT"));
        assert!(short.check().unwrap_err().to_string().contains("LEASE"));
    }

    #[test]
    fn a_worker_id_holds_nothing_that_a_key_cannot_carry() {
        let settings = WorkerSettings::new("My Host{x}.example", "0123");
        assert_eq!(settings.worker_id(1), "my-host-x--example-0123-1");
    }
}
