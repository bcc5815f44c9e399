//! Values of a request that are more than their JSON type, parsed at the door.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use chrono::TimeDelta;
use ring::digest;
use serde::Deserialize;

use crate::problem::{FieldError, Problem};

/// The furthest start. What is later is a slip of the unit (milliseconds for seconds), and would
/// lie in Redis' memory for as long.
pub(crate) const FURTHEST: TimeDelta = TimeDelta::days(366);

const IDEMPOTENCY_KEY: &str = "idempotency-key";

const IDEMPOTENCY_KEY_LONGEST: usize = 255;

/// A time from now, in seconds: at most 366 days.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "f64")]
pub(crate) struct Seconds(pub Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
        match TimeDelta::from_std(time) {
            Ok(delta) if delta <= FURTHEST => Ok(Self(time)),
            _ => Err(far()),
        }
    }
}

pub(crate) fn far() -> String {
    format!("more than {} days away", FURTHEST.num_days())
}

/// What a caller calls a task by: 1 to 255 visible ASCII characters.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Key(String);

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        let fits = (1..=IDEMPOTENCY_KEY_LONGEST).contains(&key.len());
        if !fits || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("must be 1 to {IDEMPOTENCY_KEY_LONGEST} visible ASCII characters"));
        }
        Ok(Self(key))
    }
}

impl Key {
    /// That of the header, if there is one.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
        let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
        Self::try_from(key).map(Some).map_err(|rule| invalid("Idempotency-Key", rule))
    }

    /// As the broker knows it: of this subject and of HTTP, so that nobody meets a task of somebody
    /// else, or of beat, behind a key; hashed, because both together may be too long for it.
    pub fn of_subject(&self, subject: &str) -> String {
        // A subject has no control characters: the zero byte tells where it ends.
        let scoped = [subject.as_bytes(), b"\0", self.0.as_bytes()].concat();
        format!("http:{}", sha256(&scoped))
    }
}

/// A hash of bytes as 64 hex digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request of which one part is wrong.
pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
        .detail("the request is understood, but a part of it is wrong")
        .error(FieldError::new(field, reason))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_one_subjects_own() {
        let key = |key: &str, subject: &str| {
            let key = Key::try_from(key.to_owned());
            key.map(|key| key.of_subject(subject))
        };
        let known = key("k-1", "ann").unwrap();
        assert_eq!(key("k-1", "ann").unwrap(), known);
        assert_ne!(key("k-1", "bob").unwrap(), known);
        assert_ne!(key("k-2", "ann").unwrap(), known);
        assert_ne!(key("b:c", "a").unwrap(), key("c", "a:b").unwrap());
        assert!(key(&"x".repeat(255), &"s".repeat(255)).unwrap().len() <= 255);
        for bad in ["", "a b", "\u{e4}", &"x".repeat(256)] {
            assert!(key(bad, "ann").is_err(), "{bad:?}");
        }
        let mut headers = HeaderMap::new();
        assert!(Key::of(&headers).unwrap().is_none());
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(Key::of(&headers).is_err());
    }
}
