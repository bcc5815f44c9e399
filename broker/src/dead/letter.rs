//! One dead letter as it stands in Redis: its id, and what its fields say.

use std::{collections::HashMap, fmt, str::FromStr};

use chrono::DateTime;
use serde::Serialize;
use umbel_proto::{Envelope, EnvelopeError};

use super::DeadLetter;
use crate::{
    BrokerError,
    fields::{Fields, field},
};

/// Which dead letter of a queue it is: the id of its entry, `<ms>-<n>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    ms: u64,
    n: u64,
}

/// A text that is not the id of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a dead letter is named by two numbers with a dash")]
pub struct LetterIdError;

pub(super) fn envelope(fields: &Fields) -> Result<Envelope, EnvelopeError> {
    Envelope::read(|name| field(fields, name))
}

/// The plain fields as text, whatever stands in them.
pub(super) fn texts(fields: &Fields) -> HashMap<String, String> {
    const PLAIN: [&str; 9] =
        ["why", "error", "worker", "died", "id", "task", "attempt", "crashes", "enqueued"];
    let known = PLAIN.into_iter().filter_map(|name| Some((name, field(fields, name)?)));
    known.map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into())).collect()
}

pub(super) fn shown(letter: LetterId, fields: &HashMap<String, String>) -> DeadLetter {
    let text = |name: &str| fields.get(name).cloned();
    let number = |name: &str| fields.get(name)?.parse().ok();
    let time = |name: &str| DateTime::from_timestamp_millis(fields.get(name)?.parse().ok()?);
    DeadLetter {
        letter,
        why: text("why").unwrap_or_default(),
        error: text("error").unwrap_or_default(),
        worker: text("worker").unwrap_or_default(),
        died: time("died"),
        id: text("id"),
        task: text("task"),
        attempt: number("attempt"),
        crashes: number("crashes"),
        enqueued: time("enqueued"),
    }
}

pub(super) fn letter_id(entry: &[u8]) -> Result<LetterId, BrokerError> {
    let read = std::str::from_utf8(entry).ok().and_then(|text| text.parse().ok());
    read.ok_or_else(|| BrokerError::Unexpected("a stream has an entry without an id".to_owned()))
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

impl FromStr for LetterId {
    type Err = LetterIdError;

    fn from_str(text: &str) -> Result<Self, LetterIdError> {
        let number = |text: &str| {
            // `parse` alone would take a sign.
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        let read =
            text.split_once('-').and_then(|(ms, n)| Some(Self { ms: number(ms)?, n: number(n)? }));
        read.ok_or(LetterIdError)
    }
}

impl Serialize for LetterId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_as_its_entry_and_by_nothing_else() {
        let letter: LetterId = "1790000000123-7".parse().unwrap();
        assert_eq!(letter.to_string(), "1790000000123-7");
        assert_eq!(serde_json::to_string(&letter).unwrap(), r#""1790000000123-7""#);
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-2",
            "1-+2",
            "1-2-3",
            "(1-2",
            "+",
            "1-2 ",
            "99999999999999999999-1",
        ] {
            assert_eq!(bad.parse::<LetterId>(), Err(LetterIdError), "{bad:?}");
        }
    }

    #[test]
    fn letters_are_in_the_order_of_their_numbers() {
        let of = |text: &str| text.parse::<LetterId>().unwrap();
        assert!(of("9-10") > of("9-9") && of("10-0") > of("9-10"));
    }
}
