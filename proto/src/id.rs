//! Ids of tasks: `<tag>-<uuid>`, so that an id alone tells where its task lives.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{NameError, QueueName};

/// The id of a task: its queue's tag, a dash, and a UUID (v7 when made here).
///
/// The tag is the queue's name, or `<queue>~<n>` for a further shard of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId(Arc<str>);

/// Why a text is not a task id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskIdError {
    /// It does not end in a UUID after a dash.
    #[error("a task id is `<queue>-<uuid>`")]
    Malformed,
    /// What stands before the UUID is not a queue.
    #[error("the queue of a task id is wrong")]
    Queue(#[source] NameError),
}

/// The hyphenated form of a UUID has 36 characters.
const UUID_LEN: usize = 36;

impl TaskId {
    /// The id of a task in the first shard of `queue`.
    pub fn new(queue: &QueueName, uuid: Uuid) -> Self {
        // By hand: formatting costs more than all else that is done for an id.
        let mut buffer = Uuid::encode_buffer();
        let uuid = &*uuid.as_hyphenated().encode_lower(&mut buffer);
        let mut text = String::with_capacity(queue.as_str().len() + 1 + UUID_LEN);
        for part in [queue.as_str(), "-", uuid] {
            text.push_str(part);
        }
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash tag of the keys that belong to this task: `default`, or `default~1`.
    pub fn tag(&self) -> &str {
        &self.0[..self.0.len() - UUID_LEN - 1]
    }

    /// The queue, whichever shard of it the task is in.
    pub fn queue(&self) -> QueueName {
        split_shard(self.tag())
            .and_then(|(queue, _)| queue.parse().map_err(TaskIdError::Queue))
            .expect("checked when the id was made")
    }
}

/// `default~1` is shard 1 of `default`; the first shard has no suffix.
fn split_shard(tag: &str) -> Result<(&str, u16), TaskIdError> {
    match tag.split_once('~') {
        None => Ok((tag, 0)),
        Some((queue, shard)) => match shard.parse() {
            // `~0` and `~01` would be second spellings of one shard.
            Ok(n) if n > 0 && !shard.starts_with(['0', '+']) => Ok((queue, n)),
            _ => Err(TaskIdError::Malformed),
        },
    }
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let at = text.len().checked_sub(UUID_LEN + 1).ok_or(TaskIdError::Malformed)?;
        let (tag, uuid) = text.split_at_checked(at).ok_or(TaskIdError::Malformed)?;
        let uuid = uuid.strip_prefix('-').ok_or(TaskIdError::Malformed)?;
        let canonical = Uuid::try_parse(uuid).is_ok_and(|parsed| {
            *parsed.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *uuid
        });
        if !canonical {
            return Err(TaskIdError::Malformed);
        }
        QueueName::check(split_shard(tag)?.0).map_err(TaskIdError::Queue)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for TaskId {
    type Error = TaskIdError;

    fn try_from(text: String) -> Result<Self, TaskIdError> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> String {
        id.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0191f3c4-7b6a-7c3e-9d4f-0123456789ab";

    #[test]
    fn an_id_carries_its_queue() {
        let queue: QueueName = "my-queue".parse().unwrap();
        let id = TaskId::new(&queue, Uuid::parse_str(UUID).unwrap());
        assert_eq!(id.to_string(), format!("my-queue-{UUID}"));
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!((id.tag(), id.queue()), ("my-queue", queue));
    }

    #[test]
    fn a_shard_is_part_of_the_tag_and_not_of_the_queue() {
        let id: TaskId = format!("scrape~2-{UUID}").parse().unwrap();
        assert_eq!((id.tag(), id.queue().as_str()), ("scrape~2", "scrape"));
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let upper = UUID.to_uppercase();
        for bad in [
            "",
            UUID,
            "default",
            &format!("-{UUID}"),
            &format!("UPPER-{UUID}"),
            &format!("default-{upper}"),
            &format!("default~0-{UUID}"),
            &format!("default~01-{UUID}"),
            &format!("default~x-{UUID}"),
            &format!("workers-{UUID}"),
            &format!("default_{UUID}"),
            &format!("ä{UUID}"),
            &format!("a}}:{{b-{UUID}"),
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad:?} must be refused");
        }
    }
}
