//! Where a scenario plays: services of its own, tasks on their way in, and at the end the evidence.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::aio::MultiplexedConnection;
use tokio::{task::JoinHandle, time::sleep};
use umbel_broker::{BrokerSettings, CallOptions, Client, NewTask, keys::Shard};
use umbel_proto::TaskId;

use super::{
    audit::Evidence,
    crew::Crew,
    faults::Fault,
    history::History,
    ledger::{Ledger, told_pid},
    probe::{Act, HISTORY, QUEUE, Trial},
    walk::Walk,
};
use crate::{
    process::Launch,
    services::{PgBouncer, PostgresServer, RedisServer, TestDatabase},
};

/// How long an enqueue may be refused or unanswered before the scenario is given up.
const ENQUEUE_MAX: Duration = Duration::from_secs(180);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long readers of the dead may be left over once all is quiet: as the protocol promises.
const READERS_MAX: Duration = Duration::from_secs(60);

/// How many connections a pooler shares among all workers: few, so that each meets what the others
/// left in them.
const POOL: u32 = 2;

/// How many each worker has to the pooler.
const CONNECTIONS: u32 = 8;

/// Portions in which tasks come in: a twentieth of a second's each.
const FEED_EVERY: Duration = Duration::from_millis(50);

/// Tokens of the API, which nobody asks here.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Where the effects of tasks go.
#[derive(Debug)]
struct Database {
    server: &'static PostgresServer,
    pooler: PgBouncer,
    tables: TestDatabase<'static>,
}

/// One scenario's services and what is known of it so far.
#[derive(Debug)]
pub struct Stage {
    pub redis: RedisServer,
    /// Past any proxy.
    pub client: Client,
    pub dice: StdRng,
    pub accepted: Vec<TaskId>,
    pub faults: Vec<Fault>,
    database: Option<Database>,
    folder: PathBuf,
}

impl Stage {
    /// With a database for the effects of tasks. `seed`: what chance goes by.
    pub fn with_database(seed: u64) -> anyhow::Result<Self> {
        Self::with_database_on(PostgresServer::shared(), seed)
    }

    /// With one on a server that may be harmed. It ends with this process.
    pub fn with_a_database_of_its_own(seed: u64) -> anyhow::Result<Self> {
        Self::with_database_on(Box::leak(Box::new(PostgresServer::start())), seed)
    }

    fn with_database_on(server: &'static PostgresServer, seed: u64) -> anyhow::Result<Self> {
        let mut stage = Self::new(redis(&[]), seed)?;
        let (pooler, tables) = (PgBouncer::start(server, POOL), server.database());
        stage.database = Some(Database { server, pooler, tables });
        let migrated = stage.launch(&stage.redis.url()).arg("migrate").output();
        let said = String::from_utf8_lossy(&migrated.stderr);
        ensure!(migrated.status.success(), "the tables cannot be made: {said}");
        Ok(stage)
    }

    /// Without a database, on a given Redis.
    pub fn new(redis: RedisServer, seed: u64) -> anyhow::Result<Self> {
        let name = format!("umbel-chaos-{}", uuid::Uuid::new_v4().simple());
        let folder = env::temp_dir().join(name);
        fs::create_dir(&folder)?;
        Ok(Self {
            client: Client::open(&BrokerSettings::new(redis.url()), "chaos")?,
            redis,
            dice: StdRng::seed_from_u64(seed),
            accepted: Vec::new(),
            faults: Vec::new(),
            database: None,
            folder,
        })
    }

    /// The probe with what it must know; a role is still to be named.
    pub fn launch(&self, redis: &str) -> Launch {
        let launch = Launch::new("umbel-probe", &[])
            .env("REDIS_URL", redis)
            .env("JWT_SECRET", SECRET)
            .env("PORT", 0)
            .env("LOG_LEVEL", "warn")
            .env("GRACE", "10s")
            .env("CONCURRENCY", 8)
            .env(HISTORY, self.history_path().display());
        match &self.database {
            Some(Database { pooler, tables, .. }) => launch
                .env("DATABASE_URL", pooler.url(tables))
                .env("DATABASE_MAX_CONNECTIONS", CONNECTIONS),
            None => launch,
        }
    }

    /// Where tasks write what they do.
    pub fn history_path(&self) -> PathBuf {
        self.folder.join("history")
    }

    /// What tasks have said so far.
    pub fn history(&self) -> anyhow::Result<History> {
        History::read(&self.history_path())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The pooler and the server, to harm them.
    pub fn database(&self) -> anyhow::Result<(&PgBouncer, &'static PostgresServer)> {
        let database = self.database.as_ref().context("this stage has no database")?;
        Ok((&database.pooler, database.server))
    }

    /// Waits until so many workers have told of themselves.
    pub async fn ready(&self, crew: &Crew) -> anyhow::Result<()> {
        self.until("the workers are ready", Duration::from_secs(60), async || {
            let told = self.client.workers().await.unwrap_or_default();
            let told: BTreeSet<u32> = told.values().filter_map(|info| told_pid(info)).collect();
            let living = crew.living();
            living.len() == crew.len() && living.iter().all(|pid| told.contains(pid))
        })
        .await
    }

    /// Waits for a fact.
    pub async fn until(
        &self,
        what: &str,
        longest: Duration,
        mut is_so: impl AsyncFnMut() -> bool,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        while !is_so().await {
            ensure!(began.elapsed() < longest, "not within {longest:?}: {what}");
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Enqueues these now.
    pub async fn enqueue(&mut self, trials: Vec<Trial>) -> anyhow::Result<()> {
        self.enqueue_with(trials, |_| {}).await
    }

    /// Enqueues these now, with options of their own.
    pub async fn enqueue_with(
        &mut self,
        trials: Vec<Trial>,
        change: impl Fn(&mut CallOptions),
    ) -> anyhow::Result<()> {
        let key = format!("n{}-", self.accepted.len());
        let ids = self.enqueue_as(&key, trials, change).await?;
        self.accepted.extend(ids);
        Ok(())
    }

    /// Enqueues these now, under keys that begin like this; the ids are still to be `accepted`.
    pub async fn enqueue_as(
        &self,
        key: &str,
        trials: Vec<Trial>,
        change: impl Fn(&mut CallOptions),
    ) -> anyhow::Result<Vec<TaskId>> {
        let mut new = tasks(trials, key)?;
        new.iter_mut().for_each(|new| change(&mut new.call));
        submit(&self.client, &new).await
    }

    /// Enqueues these evenly over a time, by a client; the answer is for [`fed`](Self::fed).
    pub fn feed(&self, client: Client, trials: Vec<Trial>, over: Duration) -> Feed {
        tokio::spawn(async move {
            let new = tasks(trials, "fed-")?;
            let began = Instant::now();
            let mut ids = Vec::with_capacity(new.len());
            while ids.len() < new.len() {
                let share = began.elapsed().as_secs_f64() / over.as_secs_f64();
                let due = ((new.len() as f64 * share).ceil() as usize).min(new.len());
                ids.extend(submit(&client, &new[ids.len()..due]).await?);
                sleep(FEED_EVERY).await;
            }
            Ok(ids)
        })
    }

    /// Waits for the end of a feed.
    pub async fn fed(&mut self, feed: Feed) -> anyhow::Result<()> {
        self.accepted.extend(feed.await.context("the feed broke")??);
        Ok(())
    }

    /// The mix of tasks that most scenarios run.
    pub fn mix(&mut self, count: usize) -> Vec<Trial> {
        (0..count).map(|_| mixed(&mut self.dice)).collect()
    }

    /// Waits until nothing waits and nothing runs; whether that came about.
    pub async fn drained(&self, longest: Duration) -> bool {
        let drained =
            self.until("all has ended", longest, async || match self.client.queues().await {
                Ok(queues) => queues.iter().all(|q| q.queued + q.running + q.delayed == 0),
                Err(_) => false,
            });
        drained.await.is_ok()
    }

    /// Redis itself, past broker and proxy.
    pub async fn connection(&self) -> anyhow::Result<MultiplexedConnection> {
        let client = redis::Client::open(self.redis.url())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// Waits until all is drained and nobody but the living reads, ends the workers and Redis, and
    /// takes what they left.
    pub async fn evidence(
        &mut self,
        crew: &mut Crew,
        longest: Duration,
    ) -> anyhow::Result<Evidence> {
        self.drained(longest).await;
        let mut connection = self.connection().await?;
        let shard = Shard::first(&QUEUE.parse()?);
        let living = crew.living().into_iter().collect();
        let consumers = self.readers(&shard, &living).await?;
        let ended_badly = crew.stop().await;
        let mut walk = Walk::through(&mut connection, &shard).await?;
        walk.consumers = consumers;
        // It writes what it has not written yet.
        self.redis.stop();
        Ok(Evidence {
            accepted: std::mem::take(&mut self.accepted),
            history: self.history()?,
            ledger: Ledger::read(self.redis.dir())?,
            walk,
            effects: self.effects(),
            faults: std::mem::take(&mut self.faults),
            living,
            ended_badly,
            refused: crew.refused(),
        })
    }

    /// Who reads the queue, as soon as it is only the living, or when it has been long enough.
    async fn readers(
        &self,
        shard: &Shard,
        living: &BTreeSet<u32>,
    ) -> anyhow::Result<BTreeSet<String>> {
        let began = Instant::now();
        loop {
            let readers = self.client.consumers(shard).await?;
            let told = self.client.workers().await?;
            let lives = |reader: &String| {
                let pid = told.get(reader).and_then(|info| told_pid(info));
                pid.is_some_and(|pid| living.contains(&pid))
            };
            if readers.iter().all(lives) || began.elapsed() > READERS_MAX {
                return Ok(readers);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn effects(&self) -> Option<Vec<(String, String)>> {
        let rows = self.database.as_ref()?.tables.sql("select task_id, token from effects");
        let pair = |row: &str| row.split_once('|').map(|(id, token)| (id.into(), token.into()));
        Some(rows.lines().filter_map(pair).collect())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// A feed that runs.
pub type Feed = JoinHandle<anyhow::Result<Vec<TaskId>>>;

/// A Redis whose append-only file tells everything: it is never rewritten.
pub fn redis(launcher: &[std::ffi::OsString]) -> RedisServer {
    RedisServer::start_with(launcher, &["--auto-aof-rewrite-percentage", "0"])
}

fn mixed(dice: &mut StdRng) -> Trial {
    match dice.random_range(0..100) {
        0..90 => Trial::new(Act::Go),
        90..95 => Trial::new(Act::Sleep(dice.random_range(100..2_000))),
        95..99 => Trial::new(Act::Fail(1)),
        _ => Trial::with_payload(200 * 1024),
    }
}

/// Tracked, because what is not tracked shows only its end; each with a key, because an enqueue
/// that is not answered is repeated.
fn tasks(trials: Vec<Trial>, key: &str) -> anyhow::Result<Vec<NewTask>> {
    let task = |(n, trial): (usize, Trial)| {
        let mut new = NewTask::of(&trial)?;
        new.call.tracked = true;
        new.call.idempotency_key = Some(format!("{key}{n}"));
        Ok(new)
    };
    trials.into_iter().enumerate().map(task).collect()
}

/// Enqueues until it is answered for all.
async fn submit(client: &Client, new: &[NewTask]) -> anyhow::Result<Vec<TaskId>> {
    let began = Instant::now();
    loop {
        let answers = client.submit_many(new).await;
        let answers = answers.and_then(|all| all.into_iter().collect::<Result<Vec<_>, _>>());
        match answers {
            Ok(all) => return Ok(all.into_iter().map(|submitted| submitted.id).collect()),
            Err(error) if error.is_transient() && began.elapsed() < ENQUEUE_MAX => {
                sleep(LOOK_EVERY).await;
            }
            Err(error) => return Err(error).context("tasks cannot be enqueued"),
        }
    }
}
