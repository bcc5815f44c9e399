//! Who is alive: every worker counts beats, the others watch the counters by their own clocks.

use std::{collections::HashMap, convert::Infallible, fmt, str::FromStr};

use chrono::{DateTime, Utc};
use redis::cmd;

use crate::{BrokerError, Client, keys};

/// What a heartbeat was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heartbeat {
    /// The caller lives.
    Alive(Beats),
    /// The caller was declared dead: what it holds has been given to others.
    Fenced,
}

/// The beats of all workers, the caller's included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beats {
    /// Which start of which server answered; empty where it hides that.
    pub server: String,
    pub of: HashMap<String, Beat>,
    /// Tasks that the caller runs and somebody wants ended: id → who.
    pub asked: HashMap<String, String>,
}

/// Another worker as Redis has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    /// A counter; only whether it changes means anything.
    Count(String),
    /// Declared dead.
    Dead { at: DateTime<Utc>, cause: Cause },
}

/// Why a worker is dead, as its tombstone tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It signed off, and nothing that it held ended it.
    Drained,
    /// The others heard nothing of it for a lease, and nobody saw how it ended.
    Silent,
    /// Somebody ended its process from outside, for instance a deploy; by what.
    Killed(String),
    /// Its process ended by itself; how.
    Crashed(String),
    /// The kernel ended its process because memory ran out.
    OutOfMemory,
}

impl Cause {
    /// Whether what the worker held may be why it died: then the death counts against it.
    pub fn is_charged(&self) -> bool {
        match self {
            Self::Drained | Self::Killed(_) => false,
            Self::Silent | Self::Crashed(_) | Self::OutOfMemory => true,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained => f.write_str("drained"),
            Self::Silent => f.write_str("silent"),
            Self::Killed(by) => write!(f, "killed {by}"),
            Self::Crashed(how) => write!(f, "crashed {how}"),
            Self::OutOfMemory => f.write_str("oom"),
        }
    }
}

impl FromStr for Cause {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match word {
            "drained" => Self::Drained,
            "silent" => Self::Silent,
            "killed" => Self::Killed(rest.to_owned()),
            "crashed" => Self::Crashed(rest.to_owned()),
            "oom" => Self::OutOfMemory,
            // Of a newer release, or written by hand: an unknown death counts.
            _ => Self::Crashed(text.to_owned()),
        })
    }
}

impl Beat {
    fn read(value: &str) -> Self {
        let Some(rest) = value.strip_prefix("dead ") else { return Self::Count(value.to_owned()) };
        let (ms, cause) = rest.split_once(' ').unwrap_or((rest, ""));
        // A tombstone without a readable time is one all the same; it is forgotten early.
        let at = ms.parse().ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
        let Ok(cause) = cause.parse();
        Self::Dead { at, cause }
    }
}

fn alive(answer: &[String]) -> Option<Beats> {
    let [server, asked, flat @ ..] = answer else { return None };
    let (asked, beats) = flat.split_at_checked(asked.parse().ok()?)?;
    let asked = asked.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    Some(Beats { server: server.clone(), of: read(beats), asked: asked.collect() })
}

fn read(flat: &[String]) -> HashMap<String, Beat> {
    let pairs = flat.chunks_exact(2);
    pairs.map(|pair| (pair[0].clone(), Beat::read(&pair[1]))).collect()
}

impl Client {
    /// Counts one beat of `worker`; `info` is JSON for people.
    pub async fn heartbeat(&self, worker: &str, info: &str) -> Result<Heartbeat, BrokerError> {
        let mut call = self.scripts().heartbeat.key(keys::heartbeat());
        call.key(keys::worker_info()).key(keys::asked(worker)).arg(worker).arg(info);
        let answer: Vec<String> = self.call(&call).await?;
        if answer.first().is_some_and(|word| word == "FENCED") {
            return Ok(Heartbeat::Fenced);
        }
        let beats = alive(&answer)
            .ok_or_else(|| BrokerError::Unexpected("a heartbeat was not answered".to_owned()))?;
        Ok(Heartbeat::Alive(beats))
    }

    /// Declares `worker` dead if its beat is still `observed` (`""`: it has none). Whether it was
    /// this call that did.
    pub async fn declare_dead(
        &self,
        worker: &str,
        observed: &str,
        cause: &Cause,
        now: DateTime<Utc>,
    ) -> Result<bool, BrokerError> {
        let mut call = self.scripts().declare.key(keys::heartbeat());
        call.arg(worker).arg(observed).arg(now.timestamp_millis()).arg(cause.to_string());
        self.call(&call).await
    }

    /// A parent's word that a process is gone: marks every worker of that start of it dead, whose
    /// tasks can be recovered at once. Returns them, with why they are dead: one that had signed
    /// off, or had been found silent, keeps its own cause.
    pub async fn boot_ended(
        &self,
        boot: &str,
        cause: &Cause,
        now: DateTime<Utc>,
    ) -> Result<Vec<(String, Cause)>, BrokerError> {
        let mut call = self.scripts().bury_boot.key(keys::heartbeat());
        call.key(keys::worker_info()).arg(boot).arg(now.timestamp_millis()).arg(cause.to_string());
        let flat: Vec<String> = self.call(&call).await?;
        let dead = read(&flat).into_iter().filter_map(|(worker, beat)| match beat {
            Beat::Dead { cause, .. } => Some((worker, cause)),
            Beat::Count(_) => None,
        });
        Ok(dead.collect())
    }

    /// A worker's own word that it is gone: what it may still hold is recovered at once.
    pub async fn sign_off(&self, worker: &str, now: DateTime<Utc>) -> Result<(), BrokerError> {
        let tombstone = format!("dead {} {}", now.timestamp_millis(), Cause::Drained);
        let mut call = self.scripts().sign_off.key(keys::heartbeat());
        call.key(keys::worker_info()).arg(worker).arg(tombstone);
        self.call(&call).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_tells_what_was_written_on_it() {
        for (cause, charged) in [
            (Cause::Drained, false),
            (Cause::Killed("SIGKILL".to_owned()), false),
            (Cause::Silent, true),
            (Cause::Crashed("exit code 101".to_owned()), true),
            (Cause::OutOfMemory, true),
        ] {
            let Beat::Dead { at, cause: read } = Beat::read(&format!("dead 1700 {cause}")) else {
                panic!("`{cause}` is no tombstone");
            };
            assert_eq!((at.timestamp_millis(), &read), (1700, &cause));
            assert_eq!(read.is_charged(), charged, "{cause}");
        }
        assert_eq!(Beat::read("17"), Beat::Count("17".to_owned()));
    }

    #[test]
    fn a_death_of_an_unknown_kind_counts() {
        let Ok(cause) = "struck by lightning".parse::<Cause>();
        assert!(cause.is_charged());
    }
}
