//! What a process does for its tasks, call by call: enqueue, fetch, start, settle, beat, recover.

use std::time::Duration;

use chrono::Utc;
use umbel_broker::{
    BrokerError, CallOptions, Client, Consumer, Delivery, Held, NewTask, Settlement, Settler,
    Submitted, Terms, Verdict as RealVerdict, When, Why,
    dead::{LetterFilter, LetterId, Swept},
    keys::Stream,
    liveness::{Beat, Beats, Cause, Heartbeat},
    shard::{Recovered, Tick},
};
use umbel_proto::TaskState;
use umbel_tests::probe::{Act, Probe};

use super::{
    lab::{Case, Told, done, failed, real_id, shard},
    model::State,
    picture::{BY, WHY, info},
    reading::{Names, entry},
    words::{
        ATTEMPTS_MAX, Answer, Call, Clock, Command, Delay, End, Entry, LATE_MS, Name,
        RESULT_TTL_MS, SOON_MS, Seen, Standing, Verdict, Worker,
    },
};

/// How far ahead of Redis a ticking worker is here: all that is soon is due for it, and Redis does
/// not mind.
const AHEAD: Duration = Duration::from_millis(2 * SOON_MS as u64);

/// What one worker really has.
#[derive(Debug, Default)]
pub struct RealHands {
    pub held: Held,
    consumer: Option<Consumer>,
    hand: Vec<Delivery>,
}

impl Case<'_> {
    /// All commands that are calls of the broker.
    pub async fn trade(&mut self, command: &Command, before: &State, after: &State) -> Told {
        let client = self.client.clone();
        let now = Utc::now();
        match command {
            Command::Enqueue(calls) => self.enqueue(calls).await,
            Command::Fetch { worker, free, anew } => {
                let hands = &mut self.workers[*worker as usize];
                let known = hands.consumer.take().filter(|_| !anew);
                let mut consumer = match known {
                    Some(consumer) => consumer,
                    None => consumer(&client, *worker, &hands.held).await?,
                };
                let fetched = fetch(&mut consumer, *free, after.adopted).await;
                hands.consumer = Some(consumer);
                self.take(*worker, fetched)
            }
            Command::Twice { worker } => {
                let mut consumer = consumer(&client, *worker, &Held::default()).await?;
                let fetched = fetch(&mut consumer, usize::MAX, after.adopted).await;
                self.take(*worker, fetched)
            }
            Command::Start { worker, picks } => {
                let hands = &mut self.workers[*worker as usize];
                let picked = pick(&mut hands.hand, picks);
                let started = client.start(worker.id(), &hands.held, picked, now).await;
                let started = started.map_err(|(_, error)| format!("{error:?}"))?;
                let seen: Vec<Raw> = started.iter().map(Raw::of).collect();
                hands.hand.extend(started);
                Ok(Box::new(move |names| Answer::Started(Raw::told(seen, names))))
            }
            Command::Settle { worker, ends } => self.settle(*worker, ends).await,
            Command::Beat { worker } => match client.heartbeat(worker.id(), &info(*worker)).await {
                Ok(Heartbeat::Fenced) => done(Answer::Fenced),
                Ok(Heartbeat::Alive(beats)) => Ok(Box::new(move |names| alive(&beats, names))),
                Err(error) => failed(&error),
            },
            Command::Declare { worker, observed } => {
                let observed = before.server.observed(*worker, *observed);
                let declared = client.declare_dead(worker.id(), &observed, &Cause::Silent, now);
                told(declared.await, Answer::Declared)
            }
            Command::SignOff { worker } => {
                told(client.sign_off(worker.id(), now).await, |()| Answer::Done)
            }
            Command::BootEnded { boot } => {
                let buried = client.boot_ended(boot.id(), &Cause::OutOfMemory, now).await;
                told(buried, |buried| {
                    let known = |(id, cause): (String, Cause)| {
                        Worker::of(&id).map(|worker| (worker, cause.to_string()))
                    };
                    Answer::Buried(buried.into_iter().filter_map(known).collect())
                })
            }
            Command::Forget { worker } => {
                told(client.forget_worker(worker.id()).await, |()| Answer::Done)
            }
            Command::Recover { worker, charged } => {
                told(client.recover(&shard(), worker.id(), *charged).await, |recovered| {
                    let Recovered { added, gone, more } = recovered;
                    Answer::Recovered { added, gone, more }
                })
            }
            Command::Tick(clock) => tick(&client, *clock).await,
            Command::Unpark(name) => {
                told(client.unpark(&shard(), name.as_str()).await, Answer::Unparked)
            }
            Command::Cancel { task } => {
                let id = self.names.tasks[*task].parse().expect("the id of an accepted task");
                told(client.cancel(&id, "somebody").await, Answer::Cancelled)
            }
            Command::Progress { worker, pick } => {
                let envelope = &self.workers[*worker as usize].hand[*pick].contents;
                let envelope = &envelope.as_ref().map_err(|error| error.to_string())?.envelope;
                let (id, attempt) = (&envelope.id, envelope.attempt);
                told(client.progress(id, worker.id(), attempt, "7").await, Answer::Noted)
            }
            Command::Pause => {
                let queue = shard().queue().clone();
                told(client.pause(&queue, BY, WHY, now).await, Answer::Changed)
            }
            Command::Resume => told(client.resume(shard().queue()).await, Answer::Changed),
            Command::Redrive(letter) => self.redrive(*letter).await,
            Command::RedriveAll(name) => {
                swept(client.redrive_all(shard().queue(), &of(*name), None).await)
            }
            Command::DeleteLetter(letter) => {
                let letter = letter_id(*letter);
                told(client.delete_letter(shard().queue(), letter).await, Answer::Changed)
            }
            Command::DeleteLetters(name) => {
                swept(client.delete_letters(shard().queue(), &of(*name), None).await)
            }
            Command::Look => look(&client, after).await.unwrap_or_else(|error| failed(&error)),
            other => unreachable!("{other:?} is no call"),
        }
    }

    async fn enqueue(&mut self, calls: &[Call]) -> Told {
        let tasks: Vec<NewTask> = calls.iter().copied().map(new_task).collect();
        let answers = match self.client.submit_many(&tasks).await {
            Ok(answers) => answers,
            Err(error) => return failed(&error),
        };
        let mut entries = Vec::new();
        for answer in answers {
            let known = |id: &str| self.names.tasks.iter().position(|task| task == id);
            entries.push(match answer {
                Ok(Submitted { id, existing: false }) => {
                    self.names.tasks.push(id.to_string());
                    Entry::Accepted(self.names.tasks.len() - 1)
                }
                Ok(Submitted { id, existing: true }) => {
                    Entry::Existing(known(id.as_str()).ok_or("a task that was never accepted")?)
                }
                Err(BrokerError::QueueFull { .. }) => Entry::Full,
                Err(BrokerError::KeyConflict { .. }) => Entry::Conflict,
                Err(error) => return failed(&error),
            });
        }
        done(Answer::Enqueued(entries))
    }

    async fn redrive(&self, letter: u32) -> Told {
        match self.client.redrive(shard().queue(), letter_id(letter)).await {
            Ok(Some(id)) => {
                let known = self.names.tasks.iter().position(|task| *task == id.as_str());
                let task = known.ok_or("a task that was never accepted")?;
                done(Answer::Redriven(Some(Entry::Accepted(task))))
            }
            Ok(None) => done(Answer::Redriven(None)),
            Err(BrokerError::QueueFull { .. }) => done(Answer::Redriven(Some(Entry::Full))),
            Err(error) => failed(&error),
        }
    }

    fn take(&mut self, worker: Worker, fetched: Result<Vec<Delivery>, BrokerError>) -> Told {
        match fetched {
            Ok(deliveries) => {
                let seen: Vec<Raw> = deliveries.iter().map(Raw::of).collect();
                self.workers[worker as usize].hand.extend(deliveries);
                Ok(Box::new(move |names| Answer::Fetched(Raw::told(seen, names))))
            }
            Err(BrokerError::GroupGone(_)) => done(Answer::GroupGone),
            Err(error) => failed(&error),
        }
    }

    async fn settle(&mut self, worker: Worker, ends: &[End]) -> Told {
        let hands = &mut self.workers[worker as usize];
        let picks: Vec<usize> = ends.iter().map(|end| end.pick).collect();
        let picked = pick(&mut hands.hand, &picks);
        let (settler, ended) =
            Settler::start(self.client.clone(), worker.id().to_owned(), hands.held.clone());
        for (delivery, end) in picked.into_iter().zip(ends) {
            let contents = delivery.contents.as_ref().map_err(|error| error.to_string())?;
            let priority = contents.body.priority.unwrap_or_default();
            let kept = if end.kept { RESULT_TTL_MS as u64 } else { 0 };
            let terms = Terms {
                priority,
                max_attempts: ATTEMPTS_MAX,
                result_ttl: Duration::from_millis(kept),
                started: end.ran.then(Utc::now),
            };
            settler.settle(Settlement { delivery, verdict: verdict(end.verdict), terms }).await;
        }
        drop(settler);
        ended.await.map_err(|error| error.to_string())?;
        done(Answer::Done)
    }
}

fn letter_id(number: u32) -> LetterId {
    real_id(number).parse().expect("an id of an entry")
}

fn of(name: Option<Name>) -> LetterFilter {
    let task = name.map(|name| name.as_str().parse().expect("a name"));
    LetterFilter { task, why: None }
}

fn swept(answer: Result<Swept, BrokerError>) -> Told {
    match answer {
        Ok(Swept { done: count, refused: 0, next: None }) => done(Answer::Swept(Some(count))),
        Err(BrokerError::QueueFull { .. }) => done(Answer::Swept(None)),
        other => Err(format!("{other:?}")),
    }
}

/// A consumer whose reads never wait.
async fn consumer(client: &Client, worker: Worker, held: &Held) -> Result<Consumer, String> {
    let consumer =
        Consumer::new(client.clone(), worker.id().to_owned(), vec![shard()], held.clone());
    consumer.stop().request().await.map_err(|error| format!("{error:?}"))?;
    Ok(consumer)
}

/// After a broken connection the caller calls again, as every worker does.
async fn fetch(
    consumer: &mut Consumer,
    free: usize,
    adopts: bool,
) -> Result<Vec<Delivery>, BrokerError> {
    let mut fetched = consumer.fetch(free).await;
    if let Err(BrokerError::Unavailable(_)) = fetched {
        fetched = consumer.fetch(free).await;
    }
    if adopts && let Ok(deliveries) = &mut fetched {
        // Of two entries of one id in two streams either may come first.
        deliveries.sort_by_key(|delivery| (delivery.entry().to_owned(), stream(delivery)));
    }
    fetched
}

fn stream(delivery: &Delivery) -> Stream {
    delivery.priority().map_or(Stream::Recovered, Stream::from)
}

/// Takes deliveries out of a hand, in the order of `picks`.
fn pick(hand: &mut Vec<Delivery>, picks: &[usize]) -> Vec<Delivery> {
    let mut all: Vec<Option<Delivery>> = std::mem::take(hand).into_iter().map(Some).collect();
    let picked = picks.iter().filter_map(|pick| all[*pick].take()).collect();
    hand.extend(all.into_iter().flatten());
    picked
}

fn new_task(call: Call) -> NewTask {
    let mut new = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    new.task = call.name.as_str().parse().unwrap();
    new.args = vec![call.args];
    new.max_attempts = ATTEMPTS_MAX;
    new.call = CallOptions {
        when: call.delay.map(|delay| When::In(real(delay))),
        priority: Some(call.priority),
        tracked: call.tracked,
        idempotency_key: call.key.map(|key| format!("k{key}")),
        ..CallOptions::default()
    };
    new
}

fn real(delay: Delay) -> Duration {
    Duration::from_millis(delay.ms() as u64)
}

fn verdict(verdict: Verdict) -> RealVerdict {
    let text = str::to_owned;
    match verdict {
        Verdict::Complete => RealVerdict::Complete { output: b"output".to_vec() },
        Verdict::Retry(delay) => RealVerdict::Retry { delay: real(delay), error: text("broken") },
        Verdict::Defer(delay) => RealVerdict::Defer { delay: real(delay), reason: text("not yet") },
        Verdict::Park(left) => RealVerdict::Park { left: real(left), reason: text("unknown") },
        Verdict::Bury => RealVerdict::Bury { why: Why::Fatal, error: text("hopeless") },
        Verdict::Cancel => {
            RealVerdict::Discard { state: TaskState::Cancelled, by: text("somebody") }
        }
        Verdict::Expire => RealVerdict::Discard { state: TaskState::Expired, by: text("somebody") },
        Verdict::Release => RealVerdict::Release,
    }
}

async fn tick(client: &Client, clock: Clock) -> Told {
    let far = Duration::from_millis(LATE_MS as u64);
    let now = match clock {
        Clock::Right => Utc::now() + AHEAD,
        Clock::Ahead => Utc::now() + far,
        Clock::Behind => Utc::now() - far,
    };
    match client.tick(&shard(), now).await {
        Ok(Tick::Skewed { .. }) => done(Answer::Skewed),
        Ok(Tick::Moved { moved, gone, next_due, parked, paused }) => Ok(Box::new(move |names| {
            let due = next_due.map(|due| due.timestamp_millis().to_string());
            Answer::Moved {
                moved,
                gone,
                next_due: due.map(|due| names.time(&due, &[SOON_MS, LATE_MS])),
                parked: parked.iter().filter_map(|name| Name::of(name)).collect(),
                paused,
            }
        })),
        Err(error) => failed(&error),
    }
}

async fn look(client: &Client, after: &State) -> Result<Told, BrokerError> {
    let consumers = client.consumers(&shard()).await?;
    let known = consumers.iter().filter_map(|id| Worker::of(id));
    let readers = known.filter(|worker| after.server.reads_for_certain(*worker)).collect();
    let stands = client.queues().await?.pop().map(|queue| Standing {
        queued: queue.queued,
        running: queue.running,
        delayed: queue.delayed,
        parked: queue.parked,
        dead: queue.dead,
        paused: queue.paused.is_some(),
        readers,
    });
    Ok(done(Answer::Stands(stands)))
}

fn alive(beats: &Beats, names: &Names) -> Answer {
    let beats_asked = &beats.asked;
    let run = names.runs.iter().position(|run| *run == beats.server);
    let beats = beats.of.iter().filter_map(|(id, beat)| {
        let text = match beat {
            Beat::Count(count) => count.clone(),
            Beat::Dead { at, cause } => {
                names.beat(&format!("dead {} {cause}", at.timestamp_millis()))
            }
        };
        Worker::of(id).map(|worker| (worker, text))
    });
    let asked = beats_asked.keys().map(|id| names.task(id)).collect();
    Answer::Alive { run, beats: beats.collect(), asked }
}

fn told<T>(result: Result<T, BrokerError>, answer: impl FnOnce(T) -> Answer) -> Told {
    match result {
        Ok(value) => done(answer(value)),
        Err(error) => failed(&error),
    }
}

/// What is seen of a delivery, with times and ids as they came.
struct Raw {
    stream: Stream,
    entry: String,
    task: String,
    attempt: u32,
    crashes: u32,
    parked: Option<String>,
    cancelled: bool,
}

impl Raw {
    fn of(delivery: &Delivery) -> Self {
        let contents = delivery.contents.as_ref().ok();
        let envelope = contents.map(|contents| &contents.envelope);
        let parked = contents.and_then(|contents| contents.parked);
        Self {
            stream: stream(delivery),
            entry: delivery.entry().to_owned(),
            task: envelope.map_or("unreadable".to_owned(), |envelope| envelope.id.to_string()),
            attempt: envelope.map_or(0, |envelope| envelope.attempt),
            crashes: envelope.map_or(0, |envelope| envelope.crashes),
            parked: parked.map(|at| at.timestamp_millis().to_string()),
            cancelled: delivery.cancelled_by.is_some(),
        }
    }

    fn told(all: Vec<Self>, names: &Names) -> Vec<Seen> {
        let seen = |raw: Self| Seen {
            stream: raw.stream,
            entry: entry(&raw.entry),
            task: names.task(&raw.task),
            attempt: raw.attempt,
            crashes: raw.crashes,
            parked: raw.parked.map(|at| names.time(&at, &[0])),
            cancelled: raw.cancelled,
        };
        all.into_iter().map(seen).collect()
    }
}
