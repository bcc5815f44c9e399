//! What the model and the scripts are told to do, and what both answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use umbel_broker::{Cancel, keys::Stream};
use umbel_proto::Priority;

/// The workers. `A` and `B` are of one start of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worker {
    A,
    B,
    C,
}

/// A start of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    First,
    Second,
}

/// The names of tasks, under which they are parked too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    Probe,
    Later,
}

/// How far away something is. Nothing lies between: a tick that is a moment ahead makes all due
/// that is `Soon`, and nothing ever makes due what is `Late`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    Soon,
    Late,
}

/// A call that enqueues a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub name: Name,
    pub priority: Priority,
    pub delay: Option<Delay>,
    pub tracked: bool,
    pub args: u8,
    pub key: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Complete,
    Retry(Delay),
    Defer(Delay),
    Park(Delay),
    Bury,
    Cancel,
    Expire,
    Release,
}

/// The end of a run: of which delivery in the worker's hand, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub pick: usize,
    pub verdict: Verdict,
    /// Its body was run.
    pub ran: bool,
    /// Its state is kept for a while.
    pub kept: bool,
}

/// What whoever declares a worker dead says to have seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// What it has last beaten, or that it never has.
    Last,
    /// The beat before that: it has beaten since.
    Earlier,
    /// No beat at all.
    Nothing,
}

/// The clock of a caller beside that of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Right,
    Ahead,
    Behind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// In one step.
    Enqueue(Vec<Call>),
    /// `anew`: over a new connection, as after any trouble with the old one.
    Fetch {
        worker: Worker,
        free: usize,
        anew: bool,
    },
    /// All that the worker holds comes into its hand a second time, so that it can be settled twice.
    Twice {
        worker: Worker,
    },
    Start {
        worker: Worker,
        picks: Vec<usize>,
    },
    Settle {
        worker: Worker,
        ends: Vec<End>,
    },
    Beat {
        worker: Worker,
    },
    Declare {
        worker: Worker,
        observed: Observed,
    },
    SignOff {
        worker: Worker,
    },
    BootEnded {
        boot: Boot,
    },
    Forget {
        worker: Worker,
    },
    Recover {
        worker: Worker,
        charged: bool,
    },
    Tick(Clock),
    Unpark(Name),
    /// Somebody wants a task ended.
    Cancel {
        task: usize,
    },
    /// The run of a delivery in the worker's hand tells how far it is.
    Progress {
        worker: Worker,
        pick: usize,
    },
    Look,
    /// The queue's cap, as an operator sets it.
    Cap(Option<u32>),
    Pause,
    Resume,
    /// A dead letter by its number runs again.
    Redrive(u32),
    /// All of them, or those of a name.
    RedriveAll(Option<Name>),
    DeleteLetter(u32),
    DeleteLetters(Option<Name>),

    // What goes wrong.
    /// Entries are delivered to the worker over a connection that dies with them.
    Ghost {
        worker: Worker,
        stream: Stream,
        count: usize,
    },
    /// FLUSHALL.
    Flush,
    /// XGROUP DESTROY.
    DestroyGroup(Stream),
    /// An entry is deleted that may be in somebody's hands.
    LoseEntry {
        stream: Stream,
        entry: u32,
    },
    /// What is delayed or parked loses its packed entry.
    LoseWaiting {
        task: usize,
    },
    /// The server ends and starts again with all its data.
    Restart,
    /// What a replica has; the next fail-over goes back to it.
    Replicate,
    /// Another server goes on with what the replica had.
    FailOver,
}

/// An entry in a worker's hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub stream: Stream,
    pub entry: String,
    pub task: String,
    pub attempt: u32,
    pub crashes: u32,
    pub parked: Option<String>,
    pub cancelled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Enqueued(Vec<Entry>),
    Fetched(Vec<Seen>),
    GroupGone,
    Started(Vec<Seen>),
    /// `run`: which start of the server answered, where it does not hide that.
    Alive {
        run: Option<usize>,
        beats: BTreeMap<Worker, String>,
        /// Tasks that somebody wants the caller to end.
        asked: BTreeSet<String>,
    },
    Fenced,
    Declared(bool),
    Buried(BTreeMap<Worker, String>),
    Recovered {
        added: u64,
        gone: u64,
        more: bool,
    },
    Moved {
        moved: u64,
        gone: u64,
        next_due: Option<String>,
        parked: Vec<Name>,
        paused: bool,
    },
    Skewed,
    /// Whether it was this call that changed something.
    Changed(bool),
    /// What became of a letter that was to run again; `None`: it was none.
    Redriven(Option<Entry>),
    /// How many letters; `None`: the queue was at its cap.
    Swept(Option<u64>),
    Unparked(u64),
    /// `None`: nothing is known of the task.
    Cancelled(Option<Cancel>),
    /// Whether the progress was that of the run in the record.
    Noted(bool),
    /// How the queue stands, and who reads it for certain; `None`: no such queue is known.
    Stands(Option<Standing>),
    /// Only of the real thing.
    Failed(String),
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Accepted(usize),
    Existing(usize),
    Conflict,
    Full,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub queued: u64,
    pub running: u64,
    pub delayed: u64,
    pub parked: u64,
    pub dead: u64,
    pub paused: bool,
    pub readers: Vec<Worker>,
}

impl Call {
    /// The call without its idempotency key: what must be the same for the same key.
    pub fn unkeyed(self) -> Self {
        Self { key: None, ..self }
    }
}

impl Worker {
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::C];

    pub fn id(self) -> &'static str {
        match self {
            Self::A => "house-00000000000000a0-1",
            Self::B => "house-00000000000000a0-2",
            Self::C => "house-00000000000000c0-1",
        }
    }

    pub fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|worker| worker.id() == id)
    }

    pub fn boot(self) -> Boot {
        if self == Self::C { Boot::Second } else { Boot::First }
    }
}

impl Boot {
    pub fn id(self) -> &'static str {
        match self {
            Self::First => "00000000000000a0",
            Self::Second => "00000000000000c0",
        }
    }
}

impl Name {
    pub const ALL: [Self; 2] = [Self::Probe, Self::Later];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Later => "probe.later",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The step of a scenario in which something was written, and how much later it means. The clock
/// itself is nowhere in the model.
///
/// Ordered as the times are: what is written `Late` in one step is later than what is written
/// `Soon` in any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub later_ms: i64,
    pub step: usize,
}

/// How late [`Delay::Soon`] is; less than a tick may be ahead of Redis.
pub const SOON_MS: i64 = 1_000;
/// How late [`Delay::Late`] is; longer than any test runs.
pub const LATE_MS: i64 = 3_600_000;
/// How long the state of an ended task is kept here; longer than any test runs too.
pub const RESULT_TTL_MS: i64 = 2 * 3_600_000;
/// How long an idempotency key is.
pub const KEY_TTL_MS: i64 = 24 * 3_600_000;
/// How long a worker is told of a cancel.
pub const TOLD_MS: i64 = 600_000;
/// How often every task is tried.
pub const ATTEMPTS_MAX: u32 = 3;

impl Delay {
    pub fn ms(self) -> i64 {
        match self {
            Self::Soon => SOON_MS,
            Self::Late => LATE_MS,
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.step)?;
        if self.later_ms > 0 { write!(f, "+{}s", self.later_ms / 1000) } else { Ok(()) }
    }
}
