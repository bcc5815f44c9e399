//! Redis as it is, asked without Umbel, and what it wrote down.

use std::collections::BTreeSet;

use redis::{aio::MultiplexedConnection, pipe, streams::StreamPendingCountReply};
use umbel_broker::keys::{GROUP, Shard, Stream};
use umbel_proto::{Priority, TaskId};
use umbel_tests::{
    chaos::{ledger::Ledger, walk::Walk},
    services::RedisServer,
};

use super::model::Entry;

/// More than are ever pending here.
const ALL: usize = 100_000;

pub struct Server {
    redis: RedisServer,
    shard: Shard,
    connection: MultiplexedConnection,
}

/// How much of a queue there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub ready: usize,
    pub delayed: usize,
    pub parked: usize,
}

/// What stands in the record of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub state: String,
    pub worker: String,
    pub result: Option<String>,
}

impl Server {
    pub async fn start(shard: Shard) -> Self {
        // What it wrote of the whole run is read at the end.
        let redis = RedisServer::start_with(&[], &["--auto-aof-rewrite-percentage", "0"]);
        let connection = connect(&redis).await;
        Self { redis, shard, connection }
    }

    pub fn url(&self) -> String {
        self.redis.url()
    }

    pub fn port(&self) -> u16 {
        self.redis.port()
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
        Left { ready: ready.into_iter().sum(), delayed, parked: waiting - delayed }
    }

    /// Nothing is where nobody would ever find it. Panics with what is.
    pub async fn judge_keys(&mut self) {
        let walk = Walk::through(&mut self.connection, &self.shard).await.unwrap();
        assert_eq!(walk.judge(), []);
    }

    pub async fn records(&mut self, tasks: &[TaskId]) -> Vec<Record> {
        let mut ask = pipe();
        for task in tasks {
            ask.cmd("HMGET").arg(self.shard.task(task)).arg("state").arg("worker").arg("result");
        }
        let records: Vec<(String, String, Option<String>)> =
            ask.query_async(&mut self.connection).await.unwrap();
        records
            .into_iter()
            .map(|(state, worker, result)| Record { state, worker, result })
            .collect()
    }

    /// Ends the server, and reads what it wrote down.
    pub fn ledger(&self) -> Ledger {
        self.redis.stop();
        Ledger::read(self.redis.dir()).unwrap()
    }
}

async fn connect(redis: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}
