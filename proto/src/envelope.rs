//! What travels: plain fields that redis-cli shows, and one packed field with the arguments.
//!
//! Attempt and crashes live only in the plain fields and change when a task is added again; `env`
//! never changes after sealing, so fields of a newer minor version survive an older worker.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{CodecError, Priority, TaskId, TaskName, TaskOptions, codec};

/// The version that this release writes. A larger one is not understood here.
pub const VERSION: u32 = 1;

/// The largest encoded arguments, so that they fit when the rest of a [`Body`] is packed around them: its
/// longest owner is 1 KiB, and all else of it is some hundred bytes.
pub const ARGS_LARGEST: usize = codec::MAX_BYTES - 4 * 1024;

/// A task on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub id: TaskId,
    pub task: TaskName,
    /// The attempt that its next run is: the first is 1.
    pub attempt: u32,
    /// Deaths of workers that were charged to this task.
    pub crashes: u32,
    pub enqueued: DateTime<Utc>,
    pub version: u32,
    /// The packed [`Body`].
    pub env: Vec<u8>,
}

/// What is packed into `env`: the arguments, and those options that differ from the task's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// The encoded arguments, untouched until the handler decodes them.
    #[serde(with = "serde_bytes")]
    pub args: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_ttl_s: Option<u64>,
    /// Whether every state of the task is written, not only its end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tracked: bool,
    /// No attempt starts after this: milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// Whose task it is, where it came in over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The span that enqueued it, as a `traceparent` of W3C, where traces are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

/// Why fields are not an envelope. It will never be one.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// A field is absent.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field does not hold what it should.
    #[error("field `{field}` is wrong: {reason}")]
    Wrong { field: &'static str, reason: String },
    /// `env` is not a packed body.
    #[error("field `env` is wrong")]
    Env(#[source] CodecError),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Envelope {
    /// Packs a task for its first attempt.
    pub fn seal(
        id: TaskId,
        task: TaskName,
        body: &Body,
        now: DateTime<Utc>,
    ) -> Result<Self, CodecError> {
        let env = codec::encode(body)?;
        Ok(Self { id, task, attempt: 1, crashes: 0, enqueued: now, version: VERSION, env })
    }

    /// Reads the plain fields of an entry; order and further fields do not matter.
    pub fn read<'a, F>(field: F) -> Result<Self, EnvelopeError>
    where
        F: Fn(&str) -> Option<&'a [u8]>,
    {
        let bytes = |name: &'static str| field(name).ok_or(EnvelopeError::Missing(name));
        let text = |name| {
            std::str::from_utf8(bytes(name)?)
                .map_err(|error| EnvelopeError::Wrong { field: name, reason: error.to_string() })
        };
        let enqueued_ms: i64 = parse("enqueued", text("enqueued")?)?;
        Ok(Self {
            id: parse("id", text("id")?)?,
            task: parse("task", text("task")?)?,
            attempt: parse("attempt", text("attempt")?)?,
            crashes: parse("crashes", text("crashes")?)?,
            enqueued: DateTime::from_timestamp_millis(enqueued_ms).ok_or_else(|| {
                EnvelopeError::Wrong { field: "enqueued", reason: "out of range".to_owned() }
            })?,
            version: parse("version", text("version")?)?,
            env: bytes("env")?.to_vec(),
        })
    }

    /// Unpacks `env`.
    pub fn body(&self) -> Result<Body, EnvelopeError> {
        codec::decode(&self.env).map_err(EnvelopeError::Env)
    }

    /// Unpacks `env` where this release knows its shape. The body of a newer envelope may be of any: it
    /// stays packed for a newer worker, and what is given is as if nothing stood in it.
    pub fn known_body(&self) -> Result<Body, EnvelopeError> {
        if self.version > VERSION { Ok(Body::default()) } else { self.body() }
    }

    /// The plain fields in the order in which they are stored, `env` last.
    pub fn fields(&self) -> [(&'static str, Vec<u8>); 7] {
        [
            ("id", self.id.as_str().into()),
            ("task", self.task.as_str().into()),
            ("attempt", self.attempt.to_string().into_bytes()),
            ("crashes", self.crashes.to_string().into_bytes()),
            ("enqueued", self.enqueued.timestamp_millis().to_string().into_bytes()),
            ("version", self.version.to_string().into_bytes()),
            ("env", self.env.clone()),
        ]
    }
}

impl Body {
    pub fn priority(&self, options: &TaskOptions) -> Priority {
        self.priority.unwrap_or(options.priority)
    }

    pub fn max_attempts(&self, options: &TaskOptions) -> u32 {
        self.max_attempts.unwrap_or(options.max_attempts).max(1)
    }

    pub fn time_limit(&self, options: &TaskOptions) -> Duration {
        self.time_limit_ms.map_or(options.time_limit, Duration::from_millis)
    }

    pub fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_ms.is_some_and(|at| now.timestamp_millis() > at)
    }

    pub fn result_ttl(&self, options: &TaskOptions) -> Duration {
        self.result_ttl_s.map_or(options.result_ttl, Duration::from_secs)
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    text: &str,
) -> Result<T, EnvelopeError> {
    text.parse().map_err(|error: T::Err| EnvelopeError::Wrong { field, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn envelope() -> Envelope {
        let id = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap();
        let body = Body { args: vec![0x80], max_attempts: Some(3), ..Body::default() };
        let now = DateTime::from_timestamp_millis(1_790_000_000_123).unwrap();
        Envelope::seal(id, "pages.scrape".parse().unwrap(), &body, now).unwrap()
    }

    fn read(fields: &BTreeMap<&str, Vec<u8>>) -> Result<Envelope, EnvelopeError> {
        Envelope::read(|name| fields.get(name).map(Vec::as_slice))
    }

    #[test]
    fn an_envelope_is_read_back_from_its_fields() {
        let sealed = envelope();
        let fields = BTreeMap::from(sealed.fields());
        let back = read(&fields).unwrap();
        assert_eq!(back, sealed);
        assert_eq!(back.body().unwrap().max_attempts, Some(3));
    }

    #[test]
    fn a_task_expires_after_its_moment_and_not_at_it() {
        let now = DateTime::from_timestamp_millis(1_000).unwrap();
        let expires = |at| Body { expires_ms: at, ..Body::default() }.has_expired(now);
        assert_eq!([None, Some(999), Some(1_000)].map(expires), [false, true, false]);
    }

    #[test]
    fn defaults_take_no_room_in_the_body() {
        let bytes = codec::encode(&Body { args: vec![1, 2], ..Body::default() }).unwrap();
        // A map of one: "args" and two bytes.
        assert_eq!(bytes, [0x81, 0xa4, b'a', b'r', b'g', b's', 0xc4, 2, 1, 2]);
    }

    #[test]
    fn fields_of_a_newer_release_are_passed_over() {
        let mut sealed = envelope();
        sealed.env = codec::encode(&serde_json::json!({"args": [1], "chain": ["later"]})).unwrap();
        assert_eq!(sealed.body().unwrap().args, [1]);
        let mut fields = BTreeMap::from(sealed.fields());
        fields.insert("signature", b"newer".to_vec());
        assert_eq!(read(&fields).unwrap().id, sealed.id);
    }

    #[test]
    fn the_body_of_a_newer_envelope_stays_packed_and_that_of_a_known_one_is_read() {
        let known = envelope();
        assert_eq!(known.known_body().unwrap(), known.body().unwrap());
        assert_ne!(known.known_body().unwrap(), Body::default());
        let newer = Envelope { version: VERSION + 1, ..known.clone() };
        assert_eq!(newer.known_body().unwrap(), Body::default());
        // Of whatever shape: nobody looks.
        let odd = vec![0xc1];
        let newer = Envelope { env: odd.clone(), ..newer };
        assert_eq!(newer.known_body().unwrap(), Body::default());
        let broken = Envelope { env: odd, ..known };
        assert!(matches!(broken.known_body(), Err(EnvelopeError::Env(_))));
    }

    #[test]
    fn every_missing_or_wrong_field_is_named() {
        let whole = BTreeMap::from(envelope().fields());
        for name in ["id", "task", "attempt", "crashes", "enqueued", "version", "env"] {
            let mut fields = whole.clone();
            fields.remove(name);
            let error = read(&fields).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            if name != "env" {
                fields.insert(name, b"\xff?".to_vec());
                let error = read(&fields).unwrap_err().to_string();
                assert!(error.contains(name), "{error}");
            }
        }
        let mut broken = envelope();
        broken.env = vec![0xc1];
        assert!(matches!(broken.body(), Err(EnvelopeError::Env(_))));
    }
}
