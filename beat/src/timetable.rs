//! The periodic work of an application: a list that one can read.

use std::collections::HashSet;

use umbel_broker::{BrokerError, NewTask};
use umbel_proto::{Task, codec};

use crate::{Schedule, ScheduleError};

/// Entries with names of their own, each a schedule and the task that is enqueued at its slots.
///
/// The default one is empty.
#[derive(Debug, Clone, Default)]
pub struct Timetable {
    entries: Vec<Entry>,
}

/// One line of a timetable.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub schedule: Schedule,
    pub task: NewTask,
}

impl Timetable {
    /// An empty list to add entries to.
    #[expect(clippy::new_ret_no_self, reason = "a timetable is only made by `build`, checked")]
    pub fn new() -> TimetableBuilder {
        TimetableBuilder::default()
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Collects entries; what is wrong with one of them is told by [`TimetableBuilder::build`].
#[derive(Debug, Default)]
#[must_use = "a timetable is made by `build`"]
pub struct TimetableBuilder {
    entries: Vec<(String, Schedule, Result<NewTask, BrokerError>)>,
}

impl TimetableBuilder {
    /// Enqueues `task` at every slot of `schedule`, into its own queue with its own options.
    ///
    /// The name is 1–64 of `a-z 0-9 . _ -`. It is what the entry's last slot is kept under: under
    /// another name an entry counts as just added.
    pub fn entry<T: Task>(mut self, name: &str, schedule: Schedule, task: T) -> Self {
        let task = NewTask::of(&task).and_then(|mut new| {
            // One a slot: that its whole way can be looked at costs nothing.
            new.call.tracked = true;
            // A claim carries the whole task: what is too large for it must show at the boot.
            codec::encode(&new)?;
            Ok(new)
        });
        self.entries.push((name.to_owned(), schedule, task));
        self
    }

    /// # Errors
    ///
    /// The first entry, in order, that is wrong: by its name, its schedule or its task.
    pub fn build(self) -> Result<Timetable, TimetableError> {
        let mut names = HashSet::new();
        let mut entries = Vec::with_capacity(self.entries.len());
        for (name, schedule, task) in self.entries {
            if !is_name(&name) {
                return Err(TimetableError::Name { entry: name });
            }
            if !names.insert(name.clone()) {
                return Err(TimetableError::Twice { entry: name });
            }
            if let Err(source) = schedule.check() {
                return Err(TimetableError::Schedule { entry: name, source });
            }
            match task {
                Ok(task) => entries.push(Entry { name, schedule, task }),
                Err(source) => return Err(TimetableError::Task { entry: name, source }),
            }
        }
        Ok(Timetable { entries })
    }
}

const NAME_LONGEST: usize = 64;

fn is_name(text: &str) -> bool {
    (1..=NAME_LONGEST).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// Why a timetable cannot be; all of them are to be mended in the application.
#[derive(Debug, thiserror::Error)]
pub enum TimetableError {
    /// The name has a character that keys and logs do not carry, or is empty or too long.
    #[error("{entry:?} does not name an entry: 1 to {NAME_LONGEST} of a-z 0-9 . _ - are allowed")]
    Name { entry: String },
    /// Two entries have the same name.
    #[error("two entries are named `{entry}`")]
    Twice { entry: String },
    /// The schedule of an entry cannot be.
    #[error("the schedule of entry `{entry}` cannot be")]
    Schedule { entry: String, source: ScheduleError },
    /// The task cannot be sent: its arguments do not encode, or its name or queue is none.
    #[error("the task of entry `{entry}` cannot be sent")]
    Task { entry: String, source: BrokerError },
    /// A cron pattern was refused before it came to an entry.
    #[error(transparent)]
    Pattern(#[from] ScheduleError),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use umbel_proto::TaskOptions;

    use super::*;
    use crate::{cron, every};

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Prune {
        older_than_days: u32,
    }

    impl Task for Prune {
        const NAME: &'static str = "pages.prune";
        const OPTIONS: TaskOptions = TaskOptions::DEFAULT.queue("upkeep");
        type Output = ();
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Large(String);

    impl Task for Large {
        const NAME: &'static str = "pages.large";
        type Output = ();
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Misnamed;

    impl Task for Misnamed {
        const NAME: &'static str = "Not A Name";
        type Output = ();
    }

    const PRUNE: Prune = Prune { older_than_days: 90 };

    fn hourly() -> Schedule {
        every(Duration::from_hours(1))
    }

    #[test]
    fn entries_keep_their_order_and_carry_their_task() {
        let nightly = cron("0 3 * * *").unwrap();
        let timetable = Timetable::new()
            .entry("b", hourly(), PRUNE)
            .entry("a", nightly, PRUNE)
            .build()
            .unwrap();
        let entries: Vec<_> = timetable
            .entries()
            .iter()
            .map(|entry| {
                let task = &entry.task;
                assert!(task.call.tracked);
                (&*entry.name, entry.schedule.to_string(), task.task.as_str(), task.queue.as_str())
            })
            .collect();
        assert_eq!(
            entries,
            [
                ("b", "every 1h".to_owned(), "pages.prune", "upkeep"),
                ("a", "cron 0 3 * * * (UTC)".to_owned(), "pages.prune", "upkeep"),
            ]
        );
    }

    #[test]
    fn a_name_that_is_none_or_is_used_twice_stops_the_boot() {
        for bad in ["", "Prune", "a b", "a:b", "{a}", &"x".repeat(65)] {
            let error = Timetable::new().entry(bad, hourly(), PRUNE).build().unwrap_err();
            assert!(matches!(&error, TimetableError::Name { entry } if entry == bad), "{error}");
        }
        let twice = Timetable::new().entry("a", hourly(), PRUNE).entry("a", hourly(), PRUNE);
        let error = twice.build().unwrap_err();
        assert!(matches!(&error, TimetableError::Twice { entry } if entry == "a"), "{error}");
        assert!(Timetable::new().entry(&"x".repeat(64), hourly(), PRUNE).build().is_ok());
    }

    #[test]
    fn a_schedule_or_a_task_that_cannot_be_stops_the_boot_and_is_named() {
        let error = Timetable::new().entry("a", every(Duration::ZERO), PRUNE).build().unwrap_err();
        assert!(
            matches!(&error, TimetableError::Schedule { entry, source: ScheduleError::Period(_) } if entry == "a")
        );
        // Arguments that just fit leave no room for what is claimed with them.
        let large = Large("x".repeat(codec::MAX_BYTES - 5));
        assert!(NewTask::of(&large).is_ok());
        for wrong in [
            Timetable::new().entry("a", hourly(), Misnamed),
            Timetable::new().entry("a", hourly(), large),
        ] {
            let error = wrong.build().unwrap_err();
            assert!(
                matches!(&error, TimetableError::Task { entry, .. } if entry == "a"),
                "{error}"
            );
        }
    }
}
