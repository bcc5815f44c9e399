//! A task on its way in: what its caller wants of it, and what the script is told of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::ScriptInvocation;
use serde::{Deserialize, Serialize};
use umbel_proto::{
    Body, CatalogEntry, Envelope, Priority, QueueName, Task, TaskId, TaskName, TaskOptions, codec,
    trace,
};
use uuid::Uuid;

use crate::{BrokerError, ids, keys::Stream};

/// How long an idempotency key is remembered.
pub(crate) const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest idempotency key, so that keys cannot fill Redis.
pub(crate) const IDEMPOTENCY_KEY_LONGEST: usize = 255;

/// The longest name of an owner: 255 characters of any script.
pub(crate) const OWNER_LONGEST: usize = 1_024;

/// A task on its way in, with arguments packed and names checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    pub task: TaskName,
    pub queue: QueueName,
    #[serde(with = "serde_bytes")]
    pub args: Vec<u8>,
    pub priority: Priority,
    pub max_attempts: u32,
    pub result_ttl: Duration,
    /// What the caller wants otherwise.
    pub call: CallOptions,
}

/// What a call may want otherwise than the task's own options say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallOptions {
    /// When it may start. Default: at once.
    pub when: Option<When>,
    pub priority: Option<Priority>,
    pub max_attempts: Option<u32>,
    /// Milliseconds at the finest.
    pub time_limit: Option<Duration>,
    /// Seconds at the finest.
    pub result_ttl: Option<Duration>,
    /// The same key and call within 24 h is the same task, in one queue; over all queues where it was
    /// claimed before ([`Client::claim_key`]). 1–255 bytes.
    pub idempotency_key: Option<String>,
    /// Whether every state is written, not only the end.
    pub tracked: bool,
    /// No attempt starts after this. Default: never too late.
    pub expires: Option<When>,
    /// Who may see and cancel it from outside. At most 1 KiB.
    pub owner: Option<String>,
}

/// A moment, by its distance or by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum When {
    In(Duration),
    At(DateTime<Utc>),
}

impl When {
    /// By the clock of whoever asks; what is out of all range is the end of time.
    fn from(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::In(delay) => chrono::Duration::from_std(delay)
                .ok()
                .and_then(|delay| now.checked_add_signed(delay))
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }
}

impl NewTask {
    /// Packs a typed task.
    pub fn of<T: Task>(task: &T) -> Result<Self, BrokerError> {
        Self::new(T::NAME.parse()?, &T::OPTIONS, codec::encode(task)?)
    }

    /// A task of the catalogue with arguments that its entry accepted.
    pub fn from_entry(entry: &CatalogEntry, args: Vec<u8>) -> Result<Self, BrokerError> {
        Self::new(entry.name.clone(), &entry.options, args)
    }

    fn new(task: TaskName, options: &TaskOptions, args: Vec<u8>) -> Result<Self, BrokerError> {
        Ok(Self {
            task,
            queue: options.queue.parse()?,
            args,
            priority: options.priority,
            max_attempts: options.max_attempts,
            result_ttl: options.result_ttl,
            call: CallOptions::default(),
        })
    }

    fn body(&self, now: DateTime<Utc>) -> Body {
        Body {
            args: self.args.clone(),
            priority: self.call.priority,
            max_attempts: self.call.max_attempts,
            time_limit_ms: self.call.time_limit.map(|limit| limit.as_millis() as u64),
            result_ttl_s: self.call.result_ttl.map(|ttl| ttl.as_secs()),
            tracked: self.call.tracked,
            expires_ms: self.call.expires.map(|at| at.from(now).timestamp_millis()),
            owner: self.call.owner.clone(),
            trace: trace::current(),
        }
    }

    /// What the same idempotency key must come with: the time it was asked at does not count.
    pub(crate) fn fingerprint(&self) -> Result<String, BrokerError> {
        let call = CallOptions { idempotency_key: None, ..self.call.clone() };
        let bytes = codec::encode(&(&self.task, &call, serde_bytes::Bytes::new(&self.args)))?;
        Ok(Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes).simple().to_string())
    }

    pub(crate) fn idempotency_key(&self) -> Result<Option<&str>, BrokerError> {
        match self.call.idempotency_key.as_deref() {
            Some(key) if !(1..=IDEMPOTENCY_KEY_LONGEST).contains(&key.len()) => {
                Err(BrokerError::IdempotencyKey)
            }
            key => Ok(key),
        }
    }

    fn due(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let due = self.call.when?.from(now);
        (due > now).then_some(due)
    }
}

/// A task with its id and packed fields.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub envelope: Envelope,
    stream: Stream,
    due: String,
    /// The idempotency key; empty where there is none.
    pub key: String,
    fingerprint: String,
    tracked: bool,
    max_attempts: u32,
    owner: String,
}

impl Sealed {
    pub fn of(new: &NewTask, now: DateTime<Utc>) -> Result<Self, BrokerError> {
        let key = new.idempotency_key()?.unwrap_or_default().to_owned();
        if new.call.owner.as_ref().is_some_and(|owner| owner.len() > OWNER_LONGEST) {
            return Err(BrokerError::Owner);
        }
        let id = TaskId::new(&new.queue, ids::next(now));
        Ok(Self {
            envelope: Envelope::seal(id, new.task.clone(), &new.body(now), now)?,
            stream: new.call.priority.unwrap_or(new.priority).into(),
            due: new.due(now).map(|at| at.timestamp_millis().to_string()).unwrap_or_default(),
            fingerprint: if key.is_empty() { String::new() } else { new.fingerprint()? },
            key,
            tracked: new.call.tracked,
            max_attempts: new.call.max_attempts.unwrap_or(new.max_attempts).max(1),
            owner: new.call.owner.clone().unwrap_or_default(),
        })
    }

    /// Whether nothing is to be said of it beyond its id and `env` that is not said of the one
    /// before as well.
    pub fn is_alike(&self, first: &Self) -> bool {
        self.is_plain()
            && first.is_plain()
            && self.stream == first.stream
            && self.tracked == first.tracked
            && self.max_attempts == first.max_attempts
            && self.envelope.task == first.envelope.task
            && self.envelope.enqueued == first.envelope.enqueued
    }

    /// How much room it takes in a call, about.
    pub fn bytes(&self) -> usize {
        self.envelope.env.len()
    }

    /// Due at once and nobody's.
    pub fn is_plain(&self) -> bool {
        self.due.is_empty() && self.key.is_empty() && self.owner.is_empty()
    }

    /// The arguments of the script for tasks that are alike.
    pub fn put_alike(alike: &[Self], call: &mut ScriptInvocation<'_>) {
        let [first, ..] = alike else { return };
        call.arg(alike.len())
            .arg(first.stream.key_index())
            .arg(u8::from(first.tracked))
            .arg(first.envelope.task.as_str())
            .arg(first.max_attempts)
            .arg(first.envelope.enqueued.timestamp_millis())
            .arg(first.envelope.version);
        for Self { envelope, .. } in alike {
            call.arg(envelope.id.as_str()).arg(&envelope.env);
        }
    }

    /// The arguments of the script for any task.
    pub fn put(&self, call: &mut ScriptInvocation<'_>) {
        let envelope = &self.envelope;
        call.arg(0)
            .arg(self.stream.key_index())
            .arg(&self.due)
            .arg(&self.key)
            .arg(&self.fingerprint)
            .arg(u8::from(self.tracked))
            .arg(self.max_attempts)
            .arg(&self.owner)
            .arg(envelope.id.as_str())
            .arg(envelope.task.as_str())
            .arg(envelope.enqueued.timestamp_millis())
            .arg(envelope.version)
            .arg(&envelope.env);
    }
}
