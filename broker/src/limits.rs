//! How limits by key stand: who is held up, and until when. Nothing here grants or takes a place; that
//! is [`limit`](crate::limit).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use redis::cmd;
use serde::Serialize;

use crate::{BrokerError, Client, keys};

/// How many keys one step of the search looks at.
const SCANNED: usize = 1_000;

/// One key of a limit. All times are by the clock of Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitStatus {
    pub name: String,
    pub key: String,
    /// How many permits are held now.
    pub held: usize,
    /// When the first of these ends, unless it is renewed.
    pub first_lease_ends: Option<DateTime<Utc>>,
    /// Nobody is granted before, since somebody said so (`Retry-After`).
    pub paused_until: Option<DateTime<Utc>>,
    /// Nobody is granted before, since somebody just was.
    pub next: Option<DateTime<Utc>>,
    /// When the last of those who were refused was told to ask again.
    pub last_turn: Option<DateTime<Utc>>,
}

impl Client {
    /// One key of a limit; `None`: nobody has asked for it lately.
    pub async fn limit_status(
        &self,
        name: &str,
        key: &str,
    ) -> Result<Option<LimitStatus>, BrokerError> {
        let now = self.server_time().await?;
        self.limit_at(&keys::limit(name, key), now).await
    }

    /// The keys of all limits that were asked for lately, or of the limit `name`: at most `most`, in
    /// the order of their names. Looks through all keys of Redis, step by step.
    pub async fn limits(
        &self,
        name: Option<&str>,
        most: usize,
    ) -> Result<Vec<LimitStatus>, BrokerError> {
        let now = self.server_time().await?;
        let pattern = match name {
            Some(name) => format!("umbel:{{limit:{name}:*"),
            None => "umbel:{limit:*".to_owned(),
        };
        let (mut cursor, mut found) = (0_u64, Vec::new());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
            let (next, mut keys): (u64, Vec<String>) = self.query(&scan).await?;
            found.append(&mut keys);
            cursor = next;
            if cursor == 0 || found.len() >= most {
                break;
            }
        }
        found.sort_unstable();
        found.dedup();
        let mut all = Vec::new();
        for key in found.iter().take(most) {
            all.extend(self.limit_at(key, now).await?);
        }
        Ok(all)
    }

    async fn limit_at(
        &self,
        redis_key: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<LimitStatus>, BrokerError> {
        let fields: HashMap<String, String> = self.query(cmd("HGETALL").arg(redis_key)).await?;
        Ok(read(redis_key, &fields, now))
    }
}

fn read(
    redis_key: &str,
    fields: &HashMap<String, String>,
    now: DateTime<Utc>,
) -> Option<LimitStatus> {
    let inner = redis_key.strip_prefix("umbel:{limit:")?.strip_suffix('}')?;
    let (name, key) = inner.split_once(':')?;
    if fields.is_empty() {
        return None;
    }
    let time = |value: &String| {
        let ms = value.split(' ').next()?.parse().ok()?;
        DateTime::from_timestamp_millis(ms).filter(|at| *at > now)
    };
    let named = |name: &str| fields.get(name).and_then(time);
    let leases: Vec<DateTime<Utc>> = fields
        .iter()
        .filter(|(field, _)| field.starts_with("at:"))
        .filter_map(|(_, value)| time(value))
        .collect();
    Some(LimitStatus {
        name: name.to_owned(),
        key: key.to_owned(),
        held: leases.len(),
        first_lease_ends: leases.iter().min().copied(),
        paused_until: named("paused"),
        next: named("next"),
        last_turn: named("turn"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_holds_nobody_up() {
        let fields = [
            ("at:a", "2000 500"),
            ("at:b", "1800 500"),
            ("at:gone", "900 500"),
            ("paused", "5000 5000"),
            ("next", "1000 10"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let now = DateTime::from_timestamp_millis(1_000).unwrap();
        let status = read("umbel:{limit:host:example.com:80}", &fields, now).unwrap();
        assert_eq!((&*status.name, &*status.key, status.held), ("host", "example.com:80", 2));
        assert_eq!(status.first_lease_ends.unwrap().timestamp_millis(), 1_800);
        assert_eq!(status.paused_until.unwrap().timestamp_millis(), 5_000);
        assert_eq!((status.next, status.last_turn), (None, None));
        assert_eq!(read("umbel:{limit:host:a}", &HashMap::new(), now), None);
        assert_eq!(read("umbel:{default}:dead", &fields, now), None);
    }
}
