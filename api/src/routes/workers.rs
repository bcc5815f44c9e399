//! `/v1/workers`: who works, and at what.

use axum::{Json, extract::State};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use umbel_broker::roster::{RunningTask, WorkerStatus};
use utoipa::ToSchema;

use super::{Shared, broker_problem};
use crate::problem::Problem;

/// A worker that told nothing for so long is silent: five heartbeats, the default lease.
const SILENT_AFTER: TimeDelta = TimeDelta::seconds(15);

/// The workers that nobody has declared dead, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerList {
    workers: Vec<Worker>,
}

/// A worker, as it told of itself with its last heartbeat.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerStatus)]
pub(crate) struct Worker {
    #[schema(example = "web-1-0123456789abcdef-1")]
    id: String,
    host: String,
    pid: u32,
    since: Option<DateTime<Utc>>,
    version: String,
    queues: Vec<String>,
    /// How many tasks it runs at once.
    concurrency: usize,
    /// Its last heartbeat, by its own clock.
    beat: Option<DateTime<Utc>>,
    /// It told nothing for 15 s, and nobody has declared it dead yet.
    silent: bool,
    /// How many tasks it ran then.
    running_count: usize,
    /// Those that had run the longest, at most 64.
    running: Vec<Running>,
}

/// A task in a worker's hands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunningTask)]
pub(crate) struct Running {
    #[schema(example = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab")]
    id: String,
    #[schema(example = "pages.scrape")]
    task: String,
    attempt: u32,
    since: DateTime<Utc>,
}

/// Who works, and at what
#[utoipa::path(
    get,
    path = "/workers",
    tag = "workers",
    responses(
        (status = 200, body = WorkerList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(State(shared): State<Shared>) -> Result<Json<WorkerList>, Problem> {
    let workers = shared.client.living_workers().await.map_err(broker_problem)?;
    let now = Utc::now();
    Ok(Json(WorkerList { workers: workers.into_iter().map(|one| shown(one, now)).collect() }))
}

fn shown(status: WorkerStatus, now: DateTime<Utc>) -> Worker {
    let WorkerStatus { id, info } = status;
    let running = info.running.into_iter().map(|task| {
        let RunningTask { id, task, attempt, since } = task;
        Running { id, task, attempt, since }
    });
    Worker {
        id,
        host: info.host,
        pid: info.pid,
        since: info.started,
        version: info.version,
        queues: info.queues,
        concurrency: info.concurrency,
        // One of an older release does not say when; that it is no dead one is all that is known.
        silent: info.beat.is_some_and(|beat| now - beat > SILENT_AFTER),
        beat: info.beat,
        running_count: info.running_count,
        running: running.collect(),
    }
}

#[cfg(test)]
mod tests {
    use umbel_broker::roster::WorkerInfo;

    use super::*;

    #[test]
    fn a_worker_is_silent_once_it_told_nothing_for_a_lease() {
        let now = DateTime::from_timestamp_millis(1_790_000_000_000).unwrap();
        let of = |beat: Option<i64>| {
            let beat = beat.map(|ago| now - TimeDelta::seconds(ago));
            let info = WorkerInfo { beat, ..WorkerInfo::default() };
            shown(WorkerStatus { id: "w".to_owned(), info }, now).silent
        };
        // Its clock may be a little ahead of ours.
        assert_eq!(
            [Some(-2), Some(3), Some(15), Some(16), None].map(of),
            [false, false, false, true, false]
        );
    }
}
