//! Names of tasks and queues, checked where they come in.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a task: 1–128 characters of `a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName(Arc<str>);

/// The name of a queue: 1–64 characters of `a-z 0-9 . _ -`.
///
/// `workers`, `beat` and `limit` are refused: keys of the house carry these tags.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(Arc<str>);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, too long, or with a character outside the set.
    #[error(
        "`{text}` is not a {what} name: 1 to {longest} characters of a-z 0-9 . _ - are allowed"
    )]
    Malformed { what: &'static str, longest: usize, text: String },
    /// The queue name is one of those that the house uses itself.
    #[error("`{0}` is reserved and cannot name a queue")]
    Reserved(String),
}

const TASK_NAME_LONGEST: usize = 128;
const QUEUE_NAME_LONGEST: usize = 64;
const RESERVED_QUEUES: [&str; 3] = ["workers", "beat", "limit"];

fn check(what: &'static str, longest: usize, text: &str) -> Result<(), NameError> {
    let fits = (1..=longest).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    Err(NameError::Malformed {
        what,
        longest,
        // An error must not carry more of a hostile text than a person reads.
        text: text.chars().take(longest).flat_map(char::escape_debug).collect(),
    })
}

impl FromStr for TaskName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check("task", TASK_NAME_LONGEST, text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for QueueName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

impl QueueName {
    /// Whether a text could name a queue.
    pub(crate) fn check(text: &str) -> Result<(), NameError> {
        check("queue", QUEUE_NAME_LONGEST, text)?;
        if RESERVED_QUEUES.contains(&text) {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(())
    }
}

macro_rules! name_traits {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_traits!(TaskName);
name_traits!(QueueName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_only_the_characters_that_logs_and_keys_can_carry() {
        for good in ["pages.scrape", "a", "a-b_c.9", &"x".repeat(128)] {
            assert_eq!(good.parse::<TaskName>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "Pages", "a b", "a\n", "{a}", "a~1", "ä", "a:b", &"x".repeat(129)] {
            assert!(bad.parse::<TaskName>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn queues_cannot_take_the_tags_of_the_house() {
        for reserved in RESERVED_QUEUES {
            assert_eq!(
                reserved.parse::<QueueName>(),
                Err(NameError::Reserved(reserved.to_owned()))
            );
        }
        assert!(QueueName::from_str(&"q".repeat(65)).is_err());
        assert!(QueueName::from_str("scrape").is_ok());
    }

    #[test]
    fn a_refused_name_cannot_break_a_log_line() {
        let error = "evil\nname\u{1b}[31m".parse::<TaskName>().unwrap_err().to_string();
        assert!(!error.contains('\n') && !error.contains('\u{1b}'), "{error}");
    }
}
