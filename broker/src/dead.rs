//! Dead letters: tasks that failed for good. They are looked at, run again or deleted by hand.
//!
//! The stream of a queue's dead letters is never trimmed: nothing is lost without somebody's word. It
//! costs what the bodies cost, and how many there are stands in [`QueueStatus`](crate::QueueStatus).

mod letter;

use chrono::{DateTime, Utc};
use redis::cmd;
use serde::Serialize;
use umbel_proto::{EnvelopeError, QueueName, TaskId, TaskName};

pub use self::letter::{LetterId, LetterIdError};
use self::letter::{envelope, letter_id, shown, texts};

use crate::{
    BrokerError, Client, Why,
    fields::{Fields, field},
    keys::{Shard, Stream},
    script,
};

/// How many letters one page shows at most.
pub const PAGE_LONGEST: usize = 100;

/// How many letters one step takes: of the largest size as many as a client's buffers bear, 16 MiB.
const BATCH: usize = 64;

/// How many letters one call for all of them looks at; the next call goes on where it ended.
pub const SWEPT_MOST: usize = 4_096;

/// How much is told of an error, in bytes: a page must stay readable.
const TEXT_LONGEST: usize = 2_000;

/// A dead letter without its arguments. What was no envelope has of the task's fields what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    pub letter: LetterId,
    /// One of [`Why`], as a word.
    pub why: String,
    /// Cut at 2000 bytes in a list.
    pub error: String,
    /// Who buried it.
    pub worker: String,
    pub died: Option<DateTime<Utc>>,
    pub id: Option<String>,
    pub task: Option<String>,
    pub attempt: Option<u32>,
    pub crashes: Option<u32>,
    pub enqueued: Option<DateTime<Utc>>,
}

/// A dead letter, opened.
#[derive(Debug)]
pub struct OpenedLetter {
    pub letter: DeadLetter,
    /// The packed arguments, or why there are none to be read.
    pub args: Result<Vec<u8>, EnvelopeError>,
}

/// Some letters, and where the next ones begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letters {
    pub letters: Vec<DeadLetter>,
    /// Where to go on; `None`: there are no more.
    pub next: Option<LetterId>,
}

/// Which letters are meant. Default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    pub task: Option<TaskName>,
    pub why: Option<Why>,
}

/// What a call for all letters did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Run again, or deleted.
    pub done: u64,
    /// They cannot be run again and stay.
    pub refused: u64,
    /// There may be more, after this one.
    pub next: Option<LetterId>,
}

impl Client {
    /// Dead letters of a queue, the newest first; at most 100 a page. A page may hold fewer than
    /// `limit`, or none, and yet tell where to go on: with a filter only so many are looked at.
    pub async fn dead_letters(
        &self,
        queue: &QueueName,
        filter: &LetterFilter,
        before: Option<LetterId>,
        limit: usize,
    ) -> Result<Letters, BrokerError> {
        let limit = limit.clamp(1, PAGE_LONGEST);
        self.letters(queue, filter, "XREVRANGE", &beyond(before, "+"), "-", limit).await
    }

    /// One dead letter with its arguments; `None`: there is no such letter (any more).
    pub async fn dead_letter(
        &self,
        queue: &QueueName,
        letter: LetterId,
    ) -> Result<Option<OpenedLetter>, BrokerError> {
        Ok(self.body(queue, letter).await?.map(|fields| OpenedLetter {
            // Of a newer envelope too: whoever looks learns what can be read of it, or why nothing can.
            args: envelope(&fields).and_then(|envelope| envelope.body()).map(|body| body.args),
            letter: shown(letter, &texts(&fields)),
        }))
    }

    /// Runs a dead letter again, as a first attempt under the same task id. `None`: there is no such
    /// letter any more, for instance because somebody else was faster.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Unredrivable`] for what is no envelope, or was cut when it was buried;
    /// [`BrokerError::QueueFull`] where the queue is at its cap. The letter stays in both.
    pub async fn redrive(
        &self,
        queue: &QueueName,
        letter: LetterId,
    ) -> Result<Option<TaskId>, BrokerError> {
        let Some(fields) = self.body(queue, letter).await? else { return Ok(None) };
        let ready = Redrive::of(letter, &fields)?;
        let answers = self.redrive_batch(queue, std::slice::from_ref(&ready)).await?;
        match answers.first() {
            Some(Redriven::Waits) => Ok(Some(ready.id)),
            Some(Redriven::TooWide) => Err(ready.too_wide()),
            Some(Redriven::Full) => Err(BrokerError::QueueFull { queue: queue.clone() }),
            Some(Redriven::Gone) | None => Ok(None),
        }
    }

    /// Runs all dead letters of a filter again, the oldest first: those that were there when it began,
    /// `after` a given one, at most 4096 a call. Any number of such calls may run at once; each
    /// letter is run again by one of them.
    ///
    /// # Errors
    ///
    /// As [`redrive`](Self::redrive), but that what cannot be run again is counted and stays. What
    /// was run again before an error stays so.
    pub async fn redrive_all(
        &self,
        queue: &QueueName,
        filter: &LetterFilter,
        after: Option<LetterId>,
    ) -> Result<Swept, BrokerError> {
        // What dies again meanwhile comes behind it, and is not taken a second time.
        let Some(last) = self.newest(queue).await? else { return Ok(Swept::default()) };
        let mut swept = Swept { next: after, ..Swept::default() };
        for _ in 0..SWEPT_MOST / BATCH {
            let from = beyond(swept.next, "-");
            let found = self.bodies(queue, &from, &last.to_string(), BATCH).await?;
            let Some((end, _)) = found.last() else {
                swept.next = None;
                return Ok(swept);
            };
            let end = *end;
            let mut ready = Vec::new();
            for (letter, fields) in found.iter().filter(|(_, fields)| filter.fits(fields)) {
                match Redrive::of(*letter, fields) {
                    Ok(letter) => ready.push(letter),
                    Err(_) => swept.refused += 1,
                }
            }
            for answer in self.redrive_batch(queue, &ready).await? {
                match answer {
                    Redriven::Waits => swept.done += 1,
                    Redriven::Gone => {}
                    Redriven::TooWide => swept.refused += 1,
                    Redriven::Full => {
                        return Err(BrokerError::QueueFull { queue: queue.clone() });
                    }
                }
            }
            swept.next = (found.len() == BATCH).then_some(end);
            if swept.next.is_none() {
                break;
            }
        }
        Ok(swept)
    }

    /// Deletes a dead letter. Whether there was one.
    pub async fn delete_letter(
        &self,
        queue: &QueueName,
        letter: LetterId,
    ) -> Result<bool, BrokerError> {
        Ok(self.delete(queue, &[letter]).await? == 1)
    }

    /// Deletes all dead letters of a filter that were there when it began, `after` a given one, the
    /// oldest first, at most 4096 a call.
    pub async fn delete_letters(
        &self,
        queue: &QueueName,
        filter: &LetterFilter,
        after: Option<LetterId>,
    ) -> Result<Swept, BrokerError> {
        let Some(last) = self.newest(queue).await? else { return Ok(Swept::default()) };
        let mut swept = Swept { next: after, ..Swept::default() };
        for _ in 0..SWEPT_MOST / PAGE_LONGEST {
            let (from, to) = (beyond(swept.next, "-"), last.to_string());
            let page = self.letters(queue, filter, "XRANGE", &from, &to, PAGE_LONGEST).await?;
            let meant: Vec<LetterId> = page.letters.iter().map(|letter| letter.letter).collect();
            if !meant.is_empty() {
                swept.done += self.delete(queue, &meant).await?;
            }
            swept.next = page.next;
            if swept.next.is_none() {
                break;
            }
        }
        Ok(swept)
    }

    async fn delete(&self, queue: &QueueName, letters: &[LetterId]) -> Result<u64, BrokerError> {
        let ids: Vec<String> = letters.iter().map(LetterId::to_string).collect();
        self.query(cmd("XDEL").arg(Shard::first(queue).dead()).arg(ids)).await
    }

    async fn newest(&self, queue: &QueueName) -> Result<Option<LetterId>, BrokerError> {
        let newest =
            self.letters(queue, &LetterFilter::default(), "XREVRANGE", "+", "-", 1).await?;
        Ok(newest.letters.first().map(|letter| letter.letter))
    }

    async fn letters(
        &self,
        queue: &QueueName,
        filter: &LetterFilter,
        range: &str,
        from: &str,
        to: &str,
        looked_at: usize,
    ) -> Result<Letters, BrokerError> {
        let mut call = self.scripts().letters.key(Shard::first(queue).dead());
        call.arg(range)
            .arg(from)
            .arg(to)
            .arg(looked_at)
            .arg(filter.task.as_ref().map_or("", TaskName::as_str))
            .arg(filter.why.map_or("", |why| why.as_str()))
            .arg(TEXT_LONGEST);
        let rows: Vec<Vec<Vec<u8>>> = self.call(&call).await?;
        let unexpected = || BrokerError::Unexpected("letters did not answer in rows".to_owned());
        let [last, rows @ ..] = rows.as_slice() else { return Err(unexpected()) };
        let [last] = last.as_slice() else { return Err(unexpected()) };
        let letters = rows.iter().map(|row| {
            let (entry, fields) = row.split_first()?;
            let pairs = fields.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            let fields: Fields = pairs.collect();
            Some(shown(letter_id(entry).ok()?, &texts(&fields)))
        });
        let letters = letters.collect::<Option<Vec<_>>>().ok_or_else(unexpected)?;
        let next = if last.is_empty() { None } else { Some(letter_id(last)?) };
        Ok(Letters { letters, next })
    }

    async fn body(
        &self,
        queue: &QueueName,
        letter: LetterId,
    ) -> Result<Option<Fields>, BrokerError> {
        let id = letter.to_string();
        let found = self.bodies(queue, &id, &id, 1).await?;
        Ok(found.into_iter().next().map(|(_, fields)| fields))
    }

    async fn bodies(
        &self,
        queue: &QueueName,
        from: &str,
        to: &str,
        count: usize,
    ) -> Result<Vec<(LetterId, Fields)>, BrokerError> {
        let dead = Shard::first(queue).dead();
        let found: Vec<(String, Fields)> =
            self.query(cmd("XRANGE").arg(dead).arg(from).arg(to).arg("COUNT").arg(count)).await?;
        found.into_iter().map(|(id, fields)| Ok((letter_id(id.as_bytes())?, fields))).collect()
    }

    async fn redrive_batch(
        &self,
        queue: &QueueName,
        letters: &[Redrive],
    ) -> Result<Vec<Redriven>, BrokerError> {
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let shard = Shard::first(queue);
        let mut call = script::of_shard(&self.scripts().redrive, &shard);
        call.key(shard.dead()).key(shard.delayed()).arg(shard.prefix());
        for redrive in letters {
            call.arg(redrive.letter.to_string())
                .arg(redrive.id.as_str())
                .arg(redrive.stream.key_index())
                .arg(u8::from(redrive.tracked))
                .arg(redrive.max_attempts)
                .arg(&redrive.owner);
        }
        let answers: Vec<String> = self.call(&call).await?;
        let read = answers.iter().map(|answer| match answer.as_str() {
            "1" => Some(Redriven::Waits),
            "0" => Some(Redriven::Gone),
            "WIDE" => Some(Redriven::TooWide),
            "FULL" => Some(Redriven::Full),
            _ => None,
        });
        read.collect::<Option<Vec<_>>>()
            .filter(|read| read.len() == letters.len())
            .ok_or_else(|| BrokerError::Unexpected("redrive did not answer for all".to_owned()))
    }
}

/// Where a range of letters begins: behind a letter, or at this end of all.
fn beyond(letter: Option<LetterId>, end: &str) -> String {
    letter.map_or(end.to_owned(), |letter| format!("({letter}"))
}

/// What the script is told of a letter that can be run again.
struct Redrive {
    letter: LetterId,
    id: TaskId,
    stream: Stream,
    tracked: bool,
    max_attempts: u32,
    owner: String,
}

enum Redriven {
    Waits,
    Gone,
    TooWide,
    Full,
}

impl Redrive {
    fn of(letter: LetterId, fields: &Fields) -> Result<Self, BrokerError> {
        let opened = envelope(fields).and_then(|envelope| Ok((envelope.known_body()?, envelope)));
        let (body, envelope) = opened.map_err(|error| BrokerError::Unredrivable {
            letter,
            reason: crate::error::chain(&error),
        })?;
        Ok(Self {
            letter,
            stream: body.priority.unwrap_or_default().into(),
            owner: body.owner.clone().unwrap_or_default(),
            tracked: body.tracked,
            // Only for a record that has expired meanwhile: the task's own is not known here, and
            // the end of the task writes it.
            max_attempts: body.max_attempts.unwrap_or(envelope.attempt),
            id: envelope.id,
        })
    }

    fn too_wide(&self) -> BrokerError {
        let reason = "it had too many fields to be kept whole when it was buried".to_owned();
        BrokerError::Unredrivable { letter: self.letter, reason }
    }
}

impl LetterFilter {
    fn fits(&self, fields: &Fields) -> bool {
        let is = |name, wanted: Option<&str>| {
            wanted.is_none_or(|wanted| field(fields, name) == Some(wanted.as_bytes()))
        };
        is("task", self.task.as_ref().map(TaskName::as_str))
            && is("why", self.why.map(|why| why.as_str()))
    }
}
