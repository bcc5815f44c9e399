//! One task's life in a worker: open, resolve, run under guard, decide, tell, settle.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info, info_span, warn};
use umbel_broker::{Client, Contents, Delivery, Settlement, Terms, Verdict, Why};
use umbel_proto::{Body, Envelope, Outcome, TaskOptions, TaskState, envelope, trace};

use crate::{
    End, Endpoints, Run,
    cancels::{Cancellable, Cancels},
    context::Told,
    hang::Longest,
    meters::{self, Metered, Meters},
    registry::Bounded,
    running::{Begun, RunningTasks},
    verdict::{History, decide},
};

/// How long `Handler::ended` may take before the verdict is settled without it.
const ENDED_LIMIT: Duration = Duration::from_secs(30);

/// How long a run may take to come to its end by itself once somebody has cancelled its task.
const CANCELLED_LIMIT: Duration = Duration::from_secs(10);

/// When a task is given up that never had its chance to fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// This many deaths of workers that count against a task bury it.
    pub crashes: u32,
    /// How long a task waits for a worker that knows it.
    pub parked: Duration,
}

/// What every execution of a worker shares.
#[derive(Debug)]
pub(crate) struct Executor {
    pub client: Client,
    pub endpoints: Endpoints,
    pub limits: Limits,
    /// The longest time limit that was in use here.
    pub longest: Longest,
    pub worker: Arc<str>,
    pub cancels: Cancels,
    pub meters: Meters,
    /// What runs, for whoever looks.
    pub tasks: RunningTasks,
    /// Asks running tasks to come to an end.
    pub cancelled: CancellationToken,
    /// Ends running tasks: what has not ended by now is given back.
    pub aborted: CancellationToken,
}

impl Executor {
    /// Whether it was there in so many deaths that the next one must be its own or nobody's.
    pub fn must_run_alone(&self, delivery: &Delivery) -> bool {
        let crashes = delivery.contents.as_ref().map_or(0, |contents| contents.envelope.crashes);
        crashes > 0 && crashes + 1 >= self.limits.crashes
    }

    /// Runs a delivery to its verdict. `jitter` is drawn from `0.0 ..= 1.0`.
    pub async fn execute(&self, delivery: Delivery, jitter: f64) -> Settlement {
        let contents = match &delivery.contents {
            Ok(contents) => contents.clone(),
            Err(error) => {
                self.meters.unreadable();
                let outcome = Outcome::Unreadable { error: chain(error) };
                error!(
                    entry = delivery.entry(),
                    "an entry is no envelope; it goes to the dead letters"
                );
                return self.settlement(delivery, outcome, &TaskOptions::DEFAULT, None, jitter);
            }
        };
        let Contents { envelope, body, .. } = contents;
        let span = info_span!(
            "task",
            task.id = %envelope.id,
            task.name = %envelope.task,
            task.attempt = envelope.attempt,
            worker = &*self.worker,
        );
        let traced = traced(&delivery, &envelope, &body);
        async {
            let bounded = self.endpoints.get(&envelope.task);
            let options = bounded.map_or(TaskOptions::DEFAULT, |bounded| bounded.options);
            let cancellable = self.cancels.begin(&envelope.id);
            let run = Run {
                id: envelope.id,
                task: envelope.task,
                attempt: envelope.attempt,
                max_attempts: body.max_attempts(&options),
                enqueued: envelope.enqueued,
                owner: body.owner.as_deref().map(Arc::from),
                client: self.client.clone(),
                worker: self.worker.clone(),
                wanted: cancellable.wanted(),
                told: Told::default(),
            };
            let started = Utc::now();
            let queued = meters::queued_since(&delivery).unwrap_or(started.into());
            let wait = SystemTime::from(started).duration_since(queued).unwrap_or_default();
            let metered =
                self.meters.begin(&run.task, delivery.shard().queue(), bounded.is_some(), wait);
            let _told_of = self.tasks.enter(Begun {
                id: run.id.clone(),
                task: run.task.clone(),
                attempt: run.attempt,
                since: started,
            });
            // Whether or not it could be run here: nobody wants it any more.
            let unwanted = match delivery.cancelled_by.clone().or_else(|| cancellable.by()) {
                Some(by) => Some(Outcome::Cancelled { by }),
                None => body.has_expired(started).then_some(Outcome::Expired),
            };
            let mut ran = None;
            let outcome = match (unwanted, bounded) {
                (Some(unwanted), _) => unwanted,
                _ if envelope.version > envelope::VERSION => Outcome::Unknown {
                    what: format!(
                        "envelope version {} is newer than this worker",
                        envelope.version
                    ),
                },
                (None, None) => Outcome::Unknown { what: format!("no handler for `{}`", run.task) },
                // Judged before body and arguments are touched: they may be what kills.
                (None, Some(_)) if envelope.crashes >= self.limits.crashes => {
                    Outcome::CrashLimit { crashes: envelope.crashes }
                }
                (None, Some(bounded)) => {
                    ran = Some(started);
                    let limit = body.time_limit(&options);
                    let (args, began) = (&body.args, Instant::now());
                    let run = run.clone();
                    let outcome =
                        self.guarded(bounded, args, run, limit, &cancellable, &metered).await;
                    metered.ran(began.elapsed(), &outcome);
                    outcome
                }
            };
            if let Some(kind) = meters::kind(&outcome) {
                trace::failed(kind);
            }
            let settlement = self.settlement(delivery, outcome, &options, ran, jitter);
            metered.ended(&settlement.verdict);
            report(&settlement.verdict, &run);
            // Once: should telling be what kills, the next death ends it without.
            let may_tell = envelope.crashes <= self.limits.crashes;
            if let (true, Some(bounded), Some(end)) =
                (may_tell, bounded, end_of(&settlement.verdict))
            {
                tell(bounded, &body.args, &end, run).await;
            }
            settlement
        }
        .instrument(span)
        .instrument(traced)
        .await
    }

    /// The handler under its time limit, with panics caught, the drain and a cancel heeded.
    async fn guarded(
        &self,
        bounded: &Bounded,
        args: &[u8],
        run: Run,
        limit: Duration,
        cancellable: &Cancellable,
        metered: &Metered,
    ) -> Outcome {
        self.longest.note(limit);
        // The guard is outside of all: what is dropped at the limit may panic as well.
        let limited = async {
            let run = timeout(limit, metered.handler(bounded.handler.run(args, run)));
            let cancelled = async {
                cancellable.asked().await;
                sleep(CANCELLED_LIMIT).await;
            };
            tokio::select! {
                biased;
                ended = self.aborted.run_until_cancelled(run) => match ended {
                    Some(Ok(outcome)) => outcome,
                    Some(Err(_)) => Outcome::TimedOut { limit },
                    None => Outcome::Drained,
                },
                () = cancelled => Outcome::Drained,
            }
        };
        let outcome = AssertUnwindSafe(limited)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Outcome::Panicked { message: panic_message(&*panic) });
        match (outcome, cancellable.by()) {
            // It was done before it heard of it, or did not mind.
            (outcome @ Outcome::Succeeded { .. }, _) | (outcome, None) => outcome,
            (_, Some(by)) => Outcome::Cancelled { by },
        }
    }

    fn settlement(
        &self,
        delivery: Delivery,
        outcome: Outcome,
        options: &TaskOptions,
        ran: Option<DateTime<Utc>>,
        jitter: f64,
    ) -> Settlement {
        // By the clocks of two workers; a few seconds matter little in a day.
        let parked = delivery.contents.as_ref().ok().and_then(|contents| contents.parked);
        let parked_for = parked.and_then(|since| (Utc::now() - since).to_std().ok());
        let (terms, history) = match &delivery.contents {
            Ok(Contents { envelope, body, .. }) => (
                Terms {
                    // Where the task is not known here, only its stream tells its priority.
                    priority: body.priority.or(delivery.priority()).unwrap_or(options.priority),
                    max_attempts: body.max_attempts(options),
                    result_ttl: body.result_ttl(options),
                    started: ran,
                },
                History {
                    attempt: envelope.attempt,
                    max_attempts: body.max_attempts(options),
                    park_left: self.limits.parked.saturating_sub(parked_for.unwrap_or_default()),
                },
            ),
            Err(_) => {
                let history = History { attempt: 1, max_attempts: 1, park_left: Duration::ZERO };
                (Terms::not_run(options), history)
            }
        };
        let verdict = decide(outcome, history, &options.retry, jitter);
        Settlement { delivery, verdict, terms }
    }
}

/// The run as its trace has it; nothing where no trace is written.
fn traced(delivery: &Delivery, envelope: &Envelope, body: &Body) -> Span {
    let queue = delivery.shard().queue().as_str();
    let span = info_span!(
        target: trace::TARGET,
        "run",
        otel.name = %format_args!("process {}", envelope.task),
        otel.kind = "consumer",
        messaging.system = "umbel",
        messaging.operation.r#type = "process",
        messaging.destination.name = queue,
        messaging.message.id = %envelope.id,
        task.name = %envelope.task,
        task.attempt = envelope.attempt,
    );
    if let Some(traces) = trace::traces() {
        let started = SystemTime::now();
        traces.run(
            &span,
            &trace::Run {
                parent: body.trace.as_deref(),
                id: &envelope.id,
                task: &envelope.task,
                attempt: envelope.attempt,
                queued: meters::queued_since(delivery).unwrap_or(started),
                started,
            },
        );
    }
    span
}

/// Which ends an application is told of.
fn end_of(verdict: &Verdict) -> Option<End> {
    match verdict {
        Verdict::Bury { why: Why::Unknown | Why::Unreadable, .. } => None,
        Verdict::Bury { why, error } => {
            Some(End::Failed { why: why.as_str(), error: error.clone() })
        }
        Verdict::Discard { state: TaskState::Expired, .. } => Some(End::Expired),
        Verdict::Discard { by, .. } => Some(End::Cancelled { by: by.clone() }),
        Verdict::Complete { .. }
        | Verdict::Retry { .. }
        | Verdict::Defer { .. }
        | Verdict::Park { .. }
        | Verdict::Release => None,
    }
}

async fn tell(bounded: &Bounded, args: &[u8], end: &End, run: Run) {
    let limited = async { timeout(ENDED_LIMIT, bounded.handler.ended(args, end, run)).await };
    match AssertUnwindSafe(limited).catch_unwind().await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => error!(error, "`ended` failed; the end stands"),
        Ok(Err(_)) => error!("`ended` took longer than {ENDED_LIMIT:?}; the end stands"),
        Err(panic) => {
            error!(error = panic_message(&*panic), "`ended` panicked; the end stands");
        }
    }
}

fn report(verdict: &Verdict, run: &Run) {
    let Run { task, attempt, max_attempts, .. } = run;
    match verdict {
        Verdict::Complete { .. } => info!("`{task}` succeeded"),
        Verdict::Retry { delay, error } => {
            if let Some(traces) = trace::traces() {
                traces.retry(&run.id, *attempt, *delay);
            }
            warn!(
                error,
                "`{task}` failed in attempt {attempt} of {max_attempts}; next try in {delay:?}"
            );
        }
        Verdict::Defer { delay, reason } => info!(reason, "`{task}` waits {delay:?}"),
        Verdict::Park { left, reason } => {
            warn!(reason, "`{task}` is parked for at most {left:?}, until a worker can run it");
        }
        Verdict::Bury { why, error } => {
            error!(error, why = why.as_str(), "`{task}` failed for good; it is a dead letter");
        }
        Verdict::Discard { state, by } => info!(by, "`{task}` {state}"),
        Verdict::Release => info!("`{task}` is given back"),
    }
}

fn chain(error: &(dyn std::error::Error + Send + Sync)) -> String {
    crate::handler::Chain(error).to_string()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
