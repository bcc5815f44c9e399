//! `/v1/schedules`: what is to happen when, and what has.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use umbel_broker::schedules::{FIRES_SHOWN, FiredSlot, ScheduleStatus};
use utoipa::ToSchema;

use super::{Shared, broker_problem};
use crate::problem::Problem;

/// All schedules, by name, each with its last fire.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScheduleList {
    schedules: Vec<Schedule>,
}

/// An entry of a timetable.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleStatus)]
pub(crate) struct Schedule {
    #[schema(example = "nightly")]
    name: String,
    #[schema(example = "cron 0 3 * * * (Europe/Berlin)")]
    schedule: String,
    /// The time zone in which it is read; absent: it is an interval, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Berlin")]
    zone: Option<String>,
    #[schema(example = "pages.prune")]
    task: String,
    #[schema(example = "default")]
    queue: String,
    /// Whether a beat has it. Where none has, it was taken out of the timetable, or no beat runs; a
    /// week later it is not shown any more.
    live: bool,
    /// When it is due next; absent where no beat has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<DateTime<Utc>>,
    /// What it has fired, the last first: one in a list, else at most 100.
    fires: Vec<Fire>,
}

/// What became of a slot.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FiredSlot)]
pub(crate) struct Fire {
    slot: DateTime<Utc>,
    /// `fired`, or `missed`.
    #[schema(example = "fired")]
    outcome: String,
    /// The task; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    /// How much later than its slot it was enqueued, in seconds.
    late_s: f64,
}

/// What is to happen when
#[utoipa::path(
    get,
    path = "/schedules",
    tag = "schedules",
    responses(
        (status = 200, body = ScheduleList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(State(shared): State<Shared>) -> Result<Json<ScheduleList>, Problem> {
    let all = shared.client.schedules(Utc::now()).await.map_err(broker_problem)?;
    Ok(Json(ScheduleList { schedules: all.into_iter().map(Schedule::from).collect() }))
}

/// How a schedule stands
#[utoipa::path(
    get,
    path = "/schedules/{schedule}",
    tag = "schedules",
    params(("schedule" = String, Path, description = "The name of the entry")),
    responses(
        (status = 200, body = Schedule),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Schedule>, Problem> {
    let found = shared.client.schedule(&name, FIRES_SHOWN, Utc::now()).await;
    let found = found.map_err(broker_problem)?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND).detail("there is no such schedule");
    Ok(Json(found.ok_or_else(unknown)?.into()))
}

impl From<ScheduleStatus> for Schedule {
    fn from(status: ScheduleStatus) -> Self {
        let ScheduleStatus { entry, live, next, fires } = status;
        Self {
            name: entry.name,
            schedule: entry.schedule,
            zone: entry.zone,
            task: entry.task.into(),
            queue: entry.queue.into(),
            live,
            next,
            fires: fires.into_iter().map(Fire::from).collect(),
        }
    }
}

impl From<FiredSlot> for Fire {
    fn from(fired: FiredSlot) -> Self {
        let FiredSlot { slot, task, late, outcome } = fired;
        Self { slot, outcome, task, late_s: late.as_seconds_f64() }
    }
}
