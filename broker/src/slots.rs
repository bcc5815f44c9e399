//! The slots of schedules: each is claimed once, however many beats run, and a claim whose beat
//! died before it enqueued is found again as an open intent.

use chrono::{DateTime, Utc};
use redis::cmd;
use umbel_proto::{TaskId, codec};

use crate::{BrokerError, Client, NewTask, keys};

/// How many fires of an entry are kept to look at: a day of one a minute.
const FIRED_KEPT: usize = 1_440;

/// A slot that was claimed and not closed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    pub entry: String,
    pub slot: DateTime<Utc>,
    pub task: NewTask,
}

impl Client {
    /// The last slot of an entry that anybody claimed.
    pub async fn last_slot(&self, entry: &str) -> Result<Option<DateTime<Utc>>, BrokerError> {
        let ms: Option<i64> = self.query(cmd("HGET").arg(keys::beat_last()).arg(entry)).await?;
        Ok(ms.and_then(DateTime::from_timestamp_millis))
    }

    /// Claims a slot if it is later than the entry's last one, and writes the intent in the same
    /// step. Whether this call got it.
    pub async fn claim_slot(
        &self,
        entry: &str,
        slot: DateTime<Utc>,
        task: &NewTask,
    ) -> Result<bool, BrokerError> {
        let mut call = self.scripts().claim_slot.key(keys::beat_last());
        call.key(keys::beat_intents())
            .arg(entry)
            .arg(slot.timestamp_millis())
            .arg(codec::encode(task)?);
        self.call(&call).await
    }

    /// Enqueues the task of a claimed slot and closes the slot. Doing it twice gives one task: the
    /// slot is its idempotency key.
    pub async fn fire_slot(
        &self,
        entry: &str,
        slot: DateTime<Utc>,
        mut task: NewTask,
        now: DateTime<Utc>,
    ) -> Result<TaskId, BrokerError> {
        task.call.idempotency_key = Some(format!("beat:{entry}:{}", slot.timestamp_millis()));
        let id = self.submit(task).await?.id;
        // A crash from here on leaves the intent open; its replay finds the same task.
        self.close_slot(entry, slot, id.as_str(), now, "fired").await?;
        Ok(id)
    }

    /// Closes a claimed slot that is too old to be fired.
    pub async fn miss_slot(
        &self,
        entry: &str,
        slot: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), BrokerError> {
        self.close_slot(entry, slot, "", now, "missed").await
    }

    async fn close_slot(
        &self,
        entry: &str,
        slot: DateTime<Utc>,
        id: &str,
        now: DateTime<Utc>,
        outcome: &str,
    ) -> Result<(), BrokerError> {
        let mut call = self.scripts().close_slot.key(keys::beat_intents());
        call.key(keys::beat_fired(entry))
            .arg(entry)
            .arg(slot.timestamp_millis())
            .arg(id)
            .arg((now - slot).num_milliseconds())
            .arg(outcome)
            .arg(FIRED_KEPT);
        self.call(&call).await
    }

    /// Slots that were claimed and not closed: their beat is just firing them, or died before.
    pub async fn open_intents(&self) -> Result<Vec<Intent>, BrokerError> {
        let all: Vec<(String, Vec<u8>)> =
            self.query(cmd("HGETALL").arg(keys::beat_intents())).await?;
        let read = all.into_iter().filter_map(|(field, packed)| match intent(&field, &packed) {
            Ok(intent) => Some(intent),
            Err(error) => {
                // One unreadable intent must not hold up all schedules.
                tracing::error!(%error, "passing over the intent `{field}`");
                None
            }
        });
        Ok(read.collect())
    }
}

fn intent(field: &str, packed: &[u8]) -> Result<Intent, BrokerError> {
    let parsed = field.rsplit_once(' ').and_then(|(entry, ms)| {
        Some((entry.to_owned(), DateTime::from_timestamp_millis(ms.parse().ok()?)?))
    });
    let (entry, slot) = parsed
        .ok_or_else(|| BrokerError::Unexpected(format!("`{field}` names no slot of an entry")))?;
    Ok(Intent { entry, slot, task: codec::decode(packed)? })
}
