//! The end of a run: what becomes of a task, written in the step that acknowledges it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::ScriptInvocation;
use umbel_proto::{Priority, TaskOptions, TaskState};

use crate::{
    BrokerError, Client, Delivery, Held,
    delivery::{Contents, Epoch},
    keys::{Shard, Stream},
    reconcile, script,
};

/// The longest that the state of an ended task is kept: Redis refuses absurd times to live, and a
/// settle must not fail half way.
const RESULT_TTL_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A time to live as Redis takes it, in whole seconds.
pub(crate) fn ttl_s(ttl: Duration) -> u64 {
    ttl.min(RESULT_TTL_MAX).as_secs()
}

/// What becomes of a task after a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It succeeded; `output` is kept as its result.
    Complete { output: Vec<u8> },
    /// It runs again after `delay`, as its next attempt.
    Retry { delay: Duration, error: String },
    /// It runs again after `delay`, as the same attempt.
    Defer { delay: Duration, reason: String },
    /// It becomes a dead letter.
    Bury { why: Why, error: String },
    /// It ends without having run to its end: cancelled or expired.
    Discard { state: TaskState, by: String },
    /// It waits for a worker that can run it, at most for `left`, as the same attempt.
    Park { left: Duration, reason: String },
    /// It goes back to be taken by any worker, as the same attempt.
    Release,
}

/// Why a task is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its attempts are spent.
    Attempts,
    /// It said that no attempt will succeed.
    Fatal,
    /// Its arguments are not those of its name.
    Args,
    /// Too many workers died over it.
    Crash,
    /// No worker knew its name in time.
    Unknown,
    /// It is no envelope.
    Unreadable,
}

impl Why {
    pub const ALL: [Self; 6] =
        [Self::Attempts, Self::Fatal, Self::Args, Self::Crash, Self::Unknown, Self::Unreadable];

    /// Why, by its word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.as_str() == word)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Fatal => "fatal",
            Self::Args => "args",
            Self::Crash => "crash",
            Self::Unknown => "unknown",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What the broker must know of a task to settle it, beyond its envelope.
#[derive(Debug, Clone)]
pub struct Terms {
    pub priority: Priority,
    pub max_attempts: u32,
    /// How long the state of the ended task is kept; zero keeps nothing.
    pub result_ttl: Duration,
    /// When the run began; `None` where it never did.
    pub started: Option<DateTime<Utc>>,
}

impl Terms {
    /// Those of a delivery that was not run.
    pub fn not_run(options: &TaskOptions) -> Self {
        Self {
            priority: options.priority,
            max_attempts: options.max_attempts,
            result_ttl: options.result_ttl,
            started: None,
        }
    }
}

impl Terms {
    /// For a script: empty where it never began.
    fn started_ms(&self) -> String {
        self.started.map(|at| at.timestamp_millis().to_string()).unwrap_or_default()
    }
}

/// A run that ended.
#[derive(Debug)]
pub struct Settlement {
    pub delivery: Delivery,
    pub verdict: Verdict,
    pub terms: Terms,
}

impl Settlement {
    /// About how much is said to Redis of it.
    pub(crate) fn bytes(&self) -> usize {
        match &self.verdict {
            Verdict::Complete { output } => output.len(),
            Verdict::Retry { error, .. } | Verdict::Bury { error, .. } => error.len(),
            _ => 0,
        }
    }
}

/// What a settle was answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Settled,
    /// The entry is not ours any more; nothing was written for it.
    Stale,
    /// The entry was ours and had lost its body.
    Gone,
}

/// What a start was answered with.
enum Started {
    Runs,
    /// The entry is not ours any more.
    Gone,
    /// Somebody has asked for its end.
    Cancelled(String),
}

impl Verdict {
    /// The verb of the script, and the two values that go with it.
    fn words(&self, delivery: &Delivery, now: DateTime<Utc>) -> (&'static str, Vec<u8>, &str) {
        let after = |delay: &Duration| {
            let delay = chrono::Duration::from_std(*delay).unwrap_or(chrono::Duration::MAX);
            let at = now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC);
            at.timestamp_millis()
        };
        let due = |delay| after(delay).to_string().into_bytes();
        match self {
            Self::Complete { output } => ("complete", output.clone(), ""),
            Self::Retry { delay, error } => ("retry", due(delay), error),
            Self::Defer { delay, reason } => ("defer", due(delay), reason),
            Self::Bury { why, error } => ("bury", why.as_str().into(), error),
            Self::Discard { state, by } => ("discard", state.as_str().into(), by),
            Self::Park { left, reason } => {
                let words = format!("{} {}", after(left), delivery.parked_as());
                ("park", words.into_bytes(), reason)
            }
            Self::Release => ("release", Vec::new(), ""),
        }
    }
}

/// What runs have in common that succeeded and are no suspects, as nearly all are: little is to be
/// said of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Many<'a> {
    stream: Stream,
    is_tracked: bool,
    ttl_s: u64,
    task: &'a str,
    attempt: &'a [u8],
    max_attempts: u32,
}

impl<'a> Many<'a> {
    fn of(settlement: &'a Settlement, epoch: &Epoch) -> Option<Self> {
        let Settlement { delivery, verdict, terms } = settlement;
        let contents = delivery.contents.as_ref().ok()?;
        let is_one = matches!(verdict, Verdict::Complete { .. })
            && !delivery.is_suspect()
            // Else each is compared with its entry.
            && !epoch.run_id.is_empty();
        is_one.then(|| Self {
            stream: delivery.key.stream,
            is_tracked: delivery.is_tracked(),
            ttl_s: ttl_s(terms.result_ttl),
            task: contents.envelope.task.as_str(),
            attempt: &delivery.run.attempt,
            max_attempts: terms.max_attempts,
        })
    }

    fn put(self, runs: &[Settlement], call: &mut ScriptInvocation<'_>) {
        let Self { stream, is_tracked, ttl_s, task, attempt, max_attempts } = self;
        call.arg(runs.len())
            .arg(stream.key_index())
            .arg(u8::from(is_tracked))
            .arg(ttl_s)
            .arg(task)
            .arg(attempt)
            .arg(max_attempts);
        for Settlement { delivery, verdict, terms } in runs {
            call.arg(&delivery.key.entry);
            if let (Verdict::Complete { output }, Ok(Contents { envelope, .. }), true) =
                (verdict, &delivery.contents, is_tracked || ttl_s > 0)
            {
                call.arg(&delivery.run.id)
                    .arg(envelope.enqueued.timestamp_millis())
                    .arg(terms.started_ms())
                    .arg(output);
            }
        }
    }
}

/// The arguments of the script for a run of any kind.
fn put_any(settlement: &Settlement, now: DateTime<Utc>, call: &mut ScriptInvocation<'_>) {
    let Settlement { delivery, verdict, terms } = settlement;
    let contents = delivery.contents.as_ref().ok();
    let envelope = contents.map(|contents| &contents.envelope);
    let (verb, a, b) = verdict.words(delivery, now);
    call.arg(0)
        .arg(delivery.key.stream.key_index())
        .arg(&delivery.key.entry)
        .arg(&delivery.run.id)
        .arg(verb)
        .arg(u8::from(delivery.is_tracked()))
        .arg(u8::from(delivery.is_suspect()))
        .arg(ttl_s(terms.result_ttl))
        .arg(envelope.map_or("", |envelope| envelope.task.as_str()))
        .arg(Stream::from(terms.priority).key_index())
        .arg(&delivery.run.attempt)
        .arg(terms.max_attempts)
        .arg(envelope.map_or(0, |envelope| envelope.enqueued.timestamp_millis()))
        .arg(terms.started_ms())
        .arg(a)
        .arg(b);
}

impl Client {
    /// Settles runs of one shard and epoch in one step. `None`: the epoch is not that of the
    /// server any more, and nothing was changed.
    pub(crate) async fn settle(
        &self,
        shard: &Shard,
        epoch: &Epoch,
        worker: &str,
        batch: &[Settlement],
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<Answer>>, BrokerError> {
        let mut call = script::of_shard(&self.scripts().settle, shard);
        call.key(shard.delayed())
            .key(shard.waiting())
            .key(shard.dead())
            .key(shard.suspects())
            .key(shard.parked());
        call.arg(&epoch.run_id)
            .arg(&epoch.generation)
            .arg(shard.prefix())
            .arg(worker)
            .arg(now.timestamp_millis());
        for some in batch
            .chunk_by(|a, b| Many::of(a, epoch).is_some_and(|of| Many::of(b, epoch) == Some(of)))
        {
            match Many::of(&some[0], epoch) {
                Some(many) => many.put(some, &mut call),
                None => put_any(&some[0], now, &mut call),
            }
        }
        let answer: Vec<String> = self.call(&call).await?;
        if answer == ["1"] {
            return Ok(Some(vec![Answer::Settled; batch.len()]));
        }
        answers(answer, batch.len(), |answer| match answer {
            "1" => Some(Answer::Settled),
            "0" => Some(Answer::Stale),
            "2" => Some(Answer::Gone),
            _ => None,
        })
    }

    /// Says of the tracked tasks among `deliveries`, and of those that were there when a worker
    /// died, that they run; gives back those that this worker still holds. Of those that somebody
    /// has cancelled it notes who, and not that they run.
    pub async fn start(
        &self,
        worker: &str,
        held: &Held,
        deliveries: Vec<Delivery>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Delivery>, (Vec<Delivery>, BrokerError)> {
        let is_noted = |delivery: &Delivery| delivery.is_tracked() || delivery.is_suspect();
        if !deliveries.iter().any(is_noted) {
            return Ok(deliveries);
        }
        let (mut waiting, mut ready): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_noted);
        while let Some(last) = waiting.last() {
            let (shard, epoch) = (last.key.shard.clone(), last.epoch.clone());
            let (batch, rest): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|delivery| delivery.key.shard == shard && delivery.epoch == epoch);
            waiting = rest;
            match self.start_batch(&shard, &epoch, worker, &batch, now).await {
                Ok(Some(answers)) => {
                    for (mut delivery, answer) in batch.into_iter().zip(answers) {
                        match answer {
                            Started::Gone => held.remove([&delivery]),
                            Started::Runs => ready.push(delivery),
                            Started::Cancelled(by) => {
                                delivery.cancelled_by = Some(by);
                                ready.push(delivery);
                            }
                        }
                    }
                }
                Ok(None) => match self.revalidate(&shard, worker, batch, |d| d, held).await {
                    Ok(valid) => waiting.extend(valid),
                    Err((batch, error)) => {
                        ready.extend(batch);
                        ready.extend(waiting);
                        return Err((ready, error));
                    }
                },
                Err(error) => {
                    ready.extend(batch);
                    ready.extend(waiting);
                    return Err((ready, error));
                }
            }
        }
        Ok(ready)
    }

    async fn start_batch(
        &self,
        shard: &Shard,
        epoch: &Epoch,
        worker: &str,
        batch: &[Delivery],
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<Started>>, BrokerError> {
        let mut call = script::of_shard(&self.scripts().start, shard);
        call.key(shard.suspects())
            .arg(&epoch.run_id)
            .arg(&epoch.generation)
            .arg(shard.prefix())
            .arg(worker)
            .arg(now.timestamp_millis());
        for delivery in batch {
            call.arg(delivery.key.stream.key_index())
                .arg(&delivery.key.entry)
                .arg(&delivery.run.id)
                .arg(&delivery.run.attempt)
                .arg(u8::from(delivery.is_tracked()))
                .arg(u8::from(delivery.is_suspect()));
        }
        answers(self.call(&call).await?, batch.len(), |answer| match answer {
            "1" => Some(Started::Runs),
            "0" => Some(Started::Gone),
            asked => asked.strip_prefix("cancelled ").map(|by| Started::Cancelled(by.to_owned())),
        })
    }

    /// After a change of epoch: keeps and re-tags what this worker still holds by the server's
    /// word, same entry and same run; the rest is not ours any more and is dropped.
    pub(crate) async fn revalidate<T>(
        &self,
        shard: &Shard,
        worker: &str,
        items: Vec<T>,
        delivery: impl Fn(&mut T) -> &mut Delivery,
        held: &Held,
    ) -> Result<Vec<T>, (Vec<T>, BrokerError)> {
        let pending =
            match reconcile::pending(self.scripts(), shard, worker, &mut self.connection()).await {
                Ok(pending) => pending,
                Err(error) => return Err((items, error)),
            };
        let mut valid = Vec::new();
        for mut item in items {
            let held_here = delivery(&mut item);
            if pending.entries.get(&*held_here.key) == Some(&*held_here.run) {
                held_here.epoch = pending.epoch.clone();
                valid.push(item);
            } else {
                tracing::warn!(
                    entry = held_here.key.entry,
                    task.id = %held_here.id(),
                    "dropping a task that the server does not know as ours any more"
                );
                held.remove([&*held_here]);
            }
        }
        Ok(valid)
    }
}

fn answers<T>(
    raw: Vec<String>,
    asked: usize,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, BrokerError> {
    if raw.first().is_some_and(|first| first == "EPOCH") {
        return Ok(None);
    }
    let all: Option<Vec<T>> = raw.iter().map(|answer| read(answer)).collect();
    all.filter(|all| all.len() == asked)
        .map(Some)
        .ok_or_else(|| BrokerError::Unexpected("a script did not answer for all".to_owned()))
}
