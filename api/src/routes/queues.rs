//! `/v1/queues`: how every queue stands.

use axum::{Json, extract::State};
use serde::Serialize;
use umbel_broker::QueueStatus;
use utoipa::ToSchema;

use super::{Shared, broker_problem};
use crate::problem::Problem;

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
}

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

impl From<QueueStatus> for Queue {
    fn from(status: QueueStatus) -> Self {
        let QueueStatus { name, queued, running, delayed, parked, dead } = status;
        Self { name: name.into(), queued, running, delayed, parked, dead }
    }
}
