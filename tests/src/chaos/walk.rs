//! The keys of a queue as they stand, with everything that hangs in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::{
    Cmd, FromRedisValue, RedisResult,
    aio::MultiplexedConnection,
    cmd,
    streams::{
        StreamId, StreamInfoConsumersReply, StreamInfoGroupsReply, StreamPendingCountReply,
        StreamRangeReply,
    },
};
use umbel_broker::keys::{self, GROUP, Shard, Stream};

use super::{
    aof::{EntryId, entry_id},
    wrong::Wrong,
};

/// Far more than anybody holds when all has been drained.
const HELD_MAX: usize = 100_000;

/// What stands in Redis for one queue.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Walk {
    /// Stream → entry → task id.
    pub entries: BTreeMap<String, BTreeMap<EntryId, String>>,
    /// Stream → entry → worker.
    pub held: BTreeMap<String, BTreeMap<EntryId, String>>,
    /// Stream → the last entry that was handed out.
    pub handed_out: BTreeMap<String, EntryId>,
    /// Task ids that wait for a time or a worker, by the sets that order them.
    pub due: BTreeSet<String>,
    /// Task ids whose bodies wait.
    pub waiting: BTreeSet<String>,
    /// Task ids of dead letters.
    pub dead: BTreeSet<String>,
    /// Who reads a stream, or ever did and was not cleared away.
    pub consumers: BTreeSet<String>,
    /// Who beats: worker → counter, or its tombstone.
    pub beats: HashMap<String, String>,
}

impl Walk {
    /// Walks through the keys of a queue.
    pub async fn through(
        connection: &mut MultiplexedConnection,
        shard: &Shard,
    ) -> RedisResult<Self> {
        let mut walk = Self::default();
        for stream in Stream::IN_ORDER {
            walk.stream(connection, &shard.ready(stream)).await?;
        }
        let mut sets = vec![shard.delayed()];
        let parked = format!("{}parked:*", shard.prefix());
        sets.extend(ask::<Vec<String>>(connection, cmd("KEYS").arg(parked)).await?);
        for set in sets {
            walk.due.extend(
                ask::<Vec<String>>(connection, cmd("ZRANGE").arg(set).arg(0).arg(-1)).await?,
            );
        }
        walk.waiting = ask(connection, cmd("HKEYS").arg(shard.waiting())).await?;
        let dead = cmd("XRANGE").arg(shard.dead()).arg("-").arg("+").to_owned();
        walk.dead = ids(ask(connection, &dead).await?).into_values().collect();
        walk.beats = ask(connection, cmd("HGETALL").arg(keys::heartbeat())).await?;
        Ok(walk)
    }

    async fn stream(
        &mut self,
        connection: &mut MultiplexedConnection,
        key: &str,
    ) -> RedisResult<()> {
        if !ask::<bool>(connection, cmd("EXISTS").arg(key)).await? {
            return Ok(());
        }
        let all = cmd("XRANGE").arg(key).arg("-").arg("+").to_owned();
        self.entries.insert(key.to_owned(), ids(ask(connection, &all).await?));
        let groups: StreamInfoGroupsReply =
            ask(connection, cmd("XINFO").arg("GROUPS").arg(key)).await?;
        let Some(group) = groups.groups.iter().find(|group| group.name == GROUP) else {
            return Ok(());
        };
        self.handed_out.insert(key.to_owned(), entry_id(&group.last_delivered_id));
        let mut held = cmd("XPENDING");
        held.arg(key).arg(GROUP).arg("-").arg("+").arg(HELD_MAX);
        let held: StreamPendingCountReply = ask(connection, &held).await?;
        let held = held.ids.into_iter().map(|held| (entry_id(&held.id), held.consumer)).collect();
        self.held.insert(key.to_owned(), held);
        let consumers: StreamInfoConsumersReply =
            ask(connection, cmd("XINFO").arg("CONSUMERS").arg(key).arg(GROUP)).await?;
        self.consumers.extend(consumers.consumers.into_iter().map(|consumer| consumer.name));
        Ok(())
    }

    /// What must not be, whatever happened before.
    pub fn judge(&self) -> Vec<Wrong> {
        let mut wrongs = Vec::new();
        let nothing = BTreeMap::new();
        for (key, held) in &self.held {
            let entries = self.entries.get(key).unwrap_or(&nothing);
            for entry in held.keys().filter(|entry| !entries.contains_key(*entry)) {
                wrongs.push(Wrong::new(
                    "I6",
                    key,
                    format!("has no body of {entry:?}, which is held"),
                ));
            }
            let last = self.handed_out.get(key).copied().unwrap_or_default();
            for (entry, id) in entries.range(..=last) {
                if !held.contains_key(entry) {
                    wrongs.push(Wrong::new("I10", id, "was handed out and nobody holds it"));
                }
            }
        }
        for id in self.due.symmetric_difference(&self.waiting) {
            let text = match self.due.contains(id) {
                true => "is due and has no body",
                false => "waits and is never due",
            };
            wrongs.push(Wrong::new("I1", id, text));
        }
        wrongs
    }

    /// The tasks of each stream that is not empty.
    pub fn ids(&self) -> BTreeMap<&str, Vec<&str>> {
        let nonempty = self.entries.iter().filter(|(_, entries)| !entries.is_empty());
        nonempty
            .map(|(key, entries)| (key.as_str(), entries.values().map(String::as_str).collect()))
            .collect()
    }
}

async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> RedisResult<T> {
    command.query_async(connection).await
}

/// Entry → task id.
fn ids(range: StreamRangeReply) -> BTreeMap<EntryId, String> {
    let id = |entry: &StreamId| entry.get("id").unwrap_or_default();
    range.ids.iter().map(|entry| (entry_id(&entry.id), id(entry))).collect()
}
