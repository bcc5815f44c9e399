//! What Redis should think: who holds which entry, and so what each settle must come to.

use std::collections::{BTreeMap, HashMap, HashSet};

use umbel_broker::{Contents, Delivery, Verdict};
use umbel_proto::{Priority, Task};
use umbel_tests::probe::Probe;

/// A delivery in a worker's hands.
#[derive(Debug)]
pub struct InHand {
    pub delivery: Delivery,
    pub note: Note,
}

/// What is remembered of a delivery once it is on its way to be settled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Note {
    pub entry: Entry,
    pub task: String,
    pub priority: Priority,
    pub is_tracked: bool,
    pub attempt: u32,
    pub max_attempts: u32,
    pub crashes: u32,
    /// How often the server had been restarted when it was read, or looked at again.
    pub epoch: u32,
}

impl Note {
    /// Whether its start is written down, and so is refused where it is another's.
    pub fn start_is_written(&self) -> bool {
        self.is_tracked || self.crashes > 0
    }
}

/// An entry: its stream, by the priority that this tells, and its id there.
pub type Entry = (Option<Priority>, String);

/// What a settle comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Settled,
    /// Refused by the gate.
    Stale,
    /// Given up by the worker: after a restart the server did not know it as the worker's.
    Dropped,
}

/// What must be so, by the answers that workers got.
#[derive(Debug, Default)]
pub struct Model {
    /// The entries in the hands of workers that have been seen there.
    owners: HashMap<Entry, String>,
    seen: HashSet<Entry>,
    /// The attempt that each task is in, where it is not the first.
    attempts: HashMap<String, u32>,
    epoch: u32,
    /// The accepted completions whose answer tells which they were: task → worker and entry.
    pub completed: BTreeMap<String, (String, String)>,
    /// Accepted completions of which only the number is known: they raced with a recovery.
    pub completed_in_races: u64,
    pub buried: u64,
    pub discarded: u64,
}

impl Model {
    /// The server was restarted: what was read before needs a second look.
    pub fn restarted(&mut self) {
        self.epoch += 1;
    }

    /// A worker was given something. Panics if that entry was ever given out before.
    pub fn delivered(&mut self, worker: &str, delivery: Delivery) -> InHand {
        let Contents { envelope, body, .. } =
            delivery.contents.as_ref().expect("every task here is an envelope");
        let note = Note {
            entry: (delivery.priority(), delivery.entry().to_owned()),
            task: envelope.id.to_string(),
            priority: body.priority.or(delivery.priority()).unwrap_or_default(),
            is_tracked: body.tracked,
            attempt: envelope.attempt,
            max_attempts: body.max_attempts(&Probe::OPTIONS),
            crashes: envelope.crashes,
            epoch: self.epoch,
        };
        assert!(self.seen.insert(note.entry.clone()), "given out a second time: {note:?}");
        assert_eq!(note.attempt, self.attempts.get(&note.task).copied().unwrap_or(1), "{note:?}");
        self.owners.insert(note.entry.clone(), worker.to_owned());
        InHand { delivery, note }
    }

    /// The server was asked again about what a worker holds, and knows it.
    pub fn looked_at_again(&self, note: &Note) -> Note {
        Note { epoch: self.epoch, ..note.clone() }
    }

    /// Whether the server was not restarted since this was read.
    pub fn is_fresh(&self, note: &Note) -> bool {
        note.epoch == self.epoch
    }

    pub fn holds(&self, worker: &str, note: &Note) -> bool {
        self.owners.get(&note.entry).is_some_and(|owner| owner == worker)
    }

    /// The entries that a worker holds, without those that it never saw.
    pub fn held_by(&self, worker: &str) -> impl Iterator<Item = &Entry> {
        self.owners.iter().filter(move |(_, owner)| *owner == worker).map(|(entry, _)| entry)
    }

    /// What a worker held is not its own any more.
    pub fn recovered(&mut self, worker: &str) {
        self.owners.retain(|_, owner| owner != worker);
    }

    /// What this settle would come to now.
    pub fn foresee(&self, worker: &str, note: &Note) -> Outcome {
        match (self.holds(worker, note), self.is_fresh(note)) {
            (true, _) => Outcome::Settled,
            (false, true) => Outcome::Stale,
            (false, false) => Outcome::Dropped,
        }
    }

    /// A settle reached the server: what it comes to.
    pub fn settle(&mut self, worker: &str, note: &Note, verdict: &Verdict) -> Outcome {
        let outcome = self.foresee(worker, note);
        if outcome == Outcome::Settled {
            self.owners.remove(&note.entry);
            match verdict {
                Verdict::Complete { .. } => {
                    let by = (worker.to_owned(), note.entry.1.clone());
                    let before = self.completed.insert(note.task.clone(), by);
                    assert_eq!(before, None, "completed twice: {note:?}");
                }
                Verdict::Bury { .. } => self.buried += 1,
                Verdict::Discard { .. } => self.discarded += 1,
                Verdict::Retry { .. } => {
                    self.attempts.insert(note.task.clone(), note.attempt + 1);
                }
                Verdict::Defer { .. } | Verdict::Park { .. } | Verdict::Release => {}
            }
        }
        outcome
    }

    /// How many tasks have ended.
    pub fn ended(&self) -> u64 {
        self.completed.len() as u64 + self.completed_in_races + self.buried + self.discarded
    }
}
