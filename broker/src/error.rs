//! What can go wrong with the broker, by what the caller can do about it.

use redis::RedisError;
use umbel_proto::{CodecError, NameError, QueueName};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// Redis cannot be reached or did not answer in time; the same call may work later. A write
    /// may or may not have happened.
    #[error("redis is unreachable: {0}")]
    Unavailable(String),
    /// Redis answers that it cannot do this now (full, loading, read-only, disk trouble …).
    #[error("redis refuses for now: {0}")]
    Refused(String),
    /// The group or stream is gone (FLUSHALL, DEL); it is made again at the next connection.
    #[error("the consumer group is gone: {0}")]
    GroupGone(String),
    /// Redis does not let us in, or not do this; the settings or its access list must change.
    #[error("redis denies access: {0}")]
    Denied(String),
    /// The queue holds as many tasks as its cap allows; try again later.
    #[error("queue `{queue}` is full")]
    QueueFull { queue: QueueName },
    /// The idempotency key was used for another call.
    #[error("idempotency key `{key}` was used for another call")]
    KeyConflict { key: String },
    /// The idempotency key is empty or too long.
    #[error("an idempotency key has 1 to {} bytes", crate::enqueue::IDEMPOTENCY_KEY_LONGEST)]
    IdempotencyKey,
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Arguments or a result that cannot be sent.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A setting is wrong; the sentence names it.
    #[error("{0}")]
    Settings(String),
    /// This Redis would lose tasks; the sentence says what to set.
    #[error("{0}")]
    Unsuitable(String),
    /// The keys in Redis were written by a newer release.
    #[error("the keys in redis have layout {found}; this release knows {}", crate::keys::LAYOUT)]
    NewerLayout { found: String },
    /// Redis answered what it should not: a defect here, or foreign keys.
    #[error("redis answered unexpectedly: {0}")]
    Unexpected(String),
}

impl BrokerError {
    /// Whether the same call may work later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Refused(_) | Self::GroupGone(_) | Self::QueueFull { .. }
        )
    }
}

impl From<RedisError> for BrokerError {
    fn from(error: RedisError) -> Self {
        // The text of a server's error never holds a password; that of a URL's parse may, and
        // does not come this way (see `settings`).
        let text = error.to_string();
        match error.code() {
            Some("NOGROUP" | "UNBLOCKED") => Self::GroupGone(text),
            Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED") => Self::Denied(text),
            Some(
                "OOM" | "MISCONF" | "READONLY" | "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN"
                | "TRYAGAIN" | "NOREPLICAS",
            ) => Self::Refused(text),
            _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                Self::Unavailable(text)
            }
            _ if error.kind() == redis::ErrorKind::AuthenticationFailed => Self::Denied(text),
            _ => Self::Unexpected(text),
        }
    }
}
