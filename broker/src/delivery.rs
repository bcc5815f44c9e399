//! A task in the hands of a worker, and the table of all that are.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use umbel_proto::{Body, Envelope, EnvelopeError, Priority, TaskId, envelope::VERSION};

use crate::keys::{Shard, Stream};

/// What an entry was read from: one server and one making of the groups. The same entry id under
/// another epoch may be another task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Epoch {
    pub run_id: String,
    pub generation: String,
}

/// Which entry it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EntryKey {
    pub shard: Shard,
    pub stream: Stream,
    pub entry: String,
}

/// A task that was fetched and must be settled.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is run again only after this worker's lease"]
pub struct Delivery {
    pub(crate) key: EntryKey,
    pub(crate) epoch: Arc<Epoch>,
    /// The field `id` as it came: an entry that is no envelope may still have one.
    id: String,
    /// What came, or why it cannot be read.
    pub contents: Result<Contents, EnvelopeError>,
}

/// A readable task.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Its `env` is empty: it is unpacked in `body`.
    pub envelope: Envelope,
    pub body: Body,
}

impl Delivery {
    pub(crate) fn read(key: EntryKey, epoch: Arc<Epoch>, fields: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let field = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name.as_bytes())
                .map(|(_, value)| value.as_slice())
        };
        let id = field("id").and_then(|id| std::str::from_utf8(id).ok()?.parse::<TaskId>().ok());
        let contents = Envelope::read(field).and_then(|mut envelope| {
            // A newer body may be of any shape; it stays packed for a newer worker.
            let body =
                if envelope.version > VERSION { Body::default() } else { envelope.body()? };
            // Unpacked, it would only be held twice.
            envelope.env = Vec::new();
            Ok(Contents { envelope, body })
        });
        Self { key, epoch, id: id.map(String::from).unwrap_or_default(), contents }
    }

    /// The task's id, empty where the entry has none.
    pub(crate) fn id(&self) -> &str {
        &self.id
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

    /// The stream's id of the entry, for logs.
    pub fn entry(&self) -> &str {
        &self.key.entry
    }
}

/// The entries that this worker knows of: handed out by a fetch, their settle not answered yet.
///
/// What Redis thinks the worker holds and is not in here was delivered into a dead connection.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<HashSet<EntryKey>>>);

impl Held {
    pub(crate) fn insert(&self, key: EntryKey) {
        self.lock().insert(key);
    }

    pub(crate) fn keys(&self) -> HashSet<EntryKey> {
        self.lock().clone()
    }

    pub(crate) fn contains(&self, key: &EntryKey) -> bool {
        self.lock().contains(key)
    }

    pub(crate) fn remove<'a>(&self, keys: impl IntoIterator<Item = &'a EntryKey>) {
        let mut held = self.lock();
        for key in keys {
            held.remove(key);
        }
    }

    /// How many entries are held.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<EntryKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
