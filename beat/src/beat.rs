//! The loop that fires a timetable: claim a due slot, then enqueue its task.

use std::{collections::HashSet, mem, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, warn};
use umbel_broker::{
    BrokerError, Client, NewTask,
    schedules::{EntryRecord, SHOW_EVERY},
};
use umbel_proto::TaskId;

use crate::{
    Entry, Timetable, meters,
    tick::{self, MAX_SKEW},
};

/// How soon a step that failed is tried again: often enough that an outage costs no more than its
/// own length, seldom enough that its log can be read.
const RETRY: Duration = Duration::from_secs(2);

/// How long a step may take in all, and with it a stop. What it had claimed by then is replayed.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Enqueues each task of a timetable once a slot.
///
/// Any number of beats may run, here and elsewhere, with the same timetable: a slot goes to the one
/// that claims it first. One that dies between claim and enqueue leaves the slot to the others, who
/// find it at their next step.
#[derive(Debug)]
pub struct Beat {
    client: Client,
    entries: Vec<Watched>,
    started: Option<DateTime<Utc>>,
    /// Whether Redis shows the entries and their last slots were read, with no failure since.
    joined: bool,
    /// When the entries were shown last.
    shown: Option<DateTime<Utc>>,
}

#[derive(Debug)]
struct Watched {
    entry: Entry,
    /// The latest slot that is known to be claimed. It may be behind Redis, which only costs a
    /// claim that is refused.
    last: Option<DateTime<Utc>>,
    /// When it is due next, as it is shown in Redis.
    next: Option<DateTime<Utc>>,
}

/// A slot whose task is in its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    pub entry: String,
    pub slot: DateTime<Utc>,
    pub task: TaskId,
}

/// Why a step broke off. Nothing is lost by it: the next one goes on where it ended.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Redis cannot be asked.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// One of two clocks is wrong: that of this machine, or that of Redis.
    #[error("it is {here} here and {redis} in redis; more than {MAX_SKEW:?} apart, nothing fires")]
    Clocks { here: DateTime<Utc>, redis: DateTime<Utc> },
}

impl Beat {
    pub fn new(client: Client, timetable: Timetable) -> Self {
        let entries = timetable.entries().iter().map(|entry| Watched {
            entry: entry.clone(),
            last: None,
            next: None,
        });
        let entries = entries.collect();
        Self { client, entries, started: None, joined: false, shown: None }
    }

    /// Fires until `shutdown`. Failures are logged and tried again; a step that has begun is ended
    /// first, within 10 s.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let (now, began) = (Utc::now(), Instant::now());
            let rest = match timeout(STEP_LIMIT, self.step(now)).await {
                // From the step's own `now`: a slot that came while it ran must not be slept over.
                Ok(Ok(_)) => sleep_until(began + self.sleep_from(now)),
                Ok(Err(StepError::Broker(error))) if error.is_transient() => {
                    warn!("nothing fires for now: {error}");
                    sleep(RETRY)
                }
                Ok(Err(error)) => {
                    error!("nothing fires: {error}");
                    sleep(RETRY)
                }
                Err(_) => {
                    warn!("a step did not end within {STEP_LIMIT:?}; its slots are taken up again");
                    sleep(RETRY)
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = rest => {}
            }
        }
    }

    /// Fires what was claimed and left, then what is due at `now`.
    ///
    /// # Errors
    ///
    /// Where nothing can be fired. What concerns the queue of one slot only (it is full, say) is
    /// logged, and the other entries go on.
    pub async fn step(&mut self, now: DateTime<Utc>) -> Result<Vec<Fired>, StepError> {
        let started = *self.started.get_or_insert(now);
        // Taken, so that whatever ends this step early makes the next one join again.
        let joined = mem::take(&mut self.joined);
        let redis = self.client.server_time().await?;
        if !tick::clocks_agree(now, redis) {
            return Err(StepError::Clocks { here: now, redis });
        }
        if !joined {
            self.join(now).await?;
        }
        let mut fired = Vec::new();
        let held = self.replay(now, &mut fired).await?;
        self.claim(started, now, &held, &mut fired).await?;
        self.joined = true;
        // For people only: what has fired has fired.
        if let Err(error) = self.show(now).await {
            warn!("could not show how the schedules stand: {error}");
        }
        Ok(fired)
    }

    /// Shows in Redis, now and then, that there is a beat with these entries, and always when they are
    /// due next.
    async fn show(&mut self, now: DateTime<Utc>) -> Result<(), BrokerError> {
        let every = TimeDelta::from_std(SHOW_EVERY).unwrap_or(TimeDelta::MAX);
        // A clock that was set back shows them as well.
        if self.shown.is_none_or(|shown| (now - shown).abs() >= every) {
            self.show_entries(now).await?;
        }
        let (mut changed, mut dues) = (Vec::new(), Vec::new());
        for Watched { entry, next, .. } in &self.entries {
            let due = entry.schedule.next_after(now);
            if due != *next
                && let Some(due) = due
            {
                changed.push((&*entry.name, due));
            }
            dues.push(due);
        }
        self.client.show_next(&changed).await?;
        // Only now: what Redis was not told is told by the next step.
        for (Watched { next, .. }, due) in self.entries.iter_mut().zip(dues) {
            *next = due;
        }
        Ok(())
    }

    async fn show_entries(&mut self, now: DateTime<Utc>) -> Result<(), BrokerError> {
        let records = self.entries.iter().map(|Watched { entry, .. }| EntryRecord {
            name: entry.name.clone(),
            schedule: entry.schedule.to_string(),
            zone: entry.schedule.zone(),
            task: entry.task.task.clone(),
            queue: entry.task.queue.clone(),
            seen: Some(now),
        });
        self.client.show_entries(&records.collect::<Vec<_>>()).await?;
        self.client.forget_entries(now).await?;
        self.shown = Some(now);
        Ok(())
    }

    /// Shows the entries in Redis and reads what was claimed of them.
    async fn join(&mut self, now: DateTime<Utc>) -> Result<(), BrokerError> {
        self.show_entries(now).await?;
        for Watched { entry, last, next } in &mut self.entries {
            // Redis may have lost what is shown.
            *next = None;
            // The later one: Redis may have lost what this beat still knows.
            *last = (*last).max(self.client.last_slot(&entry.name).await?);
            let (name, Some(last)) = (&entry.name, *last) else { continue };
            if last > now + MAX_SKEW {
                warn!(entry = %name, "the last slot of `{name}` is {last}: nothing fires before");
            }
            let latest = entry.schedule.slot_at_or_before(now);
            if let Some(slot) = latest.filter(|slot| *slot > last && tick::is_too_old(*slot, now)) {
                warn!(entry = %name, "`{name}` missed its slot {slot}: too old to be fired now");
            }
        }
        Ok(())
    }

    /// Fires claimed slots whose beat died, or is just about to fire them itself. The entries that
    /// are still held by one take no further slot, so that intents do not pile up on a full queue.
    async fn replay(
        &self,
        now: DateTime<Utc>,
        fired: &mut Vec<Fired>,
    ) -> Result<HashSet<String>, BrokerError> {
        let mut held = HashSet::new();
        for intent in self.client.open_intents().await? {
            let (name, slot) = (&intent.entry, intent.slot);
            if tick::is_too_old(slot, now) {
                warn!(entry = %name, "`{name}` missed its slot {slot}: too old to be fired now");
                self.client.miss_slot(name, slot, now).await?;
                meters::missed(name);
                continue;
            }
            match fire(&self.client, name, slot, intent.task, now).await? {
                Some(ours) => {
                    meters::late(slot);
                    fired.push(ours);
                }
                None => _ = held.insert(intent.entry),
            }
        }
        Ok(held)
    }

    async fn claim(
        &mut self,
        started: DateTime<Utc>,
        now: DateTime<Utc>,
        held: &HashSet<String>,
        fired: &mut Vec<Fired>,
    ) -> Result<(), BrokerError> {
        for Watched { entry, last, .. } in &mut self.entries {
            let name = &entry.name;
            if held.contains(name) {
                continue;
            }
            let Some(slot) = tick::due(&entry.schedule, *last, started, now) else { continue };
            // One that is new to everybody fires its current slot, however old that is.
            let is_late = last.is_some();
            let claimed = self.client.claim_slot(name, slot, &entry.task).await?;
            // Ours or not, this slot needs no second try.
            *last = Some(slot);
            if claimed && stood_still(now) {
                // Stopped in between, perhaps for a day: whether its key is still known is for the
                // next step to judge, which finds it claimed.
                warn!(entry = %name, "`{name}` was claimed long ago by now; it is taken up again");
                continue;
            }
            if claimed {
                let ours = fire(&self.client, name, slot, entry.task.clone(), now).await?;
                if is_late && ours.is_some() {
                    meters::late(slot);
                }
                fired.extend(ours);
            }
        }
        Ok(())
    }

    fn sleep_from(&self, now: DateTime<Utc>) -> Duration {
        tick::sleep_until_next(self.entries.iter().map(|watched| &watched.entry.schedule), now)
    }
}

/// Enqueues the task of a claimed slot. None where only this slot failed.
async fn fire(
    client: &Client,
    name: &str,
    slot: DateTime<Utc>,
    task: NewTask,
    now: DateTime<Utc>,
) -> Result<Option<Fired>, BrokerError> {
    let span = meters::span(name, slot);
    match client.fire_slot(name, slot, task, now).instrument(span).await {
        Ok(task) => {
            meters::fired(name);
            info!(entry = %name, task.id = %task, "fired `{name}` for {slot}");
            Ok(Some(Fired { entry: name.to_owned(), slot, task }))
        }
        // Under the key of this slot there is a task, if not this one: it has been fired.
        Err(error @ BrokerError::KeyConflict { .. }) => {
            error!(entry = %name, "`{name}` gives up its slot {slot}: {error}");
            client.miss_slot(name, slot, now).await?;
            meters::missed(name);
            Ok(None)
        }
        Err(error) if concerns_all(&error) => Err(error),
        Err(error) => {
            warn!(entry = %name, "`{name}` cannot fire its slot {slot} now: {error}");
            Ok(None)
        }
    }
}

/// Whether a step that began at `now` takes longer than one may, by the clock that goes on while a
/// process or its machine stands still.
fn stood_still(now: DateTime<Utc>) -> bool {
    (Utc::now() - now).to_std().is_ok_and(|passed| passed > STEP_LIMIT)
}

/// Whether the next call would fail like this one, whatever its slot.
fn concerns_all(error: &BrokerError) -> bool {
    error.is_transient() && !matches!(error, BrokerError::QueueFull { .. })
}
