//! What there is at a moment: the data of the server and of its replica, and what everybody knows.

use std::collections::BTreeSet;

use super::rules::Faults;

pub const TASKS: usize = 2;
pub const WORKERS: usize = 2;

/// How many ids a worker can go through: the first, and one for each crash or fencing.
pub const IDS: usize = 4;

/// A worker id as Redis has it: which process, and the number that grows when it is fenced or
/// started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    pub worker: u8,
    pub n: u8,
}

/// Which server, and which making of the groups on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    pub run: u8,
    pub generation: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Counters {
    pub attempt: u8,
    pub crashes: u8,
}

/// A stream entry, and its place in the pending list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub id: u8,
    pub task: u8,
    pub counters: Counters,
    /// For whom it is pending.
    pub owner: Option<Id>,
    /// It was started by its owner, and stands in `suspects`.
    pub suspect: bool,
}

/// The field of a worker in the heartbeat hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Beat {
    Missing,
    /// Grows only where a silence ends: one that grows all the time is nobody's news.
    Count(u8),
    Dead,
}

/// What Redis holds: what a replica copies and a failover takes back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Data {
    /// Zero: the groups are not there.
    pub generation: u8,
    /// The id given last; a server that lost its tail and whose clock is behind gives ids again.
    pub last_id: u8,
    /// What the group has delivered last.
    pub delivered: u8,
    pub stream: Vec<Entry>,
    pub delayed: [Option<Counters>; TASKS],
    /// Dead letters of each task.
    pub dead: [u8; TASKS],
    /// Accepted completions of each task, on this lineage of the data.
    pub done: [u8; TASKS],
    pub beats: [[Beat; IDS]; WORKERS],
}

/// What a run is settled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    Complete,
    Retry,
    Bury,
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Redis has sent it.
    Arriving,
    /// The worker knows it.
    Held,
    /// It was started; it may have ended.
    Running,
    /// Its settle was sent and not answered.
    Sent(Verdict),
}

/// A delivery in the hands of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// The number of the id that it was delivered to.
    pub n: u8,
    pub entry: u8,
    pub task: u8,
    pub counters: Counters,
    pub tag: Epoch,
    pub phase: Phase,
}

/// An entry and the run that it is.
pub type Known = (u8, u8, u8);

impl Run {
    pub fn known(&self) -> Known {
        (self.entry, self.task, self.counters.attempt)
    }
}

impl Entry {
    pub fn known(&self) -> Known {
        (self.id, self.task, self.counters.attempt)
    }
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Worker {
    pub n: u8,
    /// No beat of it has arrived for a lease. By its own clock, too: it may start nothing.
    pub stale: bool,
    /// A read has come back that was sent before it could know that it is declared dead: it sends
    /// no other before its next beat.
    pub read_late: bool,
    /// What is read on its connection belongs to; `None` without a connection.
    pub link: Option<Epoch>,
    /// The entries it knows of, each with its task and attempt.
    pub known: BTreeSet<Known>,
    pub runs: Vec<Run>,
}

/// The one who looks after silent workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reaper {
    Idle,
    /// It has seen this beat unchanged for a whole lease.
    Suspects(Id, Beat),
    /// It has seen that this worker is dead. `unmarked`: the mark went with lost data since.
    Recovers {
        dead: Id,
        unmarked: bool,
    },
}

/// One settle of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settle {
    pub entry: u8,
    pub task: u8,
    pub counters: Counters,
    pub verdict: Verdict,
}

/// A call of the settle script.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    pub tag: Epoch,
    pub settles: Vec<Settle>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub run: u8,
    pub data: Data,
    /// The data of a replica from the moment it was cut off, and how many writes it has missed.
    /// While none is cut off, the replica has all.
    pub replica: Option<(Data, u8)>,
    pub workers: [Worker; WORKERS],
    pub reaper: Reaper,
    /// A settle that is still on its way after its sender gave it up.
    pub stray: Option<Request>,
    /// How many tasks were accepted.
    pub accepted: u8,
    /// Tasks that went with lost data.
    pub lost: [bool; TASKS],
    /// Tasks whose completion went with lost data.
    pub forgotten: [bool; TASKS],
    /// For the next making of the groups: random in the scripts, so never used before.
    pub next_generation: u8,
    /// What may still go wrong.
    pub faults: Faults,
    /// The invariants that a step has broken, a bit each.
    pub broken: u8,
}

impl Data {
    pub fn empty() -> Self {
        Self {
            generation: 0,
            last_id: 0,
            delivered: 0,
            stream: Vec::new(),
            delayed: [None; TASKS],
            dead: [0; TASKS],
            done: [0; TASKS],
            beats: [[Beat::Missing; IDS]; WORKERS],
        }
    }

    pub fn entry(&self, id: u8) -> Option<&Entry> {
        self.stream.iter().find(|entry| entry.id == id)
    }

    pub fn beat(&self, id: Id) -> Beat {
        self.beats[id.worker as usize][id.n as usize]
    }

    pub fn beat_mut(&mut self, id: Id) -> &mut Beat {
        &mut self.beats[id.worker as usize][id.n as usize]
    }

    pub fn holds(&self, owner: Id) -> bool {
        self.stream.iter().any(|entry| entry.owner == Some(owner))
    }

    /// In how many places a task is: queued, pending, delayed, done, or a dead letter.
    pub fn places(&self, task: usize) -> usize {
        let entries = self.stream.iter().filter(|entry| {
            entry.task as usize == task && (entry.owner.is_some() || entry.id > self.delivered)
        });
        entries.count()
            + usize::from(self.delayed[task].is_some())
            + usize::from(self.done[task] > 0)
            + usize::from(self.dead[task])
    }
}

impl Worker {
    /// The reply of a read is on its way; nothing else is asked on that connection.
    pub fn is_waiting(&self) -> bool {
        self.runs.iter().any(|run| run.phase == Phase::Arriving)
    }
}

impl State {
    /// Both workers are connected and have beaten, nothing is enqueued.
    pub fn first(faults: Faults) -> Self {
        let mut data = Data { generation: 1, ..Data::empty() };
        for worker in 0..WORKERS as u8 {
            *data.beat_mut(Id { worker, n: 0 }) = Beat::Count(0);
        }
        let worker = Worker {
            n: 0,
            stale: false,
            read_late: false,
            link: Some(Epoch { run: 1, generation: 1 }),
            known: BTreeSet::new(),
            runs: Vec::new(),
        };
        Self {
            run: 1,
            data,
            replica: None,
            workers: [worker.clone(), worker],
            reaper: Reaper::Idle,
            stray: None,
            accepted: 0,
            lost: [false; TASKS],
            forgotten: [false; TASKS],
            next_generation: 2,
            faults,
            broken: 0,
        }
    }

    pub fn epoch(&self) -> Epoch {
        Epoch { run: self.run, generation: self.data.generation }
    }

    pub fn id(&self, worker: usize) -> Id {
        Id { worker: worker as u8, n: self.workers[worker].n }
    }

    /// Nobody could tell the two workers apart.
    pub fn is_symmetric(&self) -> bool {
        let same = |data: &Data| {
            data.beats[0] == data.beats[1] && data.stream.iter().all(|entry| entry.owner.is_none())
        };
        self.reaper == Reaper::Idle
            && self.workers[0] == self.workers[1]
            && same(&self.data)
            && self.replica.as_ref().is_none_or(|(data, _)| same(data))
    }

    /// All tasks were accepted and all have ended, or went with lost data, and nobody is busy.
    pub fn is_drained(&self) -> bool {
        self.accepted as usize == TASKS
            && self.stray.is_none()
            && self.workers.iter().all(|worker| worker.runs.is_empty())
            && (0..TASKS)
                .all(|task| self.lost[task] || self.data.done[task] > 0 || self.data.dead[task] > 0)
    }
}
