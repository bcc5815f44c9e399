//! What the steps of a check did: the events that it must come past, or it has checked less than
//! it says, and what broke on the way.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What a step can break that the state after it does not show.
#[derive(Debug, Clone, Copy)]
pub enum Invariant {
    LostGate,
    Counters,
    Marked,
    OtherTask,
}

impl Invariant {
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a check comes past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A settle lost the gate.
    StaleRefused,
    /// A settle arrived that was of another epoch.
    EpochRefused,
    /// After an EPOCH a worker kept what was still its own.
    Kept,
    /// After an EPOCH a worker dropped what was not its own any more.
    Dropped,
    /// Of these, where the entry's id stood for another task by then.
    IdReused,
    /// A worker took in hand what had been delivered and never came.
    GhostAdopted,
    /// After a loss of data a worker has an entry in hand twice. Both run; the gate takes one.
    InHandTwice,
    /// A start was refused.
    NotStarted,
    /// A worker learned that it had been declared dead.
    Fenced,
    /// A beat came between the observation and the declaration.
    NotDeclared,
    Recovered,
    /// A task was recovered for the second time.
    RecoveredTwice,
    /// A dead worker held something again and was recovered again.
    RecoveredAgain,
    /// A recovery ran whose mark had gone with lost data.
    RecoveredUnmarked,
    /// A task went with lost data.
    Lost,
    /// A task was completed whose completion had gone with lost data.
    CompletedAgain,
}

impl Event {
    pub const ALL: [Self; 16] = [
        Self::StaleRefused,
        Self::EpochRefused,
        Self::Kept,
        Self::Dropped,
        Self::IdReused,
        Self::GhostAdopted,
        Self::InHandTwice,
        Self::NotStarted,
        Self::Fenced,
        Self::NotDeclared,
        Self::Recovered,
        Self::RecoveredTwice,
        Self::RecoveredAgain,
        Self::RecoveredUnmarked,
        Self::Lost,
        Self::CompletedAgain,
    ];
}

/// What a step did beside changing the state.
#[derive(Debug, Default)]
pub struct Log {
    events: Vec<Event>,
    broken: u8,
}

impl Log {
    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    pub fn breaks(&mut self, invariant: Invariant) {
        self.broken |= invariant.bit();
    }

    pub fn broken(&self) -> u8 {
        self.broken
    }
}

/// How often each event happened. A check takes each step of the space once, so the figures are
/// exact.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<[AtomicU64; Event::ALL.len()]>);

impl Tally {
    pub fn note(&self, log: &Log) {
        for event in &log.events {
            self.0[*event as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn of(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }
}
