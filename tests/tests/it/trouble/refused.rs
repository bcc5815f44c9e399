//! Redis answers, and says that it cannot do this now.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use umbel_broker::{BrokerError, BrokerSettings, Client};
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::eventually,
    probe::{Act, Probe, shard},
    services::RedisServer,
};

use super::{AtWork, LONG};

/// Longer than a heartbeat, a tick and the longest pause of every loop: each meets the trouble.
const LASTS: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    /// No memory is left.
    Oom,
    /// Snapshots cannot be written.
    MisConf,
    /// Redis has become a replica of a master that is not there.
    ReadOnly,
    /// Such a replica that does not tell what it has.
    MasterDown,
    /// It has fewer replicas than it must have.
    NoReplicas,
    /// A script does not end.
    Busy,
}

impl Trouble {
    fn code(self) -> &'static str {
        match self {
            Self::Oom => "OOM",
            Self::MisConf => "MISCONF",
            Self::ReadOnly => "READONLY",
            Self::MasterDown => "MASTERDOWN",
            Self::NoReplicas => "NOREPLICAS",
            Self::Busy => "BUSY",
        }
    }

    /// Returns what must be kept while it lasts.
    async fn begin(self, redis: &RedisServer) -> Option<TcpStream> {
        match self {
            Self::Oom => drop(redis.cli(&["CONFIG", "SET", "maxmemory", "1"])),
            Self::MisConf => {
                // A folder stands where the snapshot should.
                fs::create_dir(snapshot(redis)).unwrap();
                redis.cli(&["CONFIG", "SET", "save", "3600 1"]);
                redis.cli(&["BGSAVE"]);
                saved(redis, "err").await;
            }
            Self::ReadOnly => drop(redis.cli(&["REPLICAOF", "127.0.0.1", "1"])),
            Self::MasterDown => {
                redis.cli(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
                redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
            }
            Self::NoReplicas => drop(redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"])),
            Self::Busy => {
                redis.cli(&["CONFIG", "SET", "busy-reply-threshold", "1"]);
                let mut caller = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).unwrap();
                caller.write_all(b"EVAL \"while true do end\" 0\r\n").unwrap();
                return Some(caller);
            }
        }
        None
    }

    async fn end(self, redis: &RedisServer) {
        match self {
            Self::Oom => drop(redis.cli(&["CONFIG", "SET", "maxmemory", "0"])),
            Self::MisConf => {
                fs::remove_dir(snapshot(redis)).unwrap();
                redis.cli(&["BGSAVE"]);
                saved(redis, "ok").await;
            }
            Self::ReadOnly | Self::MasterDown => drop(redis.cli(&["REPLICAOF", "NO", "ONE"])),
            Self::NoReplicas => drop(redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"])),
            Self::Busy => drop(redis.cli(&["SCRIPT", "KILL"])),
        }
    }

    /// What a write is refused with.
    fn code_of_writes(self) -> &'static str {
        // A replica says first that it takes none.
        if self == Self::MasterDown { "READONLY" } else { self.code() }
    }

    /// From its begin to what comes after its end.
    async fn passes(self) {
        let at_work = AtWork::start().await;
        let (redis, client) = (at_work.redis(), &at_work.house.client);
        let before = refusals(redis, self.code_of_writes());
        let kept = self.begin(redis).await;
        let mut early = Vec::new();
        let error = eventually("it is felt", async || {
            match client.enqueue(Probe::new("asked", Act::Ok)).await {
                Ok(handle) => {
                    early.push(handle);
                    None
                }
                Err(error) => Some(error),
            }
        })
        .await;
        assert!(is_refused(&error, self.code_of_writes()), "{self:?}: {error:?}");
        at_work.house.record.open("held");
        if self == Self::Oom {
            // Work that is there ends all the same.
            let settled = async || at_work.held_is(TaskState::Succeeded).await.then_some(());
            eventually("it is settled", settled).await;
        } else {
            let moved = client.tick(&shard(), chrono::Utc::now()).await.unwrap_err();
            assert!(is_refused(&moved, self.code_of_writes()), "{self:?}: {moved:?}");
            // By a pipeline, which has no code of its own.
            match client.queues().await {
                Ok(_) => assert!(!matches!(self, Self::Busy | Self::MasterDown), "{self:?}"),
                Err(error) => assert!(is_refused(&error, self.code()), "{self:?}: {error:?}"),
            }
            sleep(LASTS).await;
        }
        self.end(redis).await;
        drop(kept);
        // Beside our own calls those of each loop of the worker.
        let times = refusals(redis, self.code_of_writes()) - before;
        assert!(times >= if self == Self::Oom { 1 } else { 5 }, "{self:?}: refused {times} times");
        for handle in &early {
            assert_eq!(handle.wait(LONG).await.unwrap(), 1);
        }
        let ran = at_work.house.record.attempts_of("asked").len();
        assert_eq!(ran, early.len(), "what was refused was not taken all the same");
        at_work.goes_on(self.code()).await;
    }
}

/// Whether an error is told as a refusal for now, and which.
fn is_refused(error: &BrokerError, code: &str) -> bool {
    let named = |text: &str| text.to_uppercase().contains(code);
    matches!(error, BrokerError::Refused(text) if named(text)) && error.is_transient()
}

fn snapshot(redis: &RedisServer) -> PathBuf {
    let dir = redis.cli(&["CONFIG", "GET", "dir"]);
    PathBuf::from(dir.lines().nth(1).unwrap()).join("dump.rdb")
}

async fn saved(redis: &RedisServer, how: &str) {
    let told = format!("rdb_last_bgsave_status:{how}");
    eventually("the snapshot ends", async || {
        let info = redis.cli(&["INFO", "persistence"]);
        (info.contains(&told) && info.contains("rdb_bgsave_in_progress:0")).then_some(())
    })
    .await;
}

/// How often the server has refused something with this code.
fn refusals(redis: &RedisServer, code: &str) -> u64 {
    let stats = redis.cli(&["INFO", "errorstats"]);
    let start = format!("errorstat_{code}:count=");
    let count = stats.lines().find_map(|line| line.trim().strip_prefix(&start));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_takes_no_new_work_and_settles_what_runs() {
    Trouble::Oom.passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_passes() {
    Trouble::MisConf.passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_become_a_replica_passes() {
    Trouble::ReadOnly.passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_master_passes() {
    Trouble::MasterDown.passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_its_replicas_passes() {
    Trouble::NoReplicas.passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_busy_with_somebody_elses_script_passes() {
    Trouble::Busy.passes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_started_anew_and_reads_its_data_for_long_passes() {
    let at_work = AtWork::start().await;
    let (redis, client) = (at_work.redis(), &at_work.house.client);
    // Ten seconds' worth, in which clients are answered once in a thousand commands.
    let filler = "for i = 1, 100000 do redis.call('SET', 'filler:' .. i, 'x') end";
    redis.cli(&["EVAL", filler, "0"]);
    redis.kill9();
    redis.restart_loading(&["--key-load-delay", "100"]);
    eventually("it is told", async || {
        let error = client.enqueue(Probe::new("refused", Act::Ok)).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        // At first the connection may be the one to the server that was killed.
        is_refused(&error, "LOADING").then_some(())
    })
    .await;
    at_work.house.record.open("held");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert!(client.enqueue(Probe::new("refused", Act::Ok)).await.is_err());
        sleep(Duration::from_millis(100)).await;
    }
    redis.cli(&["CONFIG", "SET", "key-load-delay", "0"]);
    eventually("all is read", async || (redis.cli(&["PING"]) == "PONG").then_some(())).await;
    assert!(at_work.house.record.attempts_of("refused").is_empty());
    at_work.goes_on("LOADING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_a_free_place_is_told_as_such_to_who_comes() {
    let at_work = AtWork::start().await;
    let redis = at_work.redis();
    let admin = redis::Client::open(redis.url()).unwrap();
    let mut admin = admin.get_connection().unwrap();
    let mut places = |count: u32| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxclients").arg(count).exec(&mut admin).unwrap();
    };
    places(1);
    let settings = BrokerSettings::new(redis.url_as("worker"));
    let newcomer = Client::open(&settings, "test").unwrap();
    let error = newcomer.enqueue(Probe::new("b", Act::Ok)).await.unwrap_err();
    // Redis says why and closes; whether that is read before the end is chance.
    assert!(error.is_transient(), "{error:?}");
    places(1_000);
    let handle = eventually("there is a place", async || {
        newcomer.enqueue(Probe::new("c", Act::Ok)).await.ok()
    })
    .await;
    assert_eq!(handle.wait(LONG).await.unwrap(), 1);
    at_work.house.record.open("held");
    at_work.goes_on("max number of clients").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_its_slots_is_passing_trouble() {
    let redis = RedisServer::start_with(&[], &["--cluster-enabled", "yes"]);
    let client = Client::open(&BrokerSettings::new(redis.url()), "test").unwrap();
    let enqueued = client.enqueue(Probe::new("a", Act::Ok)).await.map(drop);
    let moved = client.tick(&shard(), chrono::Utc::now()).await.map(drop);
    let looked = client.queues().await.map(drop);
    for answer in [enqueued, moved, looked] {
        let error = answer.unwrap_err();
        assert!(is_refused(&error, "CLUSTERDOWN"), "{error:?}");
    }
}
