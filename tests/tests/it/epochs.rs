//! Entry ids that come again and mean other tasks, consumers that come back, processes that go on
//! after their tasks were given away: what a worker says then changes nothing.
//!
//! No clock is set here. A stream that once saw an id of the future counts on from that one
//! ([`count_from_the_future`]); two servers that both did give the same ids to different tasks, as
//! they do after a failover to one whose clock is behind.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use tokio::task::JoinHandle;
use umbel_broker::{
    BrokerSettings, Client, Consumer, Delivery, Held, Scripts, Settlement, Settler, Terms, Verdict,
    keys::Stream,
};
use umbel_proto::{Priority, TaskId};
use umbel_tests::{
    eventually::eventually,
    probe::{Act, Probe, shard},
    services::RedisServer,
};

mod failover;
mod flushed;
mod remade;
mod silenced;
mod stopped;

/// A year that no clock of a test has.
const FUTURE: &str = "4102444800000-0";

fn ready() -> String {
    shard().ready(Stream::Normal)
}

/// How a settle is kept from tasks that it does not mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    /// By the server's `run_id`, and the generation of the groups.
    RunId,
    /// The server hides its `run_id`: by the task id of each entry, and the generation.
    TaskId,
}

impl Fence {
    const BOTH: [Self; 2] = [Self::RunId, Self::TaskId];

    /// Lets workers in, as the user of [`settings`](Self::settings), who is none of the shipped.
    fn open(self, server: &RedisServer) {
        let mut user = vec!["ACL", "SETUSER", "worker", "on", ">s3cret", "~*", "&*", "+@all"];
        if self == Self::TaskId {
            user.push("-info");
        }
        assert_eq!(server.cli(&user), "OK");
        let asked = ["--no-auth-warning", "--user", "worker", "--pass", "s3cret", "INFO", "server"];
        let hides = !server.cli(&asked).contains("run_id");
        assert_eq!(hides, self == Self::TaskId);
    }

    fn settings(url: &str) -> BrokerSettings {
        BrokerSettings::new(url.replace("redis://", "redis://worker:s3cret@"))
    }
}

/// A worker that reads and settles when it is told to.
struct Hand {
    id: &'static str,
    client: Client,
    consumer: Consumer,
    held: Held,
    settler: Settler,
    settling: JoinHandle<()>,
}

impl Hand {
    async fn start(id: &'static str, client: Client) -> Self {
        let held = Held::default();
        let (settler, settling) = Settler::start(client.clone(), id.to_owned(), held.clone());
        let consumer = Consumer::new(client.clone(), id.to_owned(), vec![shard()], held.clone());
        // So that no read waits.
        consumer.stop().request().await.unwrap();
        Self { id, client, consumer, held, settler, settling }
    }

    /// Reads all that there is, `count` tasks, after an error of a line that broke.
    async fn take(&mut self, count: usize) -> Vec<Delivery> {
        eventually("it can read", async || {
            let taken = self.consumer.fetch(64).await.ok()?;
            (taken.len() == count).then_some(taken)
        })
        .await
    }

    /// Settles, and waits for the answer, where what it holds tells that one has come.
    async fn settle(&self, deliveries: Vec<Delivery>, verdict: &Verdict) {
        let left = self.held.len().saturating_sub(deliveries.len());
        for delivery in deliveries {
            let terms = Terms {
                priority: Priority::Normal,
                max_attempts: 3,
                // Nothing expires while changes are counted.
                result_ttl: Duration::from_hours(24),
                started: Some(Utc::now()),
            };
            let verdict = verdict.clone();
            self.settler.settle(Settlement { delivery, verdict, terms }).await;
        }
        let what = format!("{}'s settle is answered", self.id);
        eventually(&what, async || (self.held.len() == left).then_some(())).await;
    }

    async fn complete(&self, deliveries: Vec<Delivery>) {
        self.settle(deliveries, &Verdict::Complete { output: vec![1] }).await;
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

fn entries(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(Delivery::entry).collect()
}

/// From now on the stream gives ids that count on from one of the future, whatever its clock says.
fn count_from_the_future(server: &RedisServer) {
    assert_eq!(server.cli(&["XADD", &ready(), FUTURE, "no", "task"]), FUTURE);
    assert_eq!(server.cli(&["XDEL", &ready(), FUTURE]), "1");
}

/// Tracked: then their start asks Redis as well.
async fn enqueue(client: &Client, names: &[&str]) -> Vec<TaskId> {
    let probes = names.iter().map(|name| Probe::new(name, Act::Ok));
    let answers = client.enqueue_many(probes).tracked().await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().id().clone()).collect()
}

/// How often the data of a server was changed.
fn changes(server: &RedisServer) -> u64 {
    let info = server.cli(&["INFO", "persistence"]);
    let changes = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
    changes.unwrap().trim().parse().unwrap()
}
