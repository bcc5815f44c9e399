//! Tasks that have not ended, one by one: what waits, what is in workers' hands, what is delayed or
//! parked. Shows the plain fields, never the arguments, and changes nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::cmd;
use serde::Serialize;
use umbel_proto::QueueName;

use crate::{
    BrokerError, Client,
    keys::{Shard, Stream},
};

/// How many tasks one step looks at: with the largest bodies the script copies 64 MiB.
const STEP: usize = 64;

/// How many tasks of one place are looked at in all, by default.
pub const LOOKED_AT_MOST: usize = 10_000;

/// Where a task that has not ended is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "place", rename_all = "lowercase")]
pub enum Place {
    /// Ready, and in nobody's hands.
    Ready { stream: &'static str },
    /// In a worker's hands: it was read then, by the clock of Redis.
    Held { stream: &'static str, worker: String, read_ms_ago: u64 },
    /// Its time comes then.
    Delayed { due: Option<DateTime<Utc>> },
    /// Kept under that name for a worker that knows it, until it is given up then.
    Parked { name: String, until: Option<DateTime<Utc>> },
}

/// A task that has not ended, as its entry tells; of what is no task what there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenTask {
    pub id: String,
    pub task: String,
    pub attempt: Option<u32>,
    /// Deaths of workers that were charged to it.
    pub crashes: u32,
    pub enqueued: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub place: Place,
}

/// Rows as the scripts give them.
type Rows = Vec<Vec<Vec<u8>>>;

impl Client {
    /// The tasks of a queue that are in workers' hands, at most so many a stream.
    pub async fn held_tasks(
        &self,
        queue: &QueueName,
        most: usize,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        self.held_in(&Shard::first(queue), most, "").await
    }

    /// The tasks of a queue that are ready, in the order in which they are served.
    pub async fn ready_tasks(
        &self,
        queue: &QueueName,
        most: usize,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        let (shard, mut found) = (Shard::first(queue), Vec::new());
        for stream in Stream::IN_ORDER {
            let mut after = String::new();
            while found.len() < most {
                let count = STEP.min(most - found.len());
                let page = self.ready_page(&shard, stream, &after, count, "").await?;
                found.extend(page.tasks);
                let Some(next) = page.next else { break };
                after = next;
            }
        }
        Ok(found)
    }

    /// The tasks of a queue that are delayed, those that are due first in front.
    pub async fn delayed_tasks(
        &self,
        queue: &QueueName,
        most: usize,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        let shard = Shard::first(queue);
        self.of_set(&shard, &shard.delayed(), most, "", |due| Place::Delayed { due }).await
    }

    /// The tasks of a queue that wait for a worker that knows them.
    pub async fn parked_tasks(
        &self,
        queue: &QueueName,
        most: usize,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        let (shard, mut found) = (Shard::first(queue), Vec::new());
        for name in self.parked_names(&shard).await? {
            let left = most - found.len();
            found.extend(self.parked_in(&shard, &name, left, "").await?);
        }
        Ok(found)
    }

    pub(crate) async fn parked_names(&self, shard: &Shard) -> Result<Vec<String>, BrokerError> {
        self.query(cmd("ZRANGE").arg(shard.parked()).arg(0).arg(-1)).await
    }

    pub(crate) async fn parked_in(
        &self,
        shard: &Shard,
        name: &str,
        most: usize,
        id: &str,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        let place = |until| Place::Parked { name: name.to_owned(), until };
        self.of_set(shard, &shard.parked_as(name), most, id, place).await
    }

    pub(crate) async fn delayed_as(
        &self,
        shard: &Shard,
        id: &str,
    ) -> Result<Option<OpenTask>, BrokerError> {
        let delayed = shard.delayed();
        let found = self.of_set(shard, &delayed, 1, id, |due| Place::Delayed { due }).await?;
        Ok(found.into_iter().next())
    }

    async fn of_set(
        &self,
        shard: &Shard,
        set: &str,
        most: usize,
        id: &str,
        place: impl Fn(Option<DateTime<Utc>>) -> Place,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        let mut found = Vec::new();
        while found.len() < most {
            let count = STEP.min(most - found.len());
            let mut call = self.scripts().peek_set.key(set);
            call.key(shard.waiting()).arg(found.len()).arg(count).arg(id);
            let rows: Rows = self.call(&call).await?;
            let all = rows.len() < count || !id.is_empty();
            found.extend(rows.iter().map(|row| open_task(row, place(time(row, 6)))));
            if all {
                break;
            }
        }
        Ok(found)
    }

    pub(crate) async fn held_in(
        &self,
        shard: &Shard,
        most: usize,
        id: &str,
    ) -> Result<Vec<OpenTask>, BrokerError> {
        let mut found = Vec::new();
        for stream in Stream::IN_ORDER {
            let mut call = self.scripts().peek_held.key(shard.ready(stream));
            call.arg(most).arg(id);
            let rows: Rows = self.call(&call).await?;
            found.extend(rows.iter().map(|row| {
                let place = Place::Held {
                    stream: stream.as_str(),
                    worker: text(row, 6),
                    read_ms_ago: text(row, 7).parse().unwrap_or_default(),
                };
                open_task(row, place)
            }));
        }
        Ok(found)
    }

    /// Where a task stands among those that are ready: it, and how many are served before it, its
    /// own stream's and those of higher ones. `None`: it is not among the first [`LOOKED_AT_MOST`].
    pub(crate) async fn ready_as(
        &self,
        shard: &Shard,
        id: &str,
    ) -> Result<Option<(OpenTask, u64)>, BrokerError> {
        let mut before = 0;
        for stream in Stream::IN_ORDER {
            let mut after = String::new();
            let mut looked_at = 0;
            while looked_at < LOOKED_AT_MOST {
                let page = self.ready_page(shard, stream, &after, STEP, id).await?;
                if let Some(task) = page.tasks.into_iter().next() {
                    return Ok(Some((task, before + self.rank(shard, stream, &after, id).await?)));
                }
                looked_at += page.looked_at;
                before += page.looked_at as u64;
                let Some(next) = page.next else { break };
                after = next;
            }
        }
        Ok(None)
    }

    /// How many tasks of the page after `after` are served before this one.
    async fn rank(
        &self,
        shard: &Shard,
        stream: Stream,
        after: &str,
        id: &str,
    ) -> Result<u64, BrokerError> {
        let page = self.ready_page(shard, stream, after, STEP, "").await?;
        // Served meanwhile, it is behind none.
        Ok(page.tasks.iter().position(|task| task.id == id).unwrap_or_default() as u64)
    }

    async fn ready_page(
        &self,
        shard: &Shard,
        stream: Stream,
        after: &str,
        count: usize,
        id: &str,
    ) -> Result<Page, BrokerError> {
        let mut call = self.scripts().peek_ready.key(shard.ready(stream));
        call.arg(after).arg(count).arg(id);
        let rows: Rows = self.call(&call).await?;
        let [head, rows @ ..] = rows.as_slice() else {
            return Err(BrokerError::Unexpected("peek_ready did not answer in rows".to_owned()));
        };
        let next = Some(text(head, 1)).filter(|next| !next.is_empty());
        let place = Place::Ready { stream: stream.as_str() };
        Ok(Page {
            looked_at: text(head, 0).parse().unwrap_or_default(),
            next,
            tasks: rows.iter().map(|row| open_task(row, place.clone())).collect(),
        })
    }
}

struct Page {
    looked_at: usize,
    next: Option<String>,
    tasks: Vec<OpenTask>,
}

impl Place {
    /// How long a worker has had it.
    pub fn held_for(&self) -> Option<Duration> {
        match self {
            Self::Held { read_ms_ago, .. } => Some(Duration::from_millis(*read_ms_ago)),
            _ => None,
        }
    }
}

fn open_task(row: &[Vec<u8>], place: Place) -> OpenTask {
    OpenTask {
        id: text(row, 1),
        task: text(row, 2),
        attempt: text(row, 3).parse().ok(),
        crashes: text(row, 4).parse().unwrap_or_default(),
        enqueued: time(row, 5),
        place,
    }
}

fn text(row: &[Vec<u8>], at: usize) -> String {
    row.get(at).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

/// A time in ms; scores may be written as floats.
fn time(row: &[Vec<u8>], at: usize) -> Option<DateTime<Utc>> {
    let ms: f64 = text(row, at).parse().ok()?;
    DateTime::from_timestamp_millis(ms as i64)
}
