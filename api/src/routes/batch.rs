//! `POST /v1/tasks/batch`: enqueue many tasks, with a verdict for each.

use std::num::NonZeroU16;

use axum::{Extension, Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use umbel_broker::{BrokerError, NewTask, Submitted};
use umbel_proto::{Priority, TaskId};
use utoipa::ToSchema;

use super::{
    Shared, broker_problem,
    enqueue::{NewTaskBody, no_args, prepare},
    values::{Key, Seconds},
};
use crate::{
    Claims,
    body::JsonBody,
    problem::{FieldError, Problem},
};

/// How many tasks one request may carry; more are a second request.
const TASKS_MOST: usize = 1_000;

/// Tasks to enqueue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    /// At most 1,000.
    #[schema(max_items = 1_000)]
    tasks: Vec<Item>,
}

/// One of them: the name of its task, and what enqueueing it alone takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    #[schema(example = "pages.scrape")]
    task: String,
    /// 1 to 255 visible ASCII characters; the same key names the same task for 24 hours.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<Key>,
    /// The arguments of the task. Default: none.
    #[serde(default = "no_args")]
    #[schema(value_type = Value)]
    args: Value,
    /// This and what follows: as for one task.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 31_622_400)]
    delay_s: Option<Seconds>,
    at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 31_622_400)]
    expires_s: Option<Seconds>,
    expires_at: Option<DateTime<Utc>>,
    queue: Option<String>,
    #[schema(value_type = Option<String>, example = "normal")]
    priority: Option<Priority>,
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65_535)]
    max_attempts: Option<NonZeroU16>,
}

/// A verdict for each task, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verdicts {
    accepted: usize,
    refused: usize,
    verdicts: Vec<Verdict>,
}

/// What became of one of them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Verdict {
    Accepted {
        #[schema(value_type = String, example = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab")]
        id: TaskId,
        /// The idempotency key was known: this is the task that it stands for.
        existing: bool,
    },
    Refused {
        /// The status that it would have been refused with alone.
        #[schema(example = 422)]
        status: u16,
        detail: Option<String>,
        errors: Vec<FieldError>,
    },
}

/// Enqueue many tasks
///
/// Each is judged by itself: some may be refused and others not. Where the broker goes away half way, those
/// that were accepted are told, and of the others it is not known (503): they can be sent again with
/// their idempotency keys.
#[utoipa::path(
    post,
    path = "/tasks/batch",
    tag = "tasks",
    request_body = Batch,
    responses(
        (status = 200, description = "Each has its verdict.", body = Verdicts),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn create(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    JsonBody(batch): JsonBody<Batch>,
) -> Result<Json<Verdicts>, Problem> {
    if batch.tasks.len() > TASKS_MOST {
        let rule = format!("{} tasks; at most {TASKS_MOST} at once", batch.tasks.len());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
            .detail("the batch is too large")
            .error(FieldError::new("tasks", rule)));
    }
    let asked = batch.tasks.into_iter().map(|item| item.prepare(&shared, &claims)).collect();
    let asked = claim(&shared, asked).await?;
    let (mut good, mut refused): (Vec<NewTask>, Vec<Option<Verdict>>) = Default::default();
    for task in asked {
        match task {
            Ok(new) => {
                good.push(new);
                refused.push(None);
            }
            Err(problem) => refused.push(Some(problem.into())),
        }
    }
    let mut answers = submit(&shared, &good).await?.into_iter();
    let verdicts: Vec<Verdict> =
        refused.into_iter().filter_map(|known| known.or_else(|| answers.next())).collect();
    let accepted = verdicts.iter().filter(|verdict| verdict.is_acceptance()).count();
    Ok(Json(Verdicts { accepted, refused: verdicts.len() - accepted, verdicts }))
}

/// A task that is good so far, or why it is refused.
type Asked = Result<NewTask, Problem>;

/// Claims their idempotency keys; nothing is enqueued yet, so trouble with the broker is that of all.
async fn claim(shared: &Shared, asked: Vec<Asked>) -> Result<Vec<Asked>, Problem> {
    let claims = join_all(asked.into_iter().map(async |task| {
        let new = match task {
            Ok(new) => new,
            Err(problem) => return Ok(Err(problem)),
        };
        match shared.client.claim_key(&new).await {
            Ok(()) => Ok(Ok(new)),
            Err(error @ BrokerError::KeyConflict { .. }) => Ok(Err(broker_problem(error))),
            Err(error) => Err(error),
        }
    }));
    let claims = shared.patience.wait(claims).await?;
    claims.into_iter().collect::<Result<_, _>>().map_err(broker_problem)
}

/// A verdict for each. Trouble with the broker is that of all, unless some were accepted before.
async fn submit(shared: &Shared, good: &[NewTask]) -> Result<Vec<Verdict>, Problem> {
    let mut verdicts = Vec::with_capacity(good.len());
    while verdicts.len() < good.len() {
        let call = shared.client.submit_next(&good[verdicts.len()..]);
        let answers = shared.patience.wait(call).await;
        match answers.and_then(|answers| answers.map_err(broker_problem)) {
            Ok(answers) => verdicts.extend(answers.into_iter().map(Verdict::of)),
            Err(problem) if !verdicts.iter().any(Verdict::is_acceptance) => return Err(problem),
            Err(problem) => {
                let problem = problem.detail(UNKNOWN);
                verdicts.resize_with(good.len(), || problem.clone().into());
            }
        }
    }
    Ok(verdicts)
}

/// Said of tasks from the call on that failed.
const UNKNOWN: &str = "the broker went away; the task may have been enqueued all the same: repeat it \
                       with the same idempotency key";

impl Item {
    fn prepare(self, shared: &Shared, claims: &Claims) -> Result<NewTask, Problem> {
        let Self { task, idempotency_key: key, args, delay_s, at, expires_s, expires_at, .. } =
            self;
        let (queue, priority, max_attempts) = (self.queue, self.priority, self.max_attempts);
        let key = key.map(|key| key.of_subject(&claims.sub));
        let body =
            NewTaskBody { args, delay_s, at, expires_s, expires_at, queue, priority, max_attempts };
        prepare(&shared.catalog, claims, &task, body, key, Utc::now())
    }
}

impl Verdict {
    fn of(answer: Result<Submitted, BrokerError>) -> Self {
        match answer {
            Ok(Submitted { id, existing }) => Self::Accepted { id, existing },
            Err(error) => broker_problem(error).into(),
        }
    }

    fn is_acceptance(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

impl From<Problem> for Verdict {
    fn from(problem: Problem) -> Self {
        let (status, detail, errors) = problem.into_parts();
        Self::Refused { status: status.as_u16(), detail, errors }
    }
}
