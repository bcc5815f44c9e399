//! `POST /v1/tasks/batch`: enqueue many tasks, with a verdict for each.

use std::num::NonZeroU16;

use axum::{Extension, Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use umbel_broker::NewTask;
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
/// Each is judged by itself: some may be refused and others not.
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
    let (mut good, mut verdicts): (Vec<NewTask>, Vec<Option<Verdict>>) = Default::default();
    for item in batch.tasks {
        match item.prepare(&shared, &claims) {
            Ok(new) => {
                good.push(new);
                verdicts.push(None);
            }
            Err(problem) => verdicts.push(Some(Verdict::from(problem))),
        }
    }
    let answers = shared.client.submit_many(&good).await.map_err(broker_problem)?;
    let mut answers = answers.into_iter().map(|answer| match answer {
        Ok(submitted) => Verdict::Accepted { id: submitted.id, existing: submitted.existing },
        Err(error) => Verdict::from(broker_problem(error)),
    });
    let verdicts: Vec<Verdict> =
        verdicts.into_iter().filter_map(|known| known.or_else(|| answers.next())).collect();
    let accepted =
        verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Accepted { .. })).count();
    Ok(Json(Verdicts { accepted, refused: verdicts.len() - accepted, verdicts }))
}

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

impl From<Problem> for Verdict {
    fn from(problem: Problem) -> Self {
        let (status, detail, errors) = problem.into_parts();
        Self::Refused { status: status.as_u16(), detail, errors }
    }
}
