//! What can go wrong with the broker, by what the caller can do about it.

use redis::RedisError;
use umbel_proto::{CodecError, NameError, QueueName};

use crate::dead::LetterId;

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
    /// Redis has a certificate that is not trusted; the address, the certificate, or what is trusted
    /// must change.
    #[error(
        "redis is not trusted ({0}): its certificate must be for the host that REDIS_URL names, and \
         the certificate of its CA in the file that SSL_CERT_FILE names, or among those of the system"
    )]
    Untrusted(String),
    /// The queue holds as many tasks as its cap allows; try again later.
    #[error("queue `{queue}` is full")]
    QueueFull { queue: QueueName },
    /// The idempotency key was used for another call.
    #[error("idempotency key `{key}` was used for another call")]
    KeyConflict { key: String },
    /// The idempotency key is empty or too long.
    #[error("an idempotency key has 1 to {} bytes", crate::new_task::IDEMPOTENCY_KEY_LONGEST)]
    IdempotencyKey,
    /// The name of who owns or cancels a task is too long.
    #[error("the name of an owner has at most {} bytes", crate::new_task::OWNER_LONGEST)]
    Owner,
    /// A progress is too large.
    #[error("a progress has at most {} bytes", crate::cancel::PROGRESS_LONGEST)]
    Progress,
    /// A dead letter cannot be run again; it stays one. `reason` tells why, and none will mend it.
    #[error("dead letter {letter} cannot be run again: {reason}")]
    Unredrivable { letter: LetterId, reason: String },
    /// A name, key or rule of a limit that cannot be; the sentence names it.
    #[error("{0}")]
    Limit(String),
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

    /// One word for what went wrong.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Refused(_) => "refused",
            Self::GroupGone(_) => "group_gone",
            Self::Denied(_) | Self::Untrusted(_) => "denied",
            Self::QueueFull { .. } => "queue_full",
            Self::KeyConflict { .. } => "key_conflict",
            Self::NewerLayout { .. } | Self::Unexpected(_) => "unexpected",
            Self::Settings(_) | Self::Unsuitable(_) => "settings",
            _ => "wrong_call",
        }
    }
}

impl BrokerError {
    /// What several who shared a call are told, each.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Unavailable(text) => Self::Unavailable(text.clone()),
            Self::Refused(text) => Self::Refused(text.clone()),
            Self::GroupGone(text) => Self::GroupGone(text.clone()),
            Self::Denied(text) => Self::Denied(text.clone()),
            Self::Untrusted(text) => Self::Untrusted(text.clone()),
            Self::Unexpected(text) => Self::Unexpected(text.clone()),
            // No call to Redis ends so.
            other => Self::Unexpected(other.to_string()),
        }
    }
}

impl From<RedisError> for BrokerError {
    fn from(error: RedisError) -> Self {
        // The text of a server's error never holds a password; that of a URL's parse may, and
        // does not come this way (see `settings`).
        let text = error.to_string();
        // A pipeline has no code of its own; its first error counts.
        let of_server = error.clone().into_server_errors();
        let first = of_server.as_deref().and_then(<[_]>::first).map(|(_, error)| error.code());
        match first.or(error.code()) {
            Some("NOGROUP" | "UNBLOCKED") => Self::GroupGone(text),
            Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED") => Self::Denied(text),
            Some(
                "OOM" | "MISCONF" | "READONLY" | "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN"
                | "TRYAGAIN" | "NOREPLICAS",
            ) => Self::Refused(text),
            // Forgotten between its loading and its run; the next call loads it again.
            Some("NOSCRIPT") => Self::Refused(text),
            Some("ERR") if DENIED_IN_SCRIPT.iter().any(|words| text.contains(words)) => {
                Self::Denied(text)
            }
            Some("ERR") if text.contains(TOO_MANY_CLIENTS) => Self::Refused(text),
            _ if text.contains(UNTRUSTED) => Self::Untrusted(text),
            _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                Self::Unavailable(text)
            }
            // An answer that breaks off is one of a connection that did.
            _ if error.kind() == redis::ErrorKind::Parse => Self::Unavailable(text),
            _ if error.kind() == redis::ErrorKind::AuthenticationFailed => Self::Denied(text),
            _ => Self::Unexpected(text),
        }
    }
}

/// An error with its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// What a command within a script may not do has no code: the words of Redis 7.0, and of later
/// ones and Valkey.
const DENIED_IN_SCRIPT: [&str; 2] = ["The user executing the script", "ACL failure in script"];

/// How rustls begins to tell what is wrong with a certificate.
const UNTRUSTED: &str = "invalid peer certificate";

/// Told without a code to who connects when all places are taken.
const TOO_MANY_CLIENTS: &str = "max number of clients reached";

#[cfg(test)]
mod tests {
    use super::*;

    /// As the server sends it.
    fn of(line: &str) -> BrokerError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err().into()
    }

    #[test]
    fn what_a_server_cannot_do_now_may_work_later() {
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to",
            "READONLY You can't write against a read only replica.",
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "MASTERDOWN Link with MASTER is down",
            "CLUSTERDOWN Hash slot not served",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "NOREPLICAS Not enough good replicas to write.",
            "NOSCRIPT No matching script. Please use EVAL.",
            "ERR max number of clients reached",
        ] {
            let error = of(line);
            assert!(matches!(error, BrokerError::Refused(_)) && error.is_transient(), "{error:?}");
        }
        for line in ["NOGROUP No such key", "UNBLOCKED the stream key no longer exists"] {
            let error = of(line);
            assert!(
                matches!(error, BrokerError::GroupGone(_)) && error.is_transient(),
                "{error:?}"
            );
        }
    }

    #[test]
    fn what_is_forbidden_stays_so_until_somebody_changes_it() {
        for line in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions to run the 'keys' command",
            "DENIED Redis is running in protected mode",
            "ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:1.",
            "ERR ACL failure in script: User worker has no permissions to run the 'keys' command",
        ] {
            let error = of(line);
            assert!(matches!(error, BrokerError::Denied(_)) && !error.is_transient(), "{error:?}");
        }
        for line in ["ERR value is not an integer or out of range", "WRONGTYPE Operation against"] {
            assert!(matches!(of(line), BrokerError::Unexpected(_)), "{line}");
        }
    }
}
