//! The way in for everybody who is not a worker's read: one shared connection, cheap to clone.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
    aio::ConnectionManager, cmd,
};
use umbel_proto::QueueName;

use crate::{
    BrokerError, BrokerSettings,
    connection::Connector,
    keys::{self, Shard},
    meters::Call,
    script::Scripts,
    sharing::Lanes,
};

/// How long readiness may take; a health check that waits longer is itself a failure.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Enqueues tasks and looks at them.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Mutex<ConnectionManager>>,
    connector: Arc<Connector>,
    scripts: Arc<Scripts>,
    /// Queues that this process has entered in the list of queues.
    listed: Arc<Mutex<HashSet<QueueName>>>,
    lanes: Lanes,
}

impl Client {
    /// Makes a client; it connects at its first call and again whenever it must, so that this
    /// fails only on wrong settings. `role` shows in `CLIENT LIST` where the server knows library
    /// names.
    pub fn open(settings: &BrokerSettings, role: &str) -> Result<Self, BrokerError> {
        let connector = Arc::new(Connector::new(settings, role)?);
        let connection = Arc::new(Mutex::new(connector.shared()?));
        let scripts = Scripts::shipped();
        Ok(Self { connection, connector, scripts, listed: Arc::default(), lanes: Lanes::default() })
    }

    /// A client with a connection of its own, for a thread that must not wait for this one's.
    pub fn separate(&self) -> Result<Self, BrokerError> {
        let connection = Arc::new(Mutex::new(self.connector.shared()?));
        Ok(Self { connection, lanes: Lanes::default(), ..self.clone() })
    }

    /// Whether Redis answers, within a second.
    pub async fn ping(&self) -> Result<(), BrokerError> {
        // PING is answered even by a server that refuses writes; that shows at the first write.
        tokio::time::timeout(PING_TIMEOUT, self.query::<String>(&cmd("PING")))
            .await
            .map_err(|_| BrokerError::Unavailable(format!("no answer within {PING_TIMEOUT:?}")))?
            .map(|_| ())
    }

    /// The clock of Redis; it may veto what is due, never decide it.
    pub async fn server_time(&self) -> Result<DateTime<Utc>, BrokerError> {
        let (seconds, micros): (i64, u32) = self.query(&cmd("TIME")).await?;
        DateTime::from_timestamp(seconds, micros.saturating_mul(1000))
            .ok_or_else(|| BrokerError::Unexpected("TIME is out of range".to_owned()))
    }

    /// The same client with other scripts; see [`Scripts::broken`].
    #[doc(hidden)]
    pub fn with_scripts(self, scripts: Arc<Scripts>) -> Self {
        Self { scripts, ..self }
    }

    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(crate) fn connection(&self) -> ConnectionManager {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the connection up for a new one where it would not come back by itself.
    fn judged<T>(&self, answer: RedisResult<T>, timed: &Call) -> Result<T, BrokerError> {
        answer.map_err(|error| {
            if stays_lost(&error) {
                match self.connector.shared() {
                    Ok(anew) => {
                        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = anew;
                    }
                    Err(error) => tracing::error!(%error, "no new connection can be made"),
                }
            }
            let error = BrokerError::from(error);
            timed.failed(&error);
            error
        })
    }

    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, BrokerError> {
        let timed = Call::begin();
        let answer = command.query_async(&mut self.connection()).await;
        self.judged(answer, &timed)
    }

    pub(crate) async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &redis::Pipeline,
    ) -> Result<T, BrokerError> {
        let timed = Call::begin();
        let answer = pipeline.query_async(&mut self.connection()).await;
        self.judged(answer, &timed)
    }

    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, BrokerError> {
        let timed = Call::begin();
        let answer = call.invoke_async(&mut self.connection()).await;
        self.judged(answer, &timed)
    }

    /// Enters a queue in the list of queues: inspection and recovery go by it. Once a process where
    /// tasks are enqueued; each worker's connect enters it again, should Redis have lost the list.
    pub(crate) async fn list_queue_once(&self, shard: &Shard) -> Result<(), BrokerError> {
        let listed = |client: &Self| {
            client.listed.lock().unwrap_or_else(PoisonError::into_inner).contains(shard.queue())
        };
        if !listed(self) {
            self.list_queue(shard).await?;
        }
        Ok(())
    }

    pub(crate) async fn list_queue(&self, shard: &Shard) -> Result<(), BrokerError> {
        let queue = shard.queue();
        let entry =
            cmd("HSETNX").arg(keys::queues()).arg(queue.as_str()).arg(r#"{"shards":1}"#).to_owned();
        self.query::<()>(&entry).await?;
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone());
        Ok(())
    }

    /// Leaves a note in Redis for whoever looks in with redis-cli.
    pub(crate) async fn write_help(&self) -> Result<(), BrokerError> {
        self.query(cmd("SET").arg(keys::help()).arg(keys::HELP)).await
    }

    /// All queues that were ever used, by name.
    pub async fn queue_names(&self) -> Result<Vec<QueueName>, BrokerError> {
        let mut names: Vec<String> = self.query(cmd("HKEYS").arg(keys::queues())).await?;
        names.sort_unstable();
        let parsed = names.into_iter().filter_map(|name| match name.parse() {
            Ok(queue) => Some(queue),
            Err(error) => {
                // One foreign field must not hide all other queues.
                tracing::warn!(%error, "passing over a field of {}", keys::queues());
                None
            }
        });
        Ok(parsed.collect())
    }
}

/// The shared connection comes back by itself when it breaks, but not when it only falls silent, as
/// behind a proxy; nor when it was refused a password or cut off while it connected, which it
/// remembers as its answer for ever; nor when its server has become a replica and the name leads to
/// another by now.
fn stays_lost(error: &RedisError) -> bool {
    error.is_timeout()
        || matches!(error.kind(), ErrorKind::AuthenticationFailed | ErrorKind::Parse)
        || error.code() == Some("READONLY")
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
