//! What is stored where: one function a key. All keys of one queue share its hash tag.
//!
//! What a person asks about is plain text, so that redis-cli answers it; only `env` and `result`
//! are msgpack.

use std::sync::Arc;

use umbel_proto::{Priority, QueueName, TaskId};

/// The consumer group of every ready stream.
pub const GROUP: &str = "workers";

/// The layout that this release writes; a newer one is refused.
pub const LAYOUT: u32 = 1;

/// The streams of a queue in the order in which they are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// What a worker gave back or died over.
    Recovered,
    High,
    Normal,
    Low,
}

impl Stream {
    pub const IN_ORDER: [Self; 4] = [Self::Recovered, Self::High, Self::Normal, Self::Low];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Where a script finds this stream among its keys; the first key is `control`.
    pub(crate) const fn key_index(self) -> usize {
        self as usize + 2
    }

    pub(crate) fn from_key_index(index: usize) -> Option<Self> {
        Self::IN_ORDER.get(index.checked_sub(2)?).copied()
    }
}

impl From<Priority> for Stream {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::High => Self::High,
            Priority::Normal => Self::Normal,
            Priority::Low => Self::Low,
        }
    }
}

/// The keys of one shard of a queue; a queue has one shard unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shard {
    tag: Arc<str>,
    queue: QueueName,
}

impl Shard {
    /// The first shard of a queue.
    pub fn first(queue: &QueueName) -> Self {
        Self { tag: queue.as_str().into(), queue: queue.clone() }
    }

    /// The shard that a task lives in.
    pub fn of(id: &TaskId) -> Self {
        Self { tag: id.tag().into(), queue: id.queue() }
    }

    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// What every key of the shard begins with.
    pub fn prefix(&self) -> String {
        format!("umbel:{{{}}}:", self.tag)
    }

    /// STREAM: the tasks that can run now. Fields `id task attempt crashes enqueued version env`.
    pub fn ready(&self, stream: Stream) -> String {
        format!("umbel:{{{}}}:ready:{}", self.tag, stream.as_str())
    }

    /// ZSET: due ms → task id.
    pub fn delayed(&self) -> String {
        format!("umbel:{{{}}}:delayed", self.tag)
    }

    /// ZSET: first give-up ms → a name under which tasks are parked.
    pub fn parked(&self) -> String {
        format!("umbel:{{{}}}:parked", self.tag)
    }

    /// ZSET: give-up ms → task id of what no worker could run yet.
    pub fn parked_as(&self, name: &str) -> String {
        format!("umbel:{{{}}}:parked:{name}", self.tag)
    }

    /// HASH: task id → packed entry of what is delayed or parked.
    pub fn waiting(&self) -> String {
        format!("umbel:{{{}}}:waiting", self.tag)
    }

    /// STREAM: dead letters; the fields of the task and `why error worker died`.
    pub fn dead(&self) -> String {
        format!("umbel:{{{}}}:dead", self.tag)
    }

    /// HASH: what a person sees of a task.
    pub fn task(&self, id: &TaskId) -> String {
        format!("umbel:{{{}}}:task:{id}", self.tag)
    }

    /// STRING with TTL: the task id that the key stands for, and a hash of the call.
    pub fn idempotency(&self, key: &str) -> String {
        format!("umbel:{{{}}}:idempotency:{key}", self.tag)
    }

    /// STRING with TTL: the id of the task that holds the uniqueness.
    pub fn unique(&self, hash: &str) -> String {
        format!("umbel:{{{}}}:unique:{hash}", self.tag)
    }

    /// HASH: stream's key and entry → worker, of started tasks that were there when a worker died.
    /// The entry alone does not do: what one tick makes due has one id in several streams.
    pub fn suspects(&self) -> String {
        format!("umbel:{{{}}}:suspects", self.tag)
    }

    /// HASH: `generation layout cap`, and who paused the queue and why.
    pub fn control(&self) -> String {
        format!("umbel:{{{}}}:control", self.tag)
    }

    /// HASH with TTL: counters of one minute.
    pub fn stats(&self, minute: i64) -> String {
        format!("umbel:{{{}}}:stats:{minute}", self.tag)
    }

    /// STREAM, capped: what happened to tasks.
    pub fn events(&self) -> String {
        format!("umbel:{{{}}}:events", self.tag)
    }

    /// Channel: `control` once the queue was paused or goes on. Other words are for others.
    pub fn wake(&self) -> String {
        format!("umbel:{{{}}}:wake", self.tag)
    }

    /// Channel: ids of tasks that ended.
    pub fn ended(&self) -> String {
        format!("umbel:{{{}}}:ended", self.tag)
    }
}

/// HASH with TTL: times and holders of one key of a limit, over all queues.
pub fn limit(name: &str, key: &str) -> String {
    format!("umbel:{{limit:{name}:{key}}}")
}

/// STRING with TTL: the queue and a hash of the call that an idempotency key was claimed for, over all
/// queues. Each key has a hash tag of its own: it belongs to no queue.
pub fn claimed(key: &str) -> String {
    format!("umbel:{{idempotency:{key}}}")
}

/// HASH: worker → counter, or `dead <ms> <cause>`.
pub fn heartbeat() -> &'static str {
    "umbel:{workers}:heartbeat"
}

/// HASH: worker → JSON for people.
pub fn worker_info() -> &'static str {
    "umbel:{workers}:info"
}

/// HASH with TTL: task → who wants its run on that worker ended.
pub fn asked(worker: &str) -> String {
    format!("umbel:{{workers}}:asked:{worker}")
}

/// HASH: schedule entry → JSON.
pub fn beat_entries() -> &'static str {
    "umbel:{beat}:entries"
}

/// ZSET: schedule entry → its next fire, ms.
pub fn beat_due() -> &'static str {
    "umbel:{beat}:due"
}

/// HASH: schedule entry → its last claimed slot, ms.
pub fn beat_last() -> &'static str {
    "umbel:{beat}:last"
}

/// HASH: `<entry> <slot ms>` → the task that is to be enqueued for it.
pub fn beat_intents() -> &'static str {
    "umbel:{beat}:intents"
}

/// HASH: who leads; saves work, decides nothing.
pub fn beat_leader() -> &'static str {
    "umbel:{beat}:leader"
}

/// STREAM, capped: `slot task late_ms outcome` of an entry's fires.
pub fn beat_fired(entry: &str) -> String {
    format!("umbel:{{beat}}:fired:{entry}")
}

/// HASH: queue → its settings, JSON.
pub fn queues() -> &'static str {
    "umbel:queues"
}

/// STREAM, capped: who changed what by hand.
pub fn audit() -> &'static str {
    "umbel:audit"
}

/// STRING: [`HELP`], for whoever has only redis-cli.
pub fn help() -> &'static str {
    "umbel:help"
}

/// Where to look; workers write it at start.
pub const HELP: &str = "\
Keys of Umbel. Q is a queue, ID a task id; `env` and `result` are msgpack, the rest is text.
how many wait or run       XLEN umbel:{Q}:ready:normal            (also recovered, high, low)
what is next               XRANGE umbel:{Q}:ready:normal - + COUNT 1
what runs where            XPENDING umbel:{Q}:ready:normal workers - + 10
what is known of a task    HGETALL umbel:{Q}:task:ID
what is due next           ZRANGE umbel:{Q}:delayed 0 9 WITHSCORES
what no worker can run yet ZRANGE umbel:{Q}:parked 0 -1
what failed for good       XRANGE umbel:{Q}:dead - + COUNT 10
how it is set, who paused  HGETALL umbel:{Q}:control
who is alive               HGETALL umbel:{workers}:info
which limits bite          HGETALL umbel:{limit:NAME:KEY}
what is scheduled          HGETALL umbel:{beat}:entries
what a schedule has fired  XREVRANGE umbel:{beat}:fired:ENTRY + - COUNT 5
which queues there are     HGETALL umbel:queues
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_of_a_queue_share_its_hash_tag() {
        let shard = Shard::first(&"scrape".parse().unwrap());
        let id: TaskId = "scrape-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap();
        for key in [
            shard.ready(Stream::Recovered),
            shard.delayed(),
            shard.parked(),
            shard.parked_as("a"),
            shard.waiting(),
            shard.dead(),
            shard.task(&id),
            shard.idempotency("k"),
            shard.unique("h"),
            shard.suspects(),
            shard.control(),
            shard.stats(1),
            shard.events(),
            shard.wake(),
            shard.ended(),
        ] {
            assert!(key.starts_with(&shard.prefix()), "{key}");
        }
        // Scripts make these from the prefix.
        assert_eq!(shard.parked_as("a"), format!("{}parked:a", shard.prefix()));
        assert_eq!(shard.task(&id), format!("{}task:{id}", shard.prefix()));
        assert_eq!(shard.idempotency("k"), format!("{}idempotency:k", shard.prefix()));
    }

    #[test]
    fn the_shard_of_a_task_is_told_by_its_id() {
        let id: TaskId = "scrape~2-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap();
        assert_eq!(Shard::of(&id).delayed(), "umbel:{scrape~2}:delayed");
    }

    #[test]
    fn a_stream_is_found_again_by_its_place_among_a_scripts_keys() {
        for stream in Stream::IN_ORDER {
            assert_eq!(Stream::from_key_index(stream.key_index()), Some(stream));
        }
        assert_eq!(Stream::from_key_index(1), None);
        assert_eq!(Stream::from_key_index(6), None);
    }
}
