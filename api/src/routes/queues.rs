//! `/v1/queues`: how every queue stands; pausing one and letting it go on.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tracing::info;
use umbel_broker::{Pause, QueueStatus};
use umbel_proto::QueueName;
use utoipa::ToSchema;

use super::{Shared, broker_problem};
use crate::{
    Claims,
    body::JsonBody,
    problem::{FieldError, Problem},
};

/// All queues that were ever used, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueList {
    queues: Vec<Queue>,
}

/// How a queue stands, in tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queue {
    #[schema(example = "default")]
    name: String,
    /// Ready, and in no worker's hands.
    queued: u64,
    /// In the hands of workers.
    running: u64,
    /// Wait for their time, retries included.
    delayed: u64,
    /// Wait for a worker that can run them.
    parked: u64,
    /// Failed for good.
    dead: u64,
    /// Who paused it; absent: it is not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
}

/// A pause of a queue.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueuePause)]
pub(crate) struct Paused {
    /// The subject of the token.
    #[schema(example = "ann")]
    by: String,
    #[schema(example = "the shop is closed until noon")]
    why: String,
    since: DateTime<Utc>,
}

/// Why a queue is to be paused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QueuePauseBody)]
pub(crate) struct PauseBody {
    /// For whoever finds it paused: 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, example = "the shop is closed until noon")]
    why: String,
}

/// The longest reason, in characters.
const WHY_LONGEST: usize = 200;

/// How the queues stand
#[utoipa::path(
    get,
    path = "/queues",
    tag = "queues",
    responses(
        (status = 200, body = QueueList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(State(shared): State<Shared>) -> Result<Json<QueueList>, Problem> {
    let queues = shared.client.queues().await.map_err(broker_problem)?;
    Ok(Json(QueueList { queues: queues.into_iter().map(Queue::from).collect() }))
}

/// How a queue stands
#[utoipa::path(
    get,
    path = "/queues/{queue}",
    tag = "queues",
    params(("queue" = String, Path, description = "The name of the queue")),
    responses(
        (status = 200, body = Queue),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Queue>, Problem> {
    let queue = known(&shared, &name).await?;
    status(&shared, &queue).await
}

/// Pause a queue
///
/// Its workers start no task of it any more, within a second or so. What runs goes on to its end;
/// tasks can be enqueued, become due, and wait. Of a queue that is paused the first word stands.
#[utoipa::path(
    post,
    path = "/queues/{queue}/pause",
    tag = "queues",
    params(("queue" = String, Path, description = "The name of the queue")),
    request_body = PauseBody,
    responses(
        (status = 200, description = "It is paused, by this request or an earlier one.", body = Queue),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn pause(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody<PauseBody>,
) -> Result<Json<Queue>, Problem> {
    let why = body.why.trim();
    if !(1..=WHY_LONGEST).contains(&why.chars().count()) || why.contains(char::is_control) {
        let reason = format!("1 to {WHY_LONGEST} characters on one line are expected");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
            .detail("the body is JSON, but not what is expected here")
            .error(FieldError::new("why", reason)));
    }
    let queue = known(&shared, &name).await?;
    let paused = shared.client.pause(&queue, &claims.sub, why, Utc::now()).await;
    if paused.map_err(broker_problem)? {
        info!(queue.name = %queue, by = ?claims.sub, ?why, "queue `{queue}` was paused");
    }
    status(&shared, &queue).await
}

/// Let a paused queue go on
#[utoipa::path(
    post,
    path = "/queues/{queue}/resume",
    tag = "queues",
    params(("queue" = String, Path, description = "The name of the queue")),
    responses(
        (status = 200, description = "It is not paused any more.", body = Queue),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn resume(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path(name): Path<String>,
) -> Result<Json<Queue>, Problem> {
    let queue = known(&shared, &name).await?;
    if shared.client.resume(&queue).await.map_err(broker_problem)? {
        info!(queue.name = %queue, by = ?claims.sub, "queue `{queue}` goes on");
    }
    status(&shared, &queue).await
}

async fn status(shared: &Shared, queue: &QueueName) -> Result<Json<Queue>, Problem> {
    let status = shared.client.queue_status(queue).await.map_err(broker_problem)?;
    Ok(Json(status.into()))
}

/// A queue that was used at least once: of others there is nothing to tell, and a slip of the pen
/// must not pause what does not exist.
pub(super) async fn known(shared: &Shared, name: &str) -> Result<QueueName, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND).detail("there is no such queue");
    let queue: QueueName = name.parse().map_err(|_| unknown())?;
    let names = shared.client.queue_names().await.map_err(broker_problem)?;
    if names.contains(&queue) { Ok(queue) } else { Err(unknown()) }
}

impl From<QueueStatus> for Queue {
    fn from(status: QueueStatus) -> Self {
        let QueueStatus { name, queued, running, delayed, parked, dead, paused } = status;
        let paused = paused.map(|Pause { by, why, since }| Paused { by, why, since });
        Self { name: name.into(), queued, running, delayed, parked, dead, paused }
    }
}
