//! Who is alive: every worker counts beats, the others watch the counters by their own clocks.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use redis::cmd;

use crate::{BrokerError, Client, keys, script};

/// The cause of a worker's end that is no death: it signed off.
pub const DRAINED: &str = "drained";

/// What a heartbeat was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heartbeat {
    /// The beats of all workers, the caller's included.
    Alive(HashMap<String, Beat>),
    /// The caller was declared dead: what it holds has been given to others.
    Fenced,
}

/// Another worker as Redis has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    /// A counter; only whether it changes means anything.
    Count(String),
    /// Declared dead.
    Dead { at: DateTime<Utc>, cause: String },
}

impl Beat {
    fn read(value: String) -> Self {
        let Some(rest) = value.strip_prefix("dead ") else { return Self::Count(value) };
        let (ms, cause) = rest.split_once(' ').unwrap_or((rest, ""));
        // A tombstone without a readable time is one all the same; it is forgotten early.
        let at = ms.parse().ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
        Self::Dead { at, cause: cause.to_owned() }
    }
}

impl Client {
    /// Counts one beat of `worker`; `info` is JSON for people.
    pub async fn heartbeat(&self, worker: &str, info: &str) -> Result<Heartbeat, BrokerError> {
        let mut call = script::HEARTBEAT.key(keys::heartbeat());
        call.key(keys::worker_info()).arg(worker).arg(info);
        let flat: Vec<String> = self.call(&call).await?;
        if flat.first().is_some_and(|first| first == "FENCED") {
            return Ok(Heartbeat::Fenced);
        }
        let mut beats = HashMap::new();
        let mut values = flat.into_iter();
        while let (Some(worker), Some(value)) = (values.next(), values.next()) {
            beats.insert(worker, Beat::read(value));
        }
        Ok(Heartbeat::Alive(beats))
    }

    /// Declares `worker` dead if its beat is still `observed` (`""`: it has none). Whether it was
    /// this call that did.
    pub async fn declare_dead(
        &self,
        worker: &str,
        observed: &str,
        cause: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, BrokerError> {
        let mut call = script::DECLARE.key(keys::heartbeat());
        call.arg(worker).arg(observed).arg(now.timestamp_millis()).arg(cause);
        self.call(&call).await
    }

    /// A worker's own word that it is gone: what it may still hold is recovered at once.
    pub async fn sign_off(&self, worker: &str, now: DateTime<Utc>) -> Result<(), BrokerError> {
        let tombstone = format!("dead {} {DRAINED}", now.timestamp_millis());
        let mut gone = redis::pipe();
        gone.hset(keys::heartbeat(), worker, tombstone).ignore();
        gone.hdel(keys::worker_info(), worker).ignore();
        self.pipeline(&gone).await
    }

    /// Removes what is left of a dead worker that holds nothing and reads nothing any more.
    pub async fn forget_worker(&self, worker: &str) -> Result<(), BrokerError> {
        let mut gone = redis::pipe();
        gone.hdel(keys::heartbeat(), worker).ignore();
        gone.hdel(keys::worker_info(), worker).ignore();
        self.pipeline(&gone).await
    }

    /// The workers that have told of themselves, with what they told.
    pub async fn workers(&self) -> Result<HashMap<String, String>, BrokerError> {
        self.query(cmd("HGETALL").arg(keys::worker_info())).await
    }
}
