//! Whether a Redis keeps what it is given: asked once, before anything is entrusted to it.

use redis::cmd;
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

fn judge(info: &str, allow_volatile: bool) -> Result<(), String> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
    };
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
