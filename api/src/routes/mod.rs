//! The API's own routes.

pub(crate) mod batch;
pub(crate) mod dead;
pub(crate) mod docs;
pub(crate) mod enqueue;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod queues;
pub(crate) mod record;
pub(crate) mod schedules;
pub(crate) mod tasks;
pub(crate) mod values;
pub(crate) mod workers;

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use umbel_broker::{BrokerError, Client};
use umbel_proto::Catalog;

use crate::{
    patience::Patience,
    problem::{FieldError, Problem},
    shares::Shares,
};

/// What the handlers under `/v1` share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub client: Client,
    pub catalog: Arc<Catalog>,
    /// The catalogue as it is shown; it never changes while the process runs.
    pub shown: Arc<Value>,
    /// Room for those who follow tasks.
    pub listeners: Arc<Semaphore>,
    /// How much of it each subject may have.
    pub following: Shares,
    /// For what waits for Redis more than once.
    pub patience: Arc<Patience>,
    /// The server stops: who follows a task comes again elsewhere.
    pub closing: CancellationToken,
}

/// How many may follow tasks at once, each with its look at Redis four times a second.
pub(crate) const LISTENERS_MOST: usize = 256;

/// Redis restarts and fails over in seconds; sooner is only load on it.
pub(crate) const RETRY_UNAVAILABLE: Duration = Duration::from_secs(5);

/// A full queue empties by work, which takes longer.
const RETRY_FULL: Duration = Duration::from_secs(10);

/// Tells the caller what to do about an error of the broker; what only we can do something about
/// goes to the log.
pub(crate) fn broker_problem(error: BrokerError) -> Problem {
    match error {
        BrokerError::QueueFull { queue } => Problem::new(StatusCode::TOO_MANY_REQUESTS)
            .detail(format!("queue `{queue}` is full"))
            .retry_after(RETRY_FULL),
        BrokerError::KeyConflict { .. } => Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
            .detail("the idempotency key was used for another task or body")
            .error(FieldError::new("Idempotency-Key", "used for another task or body")),
        BrokerError::Unredrivable { reason, .. } => Problem::new(StatusCode::CONFLICT)
            .detail(format!("the dead letter cannot be run again, and stays: {reason}")),
        error if error.is_transient() => {
            warn!(%error, "answered 503 for the broker");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE)
                .detail("the broker is not available")
                .retry_after(RETRY_UNAVAILABLE)
        }
        error => {
            error!(%error, "answered 500 for the broker");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
