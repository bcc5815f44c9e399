//! A task in the hands of a worker, and the table of all that are.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use umbel_proto::{Body, Envelope, EnvelopeError, Priority, TaskName, envelope::VERSION};

use crate::{
    fields::field,
    keys::{Shard, Stream},
};

/// What an entry was read from: one server and one making of the groups. The same entry id under
/// another epoch may be another task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Epoch {
    pub run_id: String,
    pub generation: String,
}

/// Which entry it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryKey {
    pub shard: Shard,
    pub stream: Stream,
    pub entry: String,
}

impl Hash for EntryKey {
    // The entry tells nearly all apart, and each task goes through a table of these twice.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.entry.hash(state);
    }
}

/// Which run of which task an entry is: its fields `id` and `attempt` byte for byte, empty where it
/// has none. What is no envelope has them too, or neither.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    pub id: Vec<u8>,
    pub attempt: Vec<u8>,
}

/// A task that was fetched and must be settled.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is run again only after this worker's lease"]
pub struct Delivery {
    pub(crate) key: Arc<EntryKey>,
    pub(crate) epoch: Arc<Epoch>,
    pub(crate) run: Arc<Run>,
    /// Who has asked for its end before it was started.
    pub cancelled_by: Option<String>,
    /// What came, or why it cannot be read.
    pub contents: Result<Contents, EnvelopeError>,
}

/// A readable task.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Its `env` is empty: it is unpacked in `body`.
    pub envelope: Envelope,
    pub body: Body,
    /// When it was first parked; `None`: never.
    pub parked: Option<DateTime<Utc>>,
}

/// What a run is held as, while it is.
#[derive(Debug, Clone)]
pub struct HeldAs {
    key: Arc<EntryKey>,
    run: Arc<Run>,
}

impl Delivery {
    pub fn held_as(&self) -> HeldAs {
        HeldAs { key: self.key.clone(), run: self.run.clone() }
    }

    pub(crate) fn read<B: AsRef<[u8]>>(
        key: EntryKey,
        epoch: Arc<Epoch>,
        fields: &[(B, B)],
    ) -> Self {
        let field = |name: &str| field(fields, name);
        let text = |name| field(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let bytes = |name| field(name).unwrap_or_default().to_vec();
        let run = Arc::new(Run { id: bytes("id"), attempt: bytes("attempt") });
        let key = Arc::new(key);
        let parked =
            text("parked").and_then(|ms| DateTime::from_timestamp_millis(ms.parse().ok()?));
        let contents = Envelope::read(field).and_then(|mut envelope| {
            let body = envelope.known_body()?;
            // Unpacked, it would only be held twice.
            envelope.env = Vec::new();
            Ok(Contents { envelope, body, parked })
        });
        Self { key, epoch, run, cancelled_by: None, contents }
    }

    /// What the entry has as its task's id, for logs; empty where it has none.
    pub(crate) fn id(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.run.id)
    }

    /// Whether every state of it is written, not only its end.
    pub(crate) fn is_tracked(&self) -> bool {
        self.contents.as_ref().is_ok_and(|contents| contents.body.tracked)
    }

    /// Whether it was there when a worker died, and that counted against it.
    pub(crate) fn is_suspect(&self) -> bool {
        self.contents.as_ref().is_ok_and(|contents| contents.envelope.crashes > 0)
    }

    /// The name to park it under: a newer envelope waits for workers that understand it.
    pub(crate) fn parked_as(&self) -> String {
        let Ok(Contents { envelope, .. }) = &self.contents else { return String::new() };
        parked_as(envelope.task.as_str(), envelope.version)
    }

    /// The priority that the entry waited with, where its stream tells.
    pub fn priority(&self) -> Option<Priority> {
        match self.key.stream {
            Stream::Recovered => None,
            Stream::High => Some(Priority::High),
            Stream::Normal => Some(Priority::Normal),
            Stream::Low => Some(Priority::Low),
        }
    }

    /// The queue that it was read from.
    pub fn shard(&self) -> &Shard {
        &self.key.shard
    }

    /// The stream's id of the entry, for logs.
    pub fn entry(&self) -> &str {
        &self.key.entry
    }
}

/// What tasks of a name are parked under: those whose envelope is newer than this release apart.
pub(crate) fn parked_as(task: &str, version: u32) -> String {
    if version > VERSION { format!("{task}@{version}") } else { task.to_owned() }
}

/// The task that waits under a parked name, where this release understands its envelopes.
pub fn parked_task(name: &str) -> Option<TaskName> {
    let (task, version) = name.split_once('@').unwrap_or((name, "0"));
    task.parse().ok().filter(|_| version.parse().is_ok_and(|version: u32| version <= VERSION))
}

/// The entries that this worker knows of: handed out by a fetch, their settle not answered yet.
/// Each with its runs: a server that lost data may have given an id again, to another one.
///
/// What Redis thinks the worker holds and is not in here was delivered into a dead connection.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Known>>);

/// Entry → runs: one, but for the strangest of servers.
pub(crate) type Known = HashMap<Arc<EntryKey>, Runs>;

#[derive(Debug, Clone)]
pub(crate) struct Runs {
    first: Arc<Run>,
    others: Vec<Arc<Run>>,
}

impl Runs {
    fn contains(&self, run: &Run) -> bool {
        *self.first == *run || self.others.iter().any(|other| **other == *run)
    }

    /// Takes a run out; whether none is left.
    fn remove(&mut self, run: &Run) -> bool {
        if *self.first != *run {
            self.others.retain(|other| **other != *run);
            return false;
        }
        match self.others.pop() {
            Some(other) => self.first = other,
            None => return true,
        }
        false
    }
}

impl Held {
    pub(crate) fn insert(&self, deliveries: &[Delivery]) {
        let mut held = self.lock();
        for Delivery { key, run, .. } in deliveries {
            match held.entry(key.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Runs { first: run.clone(), others: Vec::new() });
                }
                Entry::Occupied(mut entry) => {
                    let runs = entry.get_mut();
                    if !runs.contains(run) {
                        runs.others.push(run.clone());
                    }
                }
            }
        }
    }

    pub(crate) fn known(&self) -> Known {
        self.lock().clone()
    }

    /// Whether this run is known under this entry; of an entry without a body, whether any is.
    pub(crate) fn knows(&self, key: &EntryKey, run: &Run) -> bool {
        knows(&self.lock(), key, run)
    }

    pub(crate) fn remove<'a>(&self, deliveries: impl IntoIterator<Item = &'a Delivery>) {
        let mut held = self.lock();
        for Delivery { key, run, .. } in deliveries {
            if held.get_mut(key).is_some_and(|runs| runs.remove(run)) {
                held.remove(key);
            }
        }
    }

    /// Whether this run is held still.
    pub fn has(&self, HeldAs { key, run }: &HeldAs) -> bool {
        self.knows(key, run)
    }

    /// How many tasks are held.
    pub fn len(&self) -> usize {
        self.lock().values().map(|runs| 1 + runs.others.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`Held::knows`], of what was known at some time.
pub(crate) fn knows(known: &Known, key: &EntryKey, run: &Run) -> bool {
    known.get(key).is_some_and(|runs| *run == Run::default() || runs.contains(run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_envelope_is_parked_apart_from_what_only_lacks_a_handler() {
        assert_eq!(parked_as("shop.first", VERSION), "shop.first");
        let newer = parked_as("shop.first", VERSION + 1);
        assert_ne!(newer, "shop.first");
        assert_eq!(parked_task("shop.first").unwrap().as_str(), "shop.first");
        assert_eq!(parked_task(&newer), None, "this release cannot run it");
        assert_eq!(parked_task(&format!("shop.first@{VERSION}")).unwrap().as_str(), "shop.first");
        assert_eq!(parked_task("No Name"), None);
    }
}
