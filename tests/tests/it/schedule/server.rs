//! Redis as it is, asked without Umbel: what is pending, and what is where it must not be.

use std::collections::{BTreeMap, BTreeSet};

use redis::{
    aio::MultiplexedConnection,
    cmd, pipe,
    streams::{StreamInfoGroupsReply, StreamPendingCountReply, StreamRangeReply},
};
use umbel_broker::keys::{GROUP, Shard, Stream};
use umbel_proto::{Priority, TaskId};
use umbel_tests::services::RedisServer;

use super::model::Entry;

/// More than are ever pending here.
const ALL: usize = 100_000;

pub struct Server {
    pub redis: RedisServer,
    shard: Shard,
    connection: MultiplexedConnection,
}

/// How much of a queue there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub ready: usize,
    pub delayed: usize,
    pub waiting: usize,
}

impl Server {
    pub async fn start(shard: Shard) -> Self {
        // The history of the whole run is read at its end.
        let redis = RedisServer::start_with(&["--auto-aof-rewrite-percentage", "0"]);
        let connection = connect(&redis).await;
        Self { redis, shard, connection }
    }

    /// Ends the server in order and starts it with what it had written: the same data under
    /// another `run_id`.
    pub async fn restart(&mut self) {
        self.redis.stop();
        self.redis.restart();
        self.connection = connect(&self.redis).await;
    }

    /// The entries that a worker holds, by the server's word.
    pub async fn pending(&mut self, worker: &str) -> BTreeSet<Entry> {
        let mut ask = pipe();
        for stream in Stream::IN_ORDER {
            let key = self.shard.ready(stream);
            ask.cmd("XPENDING").arg(key).arg(GROUP).arg("-").arg("+").arg(ALL).arg(worker);
        }
        let answers: Vec<StreamPendingCountReply> =
            ask.query_async(&mut self.connection).await.unwrap();
        let by_stream = [None, Some(Priority::High), Some(Priority::Normal), Some(Priority::Low)];
        let held = by_stream.into_iter().zip(answers);
        held.flat_map(|(stream, answer)| answer.ids.into_iter().map(move |held| (stream, held.id)))
            .collect()
    }

    pub async fn left(&mut self) -> Left {
        let mut ask = pipe();
        for stream in Stream::IN_ORDER {
            ask.cmd("XLEN").arg(self.shard.ready(stream));
        }
        ask.cmd("ZCARD").arg(self.shard.delayed()).cmd("HLEN").arg(self.shard.waiting());
        let [ready @ .., delayed, waiting]: [usize; 6] =
            ask.query_async(&mut self.connection).await.unwrap();
        Left { ready: ready.into_iter().sum(), delayed, waiting }
    }

    /// The states of tasks by their records, and how often each.
    pub async fn states(&mut self, tasks: &[TaskId]) -> BTreeMap<String, u64> {
        let mut ask = pipe();
        for task in tasks {
            ask.cmd("HGET").arg(self.shard.task(task)).arg("state");
        }
        let states: Vec<String> = ask.query_async(&mut self.connection).await.unwrap();
        let mut counts = BTreeMap::new();
        for state in states {
            *counts.entry(state).or_default() += 1;
        }
        counts
    }

    /// Every entry that was given out is in somebody's hands, and who holds one holds it of an
    /// entry that is there: otherwise nobody would ever be given it again.
    pub async fn has_no_orphans(&mut self) {
        for stream in Stream::IN_ORDER {
            let key = self.shard.ready(stream);
            let groups: StreamInfoGroupsReply = cmd("XINFO")
                .arg("GROUPS")
                .arg(&key)
                .query_async(&mut self.connection)
                .await
                .unwrap();
            let last = &groups.groups[0].last_delivered_id;
            let mut ask = pipe();
            ask.cmd("XRANGE").arg(&key).arg("-").arg(last);
            ask.cmd("XPENDING").arg(&key).arg(GROUP).arg("-").arg("+").arg(ALL);
            let (given, held): (StreamRangeReply, StreamPendingCountReply) =
                ask.query_async(&mut self.connection).await.unwrap();
            let given: BTreeSet<String> = given.ids.into_iter().map(|entry| entry.id).collect();
            let held: BTreeSet<String> = held.ids.into_iter().map(|entry| entry.id).collect();
            assert_eq!(given, held, "given out of {key}, and held");
        }
    }
}

async fn connect(redis: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}
