//! A stream with its one group, as far as the protocol uses it.

use std::collections::BTreeMap;

use super::words::{Call, Stamp, Worker};

/// The fields of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    pub task: usize,
    pub call: Call,
    pub attempt: u32,
    pub crashes: u32,
    pub enqueued: Stamp,
    /// When it was first parked.
    pub parked: Option<Stamp>,
}

/// A task and its attempt.
pub type Run = (usize, u32);

impl Body {
    pub fn run(&self) -> Run {
        (self.task, self.attempt)
    }
}

/// A stream. Its entries are numbered in the order in which they were added, from one.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub entries: BTreeMap<u32, Body>,
    pub group: Option<Group>,
    added: u32,
}

#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The last entry that was delivered to anybody.
    pub last: u32,
    pub pending: BTreeMap<u32, Worker>,
    pub readers: BTreeMap<Worker, Reader>,
}

/// Whether the group knows a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Something was delivered to it.
    Certain,
    /// It has read and found nothing: some servers note it then, others do not.
    Possible,
}

impl Log {
    pub fn add(&mut self, body: Body) {
        self.added += 1;
        self.entries.insert(self.added, body);
    }

    /// Whether the group was missing.
    pub fn make_group(&mut self) -> bool {
        let missing = self.group.is_none();
        self.group.get_or_insert_default();
        missing
    }

    /// Delivers at most `count` entries that nobody was given yet. `None`: there is no group.
    pub fn read(&mut self, worker: Worker, count: usize) -> Option<Vec<u32>> {
        let group = self.group.as_mut()?;
        let new: Vec<u32> =
            self.entries.range(group.last + 1..).map(|(entry, _)| *entry).take(count).collect();
        for entry in &new {
            group.pending.insert(*entry, worker);
        }
        group.last = new.last().copied().unwrap_or(group.last);
        if new.is_empty() {
            group.readers.entry(worker).or_insert(Reader::Possible);
        } else {
            group.readers.insert(worker, Reader::Certain);
        }
        Some(new)
    }

    /// XACK: whether the entry was pending.
    pub fn acknowledge(&mut self, entry: u32) -> bool {
        self.group.as_mut().is_some_and(|group| group.pending.remove(&entry).is_some())
    }

    /// XDEL: whether the entry was there.
    pub fn delete(&mut self, entry: u32) -> bool {
        self.entries.remove(&entry).is_some()
    }

    /// What the worker was given and has not settled, in order.
    pub fn pending_of(&self, worker: Worker) -> Vec<u32> {
        let pending = self.group.iter().flat_map(|group| &group.pending);
        pending.filter(|(_, holder)| **holder == worker).map(|(entry, _)| *entry).collect()
    }

    pub fn is_pending_of(&self, worker: Worker, entry: u32) -> bool {
        self.group.as_ref().is_some_and(|group| group.pending.get(&entry) == Some(&worker))
    }
}
