//! What only Redis knows of the house at large: how old the oldest task of a queue is, and how Redis
//! itself is doing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::{cmd, streams::StreamPendingReply};
use umbel_proto::QueueName;

use crate::{
    BrokerError, Client,
    keys::{GROUP, Shard, Stream},
};

/// How Redis is doing, as far as it says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerUse {
    pub clients: Option<u64>,
    pub clients_most: Option<u64>,
    pub memory: Option<u64>,
    /// None: without a limit, or not told.
    pub memory_most: Option<u64>,
}

impl Client {
    /// How long the oldest task that nobody has fetched yet has been ready at `now`, which is a time of
    /// Redis' clock; `None`: none waits.
    pub async fn oldest_wait(
        &self,
        queue: &QueueName,
        now: DateTime<Utc>,
    ) -> Result<Option<Duration>, BrokerError> {
        let shard = Shard::first(queue);
        let mut oldest = None;
        for stream in Stream::IN_ORDER {
            if let Some(since) = self.first_waiting(&shard.ready(stream)).await? {
                oldest = oldest.max(Some((now - since).to_std().unwrap_or_default()));
            }
        }
        Ok(oldest)
    }

    /// When the first entry came that is in no worker's hands. Entries are handed out in their order,
    /// and deleted when they are acknowledged: it stands behind the last one that is pending.
    async fn first_waiting(&self, stream: &str) -> Result<Option<DateTime<Utc>>, BrokerError> {
        let pending = self.query(cmd("XPENDING").arg(stream).arg(GROUP)).await;
        let after = match pending {
            Ok(StreamPendingReply::Data(pending)) => format!("({}", pending.end_id),
            // Nothing is pending, or no worker has ever read the queue.
            Ok(_) | Err(BrokerError::GroupGone(_)) => "-".to_owned(),
            Err(error) => return Err(error),
        };
        type Entries = Vec<(String, redis::Value)>;
        let first: Entries =
            self.query(cmd("XRANGE").arg(stream).arg(after).arg("+").arg("COUNT").arg(1)).await?;
        let ms = first.first().and_then(|(id, _)| id.split_once('-')?.0.parse().ok());
        Ok(ms.and_then(DateTime::from_timestamp_millis))
    }

    /// How Redis is doing. A server that does not tell is not asked again by this.
    pub async fn server_use(&self) -> Result<ServerUse, BrokerError> {
        let mut info = String::new();
        for section in ["clients", "memory"] {
            match self.query::<String>(cmd("INFO").arg(section)).await {
                Ok(text) => info.push_str(&text),
                Err(BrokerError::Denied(_)) => return Ok(ServerUse::default()),
                Err(error) => return Err(error),
            }
        }
        Ok(server_use(&info))
    }
}

fn server_use(info: &str) -> ServerUse {
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.parse::<u64>().ok())
    };
    ServerUse {
        clients: field("connected_clients"),
        clients_most: field("maxclients"),
        memory: field("used_memory"),
        memory_most: field("maxmemory").filter(|most| *most > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_tells_what_it_tells() {
        let info = "# Clients\r\nconnected_clients:3\r\nmaxclients:100\r\n# Memory\r\n\
                    used_memory:1024\r\nused_memory_human:1K\r\nmaxmemory:0\r\n";
        let told = ServerUse {
            clients: Some(3),
            clients_most: Some(100),
            memory: Some(1024),
            memory_most: None,
        };
        assert_eq!(server_use(info), told);
        assert_eq!(server_use(""), ServerUse::default());
    }
}
