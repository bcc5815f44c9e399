//! What the protocol prescribes, each rule to be broken alone, and how much may go wrong in a run.

use super::state::{Entry, Epoch};

/// The charged death after which a task is buried instead of started: one less than in the
/// workers, where it is the third.
pub const CRASH_LIMIT: u8 = 2;

/// What the protocol prescribes. `false` breaks a rule.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A settle is refused where the `run_id` of the server is not that of its entries.
    pub run_compared: bool,
    /// A settle is refused where the groups are not of the generation of its entries.
    pub generation_compared: bool,
    /// A settle is refused where the entry is another delivery: the fence for servers that hide
    /// their `run_id`, in place of the two above.
    pub entry_compared: bool,
    /// After an EPOCH only what is still pending as the same delivery is kept.
    pub revalidated: bool,
    /// The same delivery is not only the same task but the same attempt, too: a failover can give
    /// an entry's id to another attempt, and the retry of a late one would not be counted.
    pub attempt_compared: bool,
    /// An entry is tagged with the `run_id` that was read before it.
    pub tagged_before_read: bool,
    /// Nothing is written for an entry that neither XACK nor XDEL gave to the settle.
    pub gate_heeded: bool,
    /// Who acknowledges an entry deletes it in the same step.
    pub deleted_with_ack: bool,
    /// Recovery adds a task under a new entry id; broken, it claims the entry for a live worker.
    pub added_anew: bool,
    /// A consumer is deleted only when nothing is pending for it.
    pub deleted_when_empty: bool,
    /// A silent worker is declared dead before it is recovered.
    pub declared_first: bool,
    /// A worker that was declared dead beats no more.
    pub mark_heeded: bool,
    /// Who is dead and holds something is recovered again, not only when it is declared.
    pub recovered_as_a_level: bool,
    /// From the second death on only a task that was started is charged.
    pub only_suspects_charged: bool,
}

impl Rules {
    pub const KEPT: Self = Self {
        run_compared: true,
        generation_compared: true,
        entry_compared: false,
        revalidated: true,
        attempt_compared: true,
        tagged_before_read: true,
        gate_heeded: true,
        deleted_with_ack: true,
        added_anew: true,
        deleted_when_empty: true,
        declared_first: true,
        mark_heeded: true,
        recovered_as_a_level: true,
        only_suspects_charged: true,
    };

    /// The fence where the server does not tell its `run_id`.
    pub const BY_ENTRY: Self = Self {
        run_compared: false,
        generation_compared: false,
        entry_compared: true,
        ..Self::KEPT
    };

    /// Whether the fence lets a tag pass.
    pub fn pass(&self, tag: Epoch, now: Epoch) -> bool {
        (!self.run_compared || tag.run == now.run)
            && (!self.generation_compared || tag.generation == now.generation)
    }

    /// Whether an entry is the delivery that somebody has in hand.
    pub fn same_delivery(&self, entry: &Entry, task: u8, attempt: u8) -> bool {
        entry.task == task && (!self.attempt_compared || entry.counters.attempt == attempt)
    }
}

/// How often each thing may still go wrong in a run. What is not limited here cannot repeat without
/// one of these, so the space is finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Of all kinds together.
    pub together: u8,
    /// Runs that fail, each a retry or, with the attempts spent, a dead letter.
    pub failures: u8,
    /// Workers that die and are started again under a new id.
    pub crashes: u8,
    /// Heartbeats that do not arrive for a lease, while all else of the worker goes on, at whatever
    /// pace: a process that is frozen, or cut off.
    pub silences: u8,
    /// Replies of a fetch that never come.
    pub lost_fetches: u8,
    /// Settles that get no answer in time and are sent again while the first is still on its way.
    /// It is carried out whenever it arrives; a lost reply is one that arrives at once.
    pub lost_settles: u8,
    /// Failovers to a replica that was cut off before.
    pub failovers: u8,
    /// FLUSHALLs with the clock of the server set back.
    pub flushes: u8,
}

impl Faults {
    pub const NONE: Self = Self {
        together: 0,
        failures: 0,
        crashes: 0,
        silences: 0,
        lost_fetches: 0,
        lost_settles: 0,
        failovers: 0,
        flushes: 0,
    };

    /// Something went wrong whose own kind has been counted down. States that differ only in what
    /// cannot happen any more become one.
    pub fn happened(&mut self, times: u8) {
        self.together -= times;
        let most = self.together;
        for kind in [
            &mut self.failures,
            &mut self.crashes,
            &mut self.silences,
            &mut self.lost_fetches,
            &mut self.lost_settles,
            &mut self.failovers,
            &mut self.flushes,
        ] {
            *kind = most.min(*kind);
        }
    }
}

/// How large a run can become.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub faults: Faults,
    /// How many tasks a worker runs at once.
    pub permits: usize,
    /// Whether the server is asked before a task is started, as for tracked ones. One that was held
    /// in a death before is asked for in any case.
    pub tracked: bool,
    pub max_attempts: u8,
    /// How many writes a replica that was cut off can miss before it is promoted.
    pub lag_max: u8,
}
