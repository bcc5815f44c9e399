//! Puts tasks into their queue, or into the delayed set where their time has not come.

use std::{future::IntoFuture, iter, marker::PhantomData, pin::Pin, time::Duration};

use chrono::{DateTime, Utc};
use futures::{TryStreamExt, stream::FuturesOrdered};
use redis::ScriptInvocation;
use serde::{Deserialize, Serialize};
use tracing::{Instrument, info_span};
use umbel_proto::{
    Body, CatalogEntry, Envelope, Priority, QueueName, Task, TaskId, TaskName, TaskOptions, codec,
    trace,
};
use uuid::Uuid;

use crate::{
    BrokerError, Client, TaskHandle, ids,
    keys::{Shard, Stream},
    meters, script,
};

/// How many tasks one script call takes, or ends: longer scripts would hold up every other client.
pub(crate) const BATCH_MAX: usize = 128;

/// How many calls of one client for one queue are on their way at once: while Redis answers one, the
/// next is made ready. More of them would only wait in Redis.
pub(crate) const IN_FLIGHT: usize = 2;

/// How many packed bytes one script call takes: over a line of 3 Mbit/s as many calls as are on their
/// way are there before the answer is given up, or they would be sent again and again.
const BATCH_BYTES_MAX: usize = 1024 * 1024 / IN_FLIGHT;

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

/// A task that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    pub id: TaskId,
    /// The idempotency key was known: this is the task that it stands for.
    pub existing: bool,
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
    envelope: Envelope,
    stream: Stream,
    due: String,
    key: String,
    fingerprint: String,
    tracked: bool,
    max_attempts: u32,
    owner: String,
}

impl Sealed {
    fn of(new: &NewTask, now: DateTime<Utc>) -> Result<Self, BrokerError> {
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
    fn is_alike(&self, first: &Self) -> bool {
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
    fn is_plain(&self) -> bool {
        self.due.is_empty() && self.key.is_empty() && self.owner.is_empty()
    }

    /// The arguments of the script for tasks that are alike.
    fn put_alike(alike: &[Self], call: &mut ScriptInvocation<'_>) {
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
    fn put(&self, call: &mut ScriptInvocation<'_>) {
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

impl Client {
    /// Enqueues a typed task; `.await` the builder. Every state of it is written unless
    /// [`Enqueue::untracked`] says otherwise.
    ///
    /// ```no_run
    /// # use umbel_proto::Task;
    /// # async fn f<T: Task>(client: umbel_broker::Client, task: T) -> Result<(), umbel_broker::BrokerError> {
    /// let handle = client.enqueue(task).delay(std::time::Duration::from_secs(30)).await?;
    /// println!("{}", handle.id());
    /// # Ok(()) }
    /// ```
    pub fn enqueue<T: Task>(&self, task: T) -> Enqueue<T> {
        let new = NewTask::of(&task).map(|mut new| {
            new.call.tracked = true;
            new
        });
        Enqueue { client: self.clone(), new, of: PhantomData }
    }

    /// Enqueues many typed tasks in few calls; `.await` the builder for an answer a task: some may
    /// be refused and others not. Only their end is written unless [`EnqueueMany::tracked`] says
    /// otherwise. An error of the whole leaves other batches of 128 enqueued; with
    /// [`EnqueueMany::idempotency_keys`] the call can be repeated.
    pub fn enqueue_many<T: Task>(&self, tasks: impl IntoIterator<Item = T>) -> EnqueueMany<T> {
        let mut first: Option<NewTask> = None;
        let new = tasks.into_iter().map(|task| match &first {
            // Its names are checked, and shared by all.
            Some(first) => Ok(NewTask { args: codec::encode(&task)?, ..first.clone() }),
            None => {
                let new = NewTask::of(&task)?;
                first = Some(NewTask { args: Vec::new(), ..new.clone() });
                Ok(new)
            }
        });
        EnqueueMany { client: self.clone(), new: new.collect(), of: PhantomData }
    }

    /// Enqueues one task whose type is not known here. Callers at the same time share calls.
    pub async fn submit(&self, new: NewTask) -> Result<Submitted, BrokerError> {
        let shard = Shard::first(&new.queue);
        let sending = async {
            // Within the span, which the task names as where it came from.
            let sealed = Sealed::of(&new, Utc::now())?;
            self.list_queue_once(&shard).await?;
            self.submit_shared(&shard, sealed).await
        };
        traced(&shard, std::slice::from_ref(&new), sending).await
    }

    /// Enqueues tasks in batches, with an answer for each, in their order. An error of the whole
    /// leaves other batches enqueued.
    pub async fn submit_many(
        &self,
        tasks: &[NewTask],
    ) -> Result<Vec<Result<Submitted, BrokerError>>, BrokerError> {
        let mut answers = Vec::with_capacity(tasks.len());
        let (mut left, mut calls) = (batches(tasks), FuturesOrdered::new());
        loop {
            // The first one alone: where it has to bring the script, the next would overtake it.
            let most = if answers.is_empty() { 1 } else { IN_FLIGHT };
            while calls.len() < most
                && let Some(batch) = left.next()
            {
                calls.push_back(self.submit_of_queue(batch));
            }
            match calls.try_next().await? {
                Some(answered) => answers.extend(answered),
                None => return Ok(answers),
            }
        }
    }

    /// Enqueues the first of some tasks, as many as go in one call, with an answer for each: who calls
    /// it again for those that are left knows what was taken when a call fails.
    pub async fn submit_next(
        &self,
        tasks: &[NewTask],
    ) -> Result<Vec<Result<Submitted, BrokerError>>, BrokerError> {
        match batches(tasks).next() {
            Some(batch) => self.submit_of_queue(batch).await,
            None => Ok(Vec::new()),
        }
    }

    /// Enqueues tasks of one queue by one call.
    async fn submit_of_queue(
        &self,
        batch: &[NewTask],
    ) -> Result<Vec<Result<Submitted, BrokerError>>, BrokerError> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let (shard, now) = (Shard::first(&first.queue), Utc::now());
        let sending = async {
            self.list_queue_once(&shard).await?;
            let sealed = batch.iter().map(|new| Sealed::of(new, now));
            self.submit_batch(&shard, sealed.collect::<Result<_, _>>()?).await
        };
        traced(&shard, batch, sending).await
    }

    pub(crate) async fn submit_batch(
        &self,
        shard: &Shard,
        sealed: Vec<Sealed>,
    ) -> Result<Vec<Result<Submitted, BrokerError>>, BrokerError> {
        let mut call = script::of_shard(&self.scripts().enqueue, shard);
        call.key(shard.delayed()).key(shard.waiting());
        call.arg(shard.prefix()).arg(IDEMPOTENCY_TTL.as_secs());
        for some in sealed.chunk_by(Sealed::is_alike) {
            match some {
                [one] if !one.is_plain() => one.put(&mut call),
                alike => Sealed::put_alike(alike, &mut call),
            }
        }
        let answers: Vec<String> = self.call(&call).await?;
        let all_taken = answers == ["1"];
        if !all_taken && answers.len() != sealed.len() {
            return Err(unanswered());
        }
        if all_taken {
            let taken = |task: Sealed| {
                meters::enqueued(&task.envelope.task, shard.queue());
                Ok(Submitted { id: task.envelope.id, existing: false })
            };
            return Ok(sealed.into_iter().map(taken).collect());
        }
        Ok(answers
            .into_iter()
            .zip(sealed)
            .map(|(answer, task)| match answer.as_str() {
                "FULL" => Err(BrokerError::QueueFull { queue: shard.queue().clone() }),
                "CONFLICT" => Err(BrokerError::KeyConflict { key: task.key }),
                answer => {
                    let known = answer.strip_prefix('=');
                    let id = known.unwrap_or(answer).parse().map_err(|_| {
                        BrokerError::Unexpected("enqueue answered no task id".to_owned())
                    })?;
                    if known.is_none() {
                        meters::enqueued(&task.envelope.task, shard.queue());
                    }
                    Ok(Submitted { id, existing: known.is_some() })
                }
            })
            .collect())
    }
}

/// Sends some tasks within a span of their own.
async fn traced<T>(
    shard: &Shard,
    tasks: &[NewTask],
    sending: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let span = info_span!(
        target: trace::TARGET,
        "enqueue",
        otel.name = %format_args!("send {}", shard.queue()),
        otel.kind = "producer",
        messaging.system = "umbel",
        messaging.operation.r#type = "send",
        messaging.destination.name = shard.queue().as_str(),
        messaging.batch.message_count = tasks.len(),
        task.name = tasks.first().map(|new| new.task.as_str()),
    );
    async {
        let answer = sending.await;
        if let Err(error) = &answer {
            trace::failed(error.kind());
        }
        answer
    }
    .instrument(span)
    .await
}

/// Cuts tasks into what goes in one call each.
fn batches(mut tasks: &[NewTask]) -> impl Iterator<Item = &[NewTask]> {
    iter::from_fn(move || {
        let queue = &tasks.first()?.queue;
        let of_queue = tasks.iter().take_while(|new| new.queue == *queue);
        let (batch, rest) = tasks.split_at(batch_of(of_queue.map(|new| new.args.len())));
        tasks = rest;
        Some(batch)
    })
}

/// How many of the next tasks, of these sizes, go in one call; one at least where there is one.
pub(crate) fn batch_of(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = sizes.take(BATCH_MAX).take_while(|size| {
        let fits = bytes == 0 || bytes + size <= BATCH_BYTES_MAX;
        bytes += size;
        fits
    });
    fits.count()
}

pub(crate) fn unanswered() -> BrokerError {
    BrokerError::Unexpected("enqueue did not answer for all".to_owned())
}

/// A task about to be enqueued; see [`Client::enqueue`].
#[derive(Debug)]
#[must_use = "nothing is enqueued until this is awaited"]
pub struct Enqueue<T: Task> {
    client: Client,
    new: Result<NewTask, BrokerError>,
    of: PhantomData<fn() -> T>,
}

impl<T: Task> Enqueue<T> {
    fn set(mut self, change: impl FnOnce(&mut CallOptions)) -> Self {
        if let Ok(new) = &mut self.new {
            change(&mut new.call);
        }
        self
    }

    /// Starts no earlier than this from now. Default: at once.
    pub fn delay(self, delay: Duration) -> Self {
        self.set(|call| call.when = Some(When::In(delay)))
    }

    /// Starts no earlier than this. A time that has passed means at once.
    pub fn at(self, at: DateTime<Utc>) -> Self {
        self.set(|call| call.when = Some(When::At(at)))
    }

    /// Default: the task's own.
    pub fn priority(self, priority: Priority) -> Self {
        self.set(|call| call.priority = Some(priority))
    }

    /// How often it is tried in all. Default: the task's own.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.set(|call| call.max_attempts = Some(attempts))
    }

    /// How long one attempt may run. Default: the task's own.
    pub fn time_limit(self, limit: Duration) -> Self {
        self.set(|call| call.time_limit = Some(limit))
    }

    /// Is not started any more after so long; then it ends as expired, whatever attempt it is.
    /// By the clocks of who enqueues and of the worker. Default: never too late.
    pub fn expires_in(self, after: Duration) -> Self {
        self.set(|call| call.expires = Some(When::In(after)))
    }

    /// As [`expires_in`](Self::expires_in), by a moment.
    pub fn expires_at(self, at: DateTime<Utc>) -> Self {
        self.set(|call| call.expires = Some(When::At(at)))
    }

    /// How long state and result are kept after the end. Default: the task's own.
    pub fn result_ttl(self, ttl: Duration) -> Self {
        self.set(|call| call.result_ttl = Some(ttl))
    }

    /// The same key and call within 24 h gives the same task; another call with it, of the same queue, is
    /// refused.
    pub fn idempotency_key(self, key: impl Into<String>) -> Self {
        self.set(|call| call.idempotency_key = Some(key.into()))
    }

    /// Whose task it is: who may see and cancel it over HTTP, beside the admins. At most 1 KiB.
    /// Default: nobody's.
    pub fn owner(self, owner: impl Into<String>) -> Self {
        self.set(|call| call.owner = Some(owner.into()))
    }

    /// Writes only the end of the task: one key less in Redis while it waits.
    pub fn untracked(self) -> Self {
        self.set(|call| call.tracked = false)
    }
}

type Enqueued<O> = Pin<Box<dyn Future<Output = Result<O, BrokerError>> + Send>>;

impl<T: Task> IntoFuture for Enqueue<T> {
    type Output = Result<TaskHandle<T::Output>, BrokerError>;
    type IntoFuture = Enqueued<TaskHandle<T::Output>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let submitted = self.client.submit(self.new?).await?;
            Ok(TaskHandle::new(self.client, submitted.id))
        })
    }
}

/// Tasks about to be enqueued; see [`Client::enqueue_many`].
#[derive(Debug)]
#[must_use = "nothing is enqueued until this is awaited"]
pub struct EnqueueMany<T: Task> {
    client: Client,
    new: Result<Vec<NewTask>, BrokerError>,
    of: PhantomData<fn() -> T>,
}

impl<T: Task> EnqueueMany<T> {
    /// Writes every state of each task, not only its end.
    pub fn tracked(mut self) -> Self {
        for new in self.new.iter_mut().flatten() {
            new.call.tracked = true;
        }
        self
    }

    /// Gives each task its owner, by its place among the tasks; see [`Enqueue::owner`].
    pub fn owners(mut self, owner: impl Fn(usize) -> Option<String>) -> Self {
        for (place, new) in self.new.iter_mut().flatten().enumerate() {
            new.call.owner = owner(place);
        }
        self
    }

    /// Gives each task its idempotency key, made from its place among the tasks.
    pub fn idempotency_keys(mut self, key: impl Fn(usize) -> String) -> Self {
        for (place, new) in self.new.iter_mut().flatten().enumerate() {
            new.call.idempotency_key = Some(key(place));
        }
        self
    }
}

/// One answer a task, in their order.
type Answers<O> = Vec<Result<TaskHandle<O>, BrokerError>>;

impl<T: Task> IntoFuture for EnqueueMany<T> {
    type Output = Result<Answers<T::Output>, BrokerError>;
    type IntoFuture = Enqueued<Answers<T::Output>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answers = self.client.submit_many(&self.new?).await?;
            let handle = |submitted: Submitted| TaskHandle::new(self.client.clone(), submitted.id);
            Ok(answers.into_iter().map(|answer| answer.map(handle)).collect())
        })
    }
}
