//! How the schedules stand: what beats show of their entries, and what has fired.
//!
//! Nothing here decides when something fires; that are the [`slots`](crate::slots).

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};
use tracing::warn;
use umbel_proto::{QueueName, TaskName};

use crate::{BrokerError, Client, keys};

/// How often a beat shows that it has its entries.
pub const SHOW_EVERY: Duration = Duration::from_secs(60);

/// An entry that no beat has shown for so long is in no timetable any more: two shows may be missed.
pub const GONE_AFTER: TimeDelta = TimeDelta::minutes(3);

/// How long an entry that is in no timetable any more is shown as such, with what it has fired.
const GONE_KEPT: TimeDelta = TimeDelta::days(7);

/// How many fires of an entry are shown at most.
pub const FIRES_SHOWN: usize = 100;

/// An entry of a timetable, as it stands in Redis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryRecord {
    #[serde(skip)]
    pub name: String,
    /// As a person would write it.
    pub schedule: String,
    /// The time zone in which it is read; `None`: it has none, it is an interval.
    #[serde(default)]
    pub zone: Option<String>,
    pub task: TaskName,
    pub queue: QueueName,
    /// When a beat showed it last; of an older release: `None`.
    #[serde(default)]
    pub seen: Option<DateTime<Utc>>,
}

/// What became of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiredSlot {
    pub slot: DateTime<Utc>,
    /// The task; `None`: there is none.
    pub task: Option<String>,
    /// How much later than its slot it was enqueued.
    pub late: TimeDelta,
    /// `fired`, or `missed`.
    pub outcome: String,
}

/// How a schedule stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleStatus {
    pub entry: EntryRecord,
    /// A beat has it. Where none has, it was taken out of the timetable, or no beat runs.
    pub live: bool,
    /// When it is due next; `None` where no beat has it.
    pub next: Option<DateTime<Utc>>,
    /// The last ones first.
    pub fires: Vec<FiredSlot>,
}

/// Entries of the stream of what has fired.
type Notes = Vec<(String, HashMap<String, String>)>;

impl Client {
    /// Shows entries of a timetable in Redis, in one step.
    pub async fn show_entries(&self, entries: &[EntryRecord]) -> Result<(), BrokerError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut shown = cmd("HSET");
        shown.arg(keys::beat_entries());
        for entry in entries {
            shown.arg(&entry.name).arg(json(entry)?);
        }
        self.query(&shown).await
    }

    /// Shows when entries are due next.
    pub async fn show_next(&self, next: &[(&str, DateTime<Utc>)]) -> Result<(), BrokerError> {
        if next.is_empty() {
            return Ok(());
        }
        let mut due = cmd("ZADD");
        due.arg(keys::beat_due());
        for (entry, at) in next {
            due.arg(at.timestamp_millis()).arg(*entry);
        }
        self.query(&due).await
    }

    /// Removes what is shown of entries that no beat has shown for a week, and dates those that a beat
    /// of an older release has shown. Their last slot stays: should they come back, it counts.
    pub async fn forget_entries(&self, now: DateTime<Utc>) -> Result<(), BrokerError> {
        for mut entry in self.entries().await? {
            match entry.seen {
                Some(seen) if now - seen > GONE_KEPT => {
                    let name = &entry.name;
                    let mut gone = pipe();
                    gone.cmd("HDEL").arg(keys::beat_entries()).arg(name).ignore();
                    gone.cmd("ZREM").arg(keys::beat_due()).arg(name).ignore();
                    gone.cmd("DEL").arg(keys::beat_fired(name)).ignore();
                    self.pipeline::<()>(&gone).await?;
                }
                Some(_) => {}
                None => {
                    entry.seen = Some(now);
                    self.show_entries(&[entry]).await?;
                }
            }
        }
        Ok(())
    }

    /// How all schedules stand, by name, each with its last fire.
    pub async fn schedules(&self, now: DateTime<Utc>) -> Result<Vec<ScheduleStatus>, BrokerError> {
        let mut all = Vec::new();
        for entry in self.entries().await? {
            all.push(self.status(entry, 1, now).await?);
        }
        Ok(all)
    }

    /// How one schedule stands, with its last fires, at most 100; `None`: nobody knows it.
    pub async fn schedule(
        &self,
        name: &str,
        fires: usize,
        now: DateTime<Utc>,
    ) -> Result<Option<ScheduleStatus>, BrokerError> {
        let json: Option<String> =
            self.query(cmd("HGET").arg(keys::beat_entries()).arg(name)).await?;
        match json {
            Some(json) => {
                let entry = read(name, &json).map_err(|error| {
                    BrokerError::Unexpected(format!("the entry `{name}` is unreadable: {error}"))
                })?;
                Ok(Some(self.status(entry, fires.clamp(1, FIRES_SHOWN), now).await?))
            }
            None => Ok(None),
        }
    }

    /// When a beat, whichever, showed its entries last.
    pub async fn last_shown(&self) -> Result<Option<DateTime<Utc>>, BrokerError> {
        Ok(self.entries().await?.into_iter().filter_map(|entry| entry.seen).max())
    }

    async fn entries(&self) -> Result<Vec<EntryRecord>, BrokerError> {
        let all: HashMap<String, String> =
            self.query(cmd("HGETALL").arg(keys::beat_entries())).await?;
        let read = all.iter().filter_map(|(name, json)| match read(name, json) {
            Ok(entry) => Some(entry),
            Err(error) => {
                // One of another release must not hide all others.
                warn!(entry = name, %error, "passing over an entry that cannot be read");
                None
            }
        });
        let mut entries: Vec<EntryRecord> = read.collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    async fn status(
        &self,
        entry: EntryRecord,
        fires: usize,
        now: DateTime<Utc>,
    ) -> Result<ScheduleStatus, BrokerError> {
        let mut asked = pipe();
        asked.cmd("ZSCORE").arg(keys::beat_due()).arg(&entry.name);
        asked.cmd("XREVRANGE").arg(keys::beat_fired(&entry.name)).arg("+").arg("-");
        asked.arg("COUNT").arg(fires);
        let (next, notes): (Option<f64>, Notes) = self.pipeline(&asked).await?;
        // Of an older release it is not told when it was shown: since it is, it counts as there.
        let live = entry.seen.is_none_or(|seen| now - seen <= GONE_AFTER);
        let next = next.and_then(|ms| DateTime::from_timestamp_millis(ms as i64));
        Ok(ScheduleStatus {
            live,
            next: next.filter(|_| live),
            fires: notes.iter().filter_map(|(_, note)| fired(note)).collect(),
            entry,
        })
    }
}

fn json(entry: &EntryRecord) -> Result<String, BrokerError> {
    serde_json::to_string(entry).map_err(|error| BrokerError::Unexpected(error.to_string()))
}

fn read(name: &str, json: &str) -> Result<EntryRecord, serde_json::Error> {
    let entry: EntryRecord = serde_json::from_str(json)?;
    Ok(EntryRecord { name: name.to_owned(), ..entry })
}

fn fired(note: &HashMap<String, String>) -> Option<FiredSlot> {
    Some(FiredSlot {
        slot: DateTime::from_timestamp_millis(note.get("slot")?.parse().ok()?)?,
        task: note.get("task").filter(|task| !task.is_empty()).cloned(),
        late: TimeDelta::try_milliseconds(note.get("late_ms")?.parse().ok()?)?,
        outcome: note.get("outcome")?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_an_older_release_is_read_and_names_no_zone_and_no_time() {
        let entry = read("a", r#"{"schedule":"every 5m","task":"pages.prune","queue":"upkeep"}"#);
        let entry = entry.unwrap();
        assert_eq!((&*entry.name, entry.zone, entry.seen), ("a", None, None));
        assert!(read("a", r#"{"schedule":7}"#).is_err());
    }

    #[test]
    fn a_note_that_is_none_of_ours_is_passed_over() {
        let note = |fields: &[(&str, &str)]| {
            fired(&fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let missed = [("slot", "1700"), ("task", ""), ("late_ms", "-3"), ("outcome", "missed")];
        let slot = note(&missed).unwrap();
        assert_eq!((slot.task, slot.late.num_milliseconds()), (None, -3));
        assert_eq!(note(&missed[..3]), None);
        assert_eq!(note(&[("slot", "9e99"), ("late_ms", "0"), ("outcome", "fired")]), None);
    }
}
