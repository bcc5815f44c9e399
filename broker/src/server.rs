//! Whether a Redis keeps what it is given: asked once, before anything is entrusted to it.

use redis::cmd;
use serde::Serialize;
use tracing::warn;

use crate::{BrokerError, Client};

impl Client {
    /// Refuses, with a sentence that says what to set, a Redis that throws tasks away when it is
    /// full, and, unless `allow_volatile`, one that forgets them when it restarts.
    ///
    /// By `INFO`, because `CONFIG` is closed on most hosted servers; what a server hides is said in
    /// the log and not held against it. One that does not let us in at all is refused.
    pub async fn check_server(&self, allow_volatile: bool) -> Result<(), BrokerError> {
        let mut info = String::new();
        for section in ["memory", "persistence"] {
            match self.query::<String>(cmd("INFO").arg(section)).await {
                Ok(text) => info.push_str(&text),
                // Only INFO, or a wrong password: a PING tells.
                Err(BrokerError::Denied(_)) => self.ping().await?,
                Err(error) => return Err(error),
            }
        }
        judge(&info, allow_volatile).map_err(BrokerError::Unsuitable)
    }
}

/// How a Redis stands, as its `INFO` tells; what it hides is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServerStatus {
    /// `redis` or `valkey`.
    pub server: Option<String>,
    pub version: Option<String>,
    pub role: Option<String>,
    pub uptime_s: Option<u64>,
    pub used_memory: Option<u64>,
    /// 0: no limit of its own.
    pub maxmemory: Option<u64>,
    pub maxmemory_policy: Option<String>,
    pub system_memory: Option<u64>,
    pub aof_enabled: Option<bool>,
    /// `ok`, or what went wrong when the append-only file was last written.
    pub aof_last_write: Option<String>,
    pub connected_clients: Option<u64>,
    pub maxclients: Option<u64>,
    pub commands_per_second: Option<u64>,
    pub evicted_keys: Option<u64>,
    pub keys: Option<u64>,
}

impl Client {
    /// How the Redis stands. One that refuses `INFO` tells nothing.
    pub async fn server_status(&self) -> Result<ServerStatus, BrokerError> {
        match self.query::<String>(&cmd("INFO")).await {
            Ok(info) => Ok(status(&info)),
            Err(BrokerError::Denied(_)) => {
                self.ping().await?;
                Ok(ServerStatus::default())
            }
            Err(error) => Err(error),
        }
    }
}

fn status(info: &str) -> ServerStatus {
    let text = |name: &str| field(info, name).map(str::to_owned);
    let number = |name: &str| field(info, name)?.parse().ok();
    let is_valkey = field(info, "valkey_version").is_some();
    let keys = field(info, "db0").and_then(|db| db.strip_prefix("keys=")?.split(',').next());
    ServerStatus {
        server: text("redis_version")
            .map(|_| if is_valkey { "valkey" } else { "redis" }.to_owned()),
        version: text("valkey_version").or_else(|| text("redis_version")),
        role: text("role"),
        uptime_s: number("uptime_in_seconds"),
        used_memory: number("used_memory"),
        maxmemory: number("maxmemory"),
        maxmemory_policy: text("maxmemory_policy"),
        system_memory: number("total_system_memory"),
        aof_enabled: field(info, "aof_enabled").map(|enabled| enabled == "1"),
        aof_last_write: text("aof_last_write_status"),
        connected_clients: number("connected_clients"),
        maxclients: number("maxclients"),
        commands_per_second: number("instantaneous_ops_per_sec"),
        evicted_keys: number("evicted_keys"),
        // Of a database without keys there is no line.
        keys: keys.map_or(text("redis_version").map(|_| 0), |keys| keys.parse().ok()),
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
}

fn judge(info: &str, allow_volatile: bool) -> Result<(), String> {
    let field = |name: &str| field(info, name);
    match field("maxmemory_policy") {
        Some("noeviction") => {}
        Some(policy) if policy.starts_with("volatile-") => warn!(
            policy,
            "redis may forget results and idempotency keys early when it is full; maxmemory-policy noeviction keeps them"
        ),
        Some(policy) => {
            return Err(format!(
                "redis throws tasks away when it is full: maxmemory-policy is {policy}; set it to \
                 noeviction"
            ));
        }
        None => warn!(
            "redis does not tell its maxmemory-policy; make sure that it is noeviction, or tasks are thrown away when it is full"
        ),
    }
    match field("aof_enabled") {
        Some("1") => {}
        Some(_) if allow_volatile => {
            warn!("redis keeps no append-only file: a restart of it loses tasks");
        }
        Some(_) => {
            return Err(
                "redis loses tasks when it restarts: set appendonly yes (with appendfsync \
                        everysec), or ALLOW_VOLATILE=true where that loss is acceptable"
                    .to_owned(),
            );
        }
        None => warn!(
            "redis does not tell whether it keeps an append-only file; make sure that it does, or a restart of it loses tasks"
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(policy: &str, aof: &str) -> String {
        format!("# Memory\r\nmaxmemory_policy:{policy}\r\n# Persistence\r\naof_enabled:{aof}\r\n")
    }

    #[test]
    fn a_redis_that_keeps_tasks_is_taken() {
        judge(&info("noeviction", "1"), false).unwrap();
        judge(&info("volatile-lru", "1"), false).unwrap();
        judge(&info("noeviction", "0"), true).unwrap();
        judge("", false).unwrap();
    }

    #[test]
    fn one_that_throws_tasks_away_is_refused_with_what_to_set() {
        for allowed in [false, true] {
            let refused = judge(&info("allkeys-lru", "1"), allowed).unwrap_err();
            assert!(refused.contains("noeviction") && refused.contains("allkeys-lru"), "{refused}");
        }
        let refused = judge(&info("noeviction", "0"), false).unwrap_err();
        assert!(refused.contains("appendonly") && refused.contains("ALLOW_VOLATILE"), "{refused}");
    }
}
