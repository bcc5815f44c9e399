//! A task as it is shown.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tracing::error;
use umbel_broker::TaskRecord;
use umbel_proto::{TaskId, TaskState, codec};
use utoipa::ToSchema;

use super::values::sha256;
use crate::problem::Problem;

/// 96 bits: no two answers have the same by chance.
const FINGERPRINT_DIGITS: usize = 24;

/// What is known of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Record {
    #[schema(value_type = String, example = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab")]
    pub id: TaskId,
    #[schema(example = "pages.scrape")]
    task: String,
    /// `scheduled`, `queued`, `running`, `retrying`, `succeeded`, `failed`, `cancelled`, `expired`
    /// or `parked`.
    #[schema(value_type = String, example = "succeeded")]
    pub state: TaskState,
    #[schema(example = "default")]
    queue: String,
    /// Which attempt it is at; the first is 1.
    pub attempt: u32,
    max_attempts: u32,
    enqueued: Option<DateTime<Utc>>,
    started: Option<DateTime<Utc>>,
    finished: Option<DateTime<Utc>>,
    worker: Option<String>,
    /// Why the last attempt failed, or who ended the task.
    pub error: Option<String>,
    /// Its runs, the first one first; of those that failed and were tried again the last twenty.
    attempts: Vec<Attempt>,
    /// How far its run is, as the task itself tells it.
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Value>,
    /// Who wants it ended.
    cancelled_by: Option<String>,
    /// The output of a task that succeeded.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
}

/// One run of a task.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Attempt {
    attempt: u32,
    started: Option<DateTime<Utc>>,
    finished: Option<DateTime<Utc>>,
    worker: Option<String>,
    /// Why it failed.
    error: Option<String>,
}

impl Record {
    pub fn of(record: TaskRecord) -> Result<Self, Problem> {
        let attempts = attempts(&record);
        let result =
            record.result.map(|bytes| codec::decode(&bytes)).transpose().map_err(|error| {
                error!(task.id = %record.id, %error, "the result of a task cannot be shown as JSON");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR).detail(format!(
                    "the task is in state `{}`, but its result cannot be shown as JSON",
                    record.state
                ))
            })?;
        Ok(Self {
            id: record.id,
            task: record.task.into(),
            state: record.state,
            queue: record.queue.into(),
            attempt: record.attempt,
            max_attempts: record.max_attempts,
            enqueued: record.enqueued,
            started: record.started,
            finished: record.finished,
            worker: record.worker,
            error: record.error,
            attempts,
            progress: record.progress,
            cancelled_by: record.cancelled_by,
            result,
        })
    }

    /// What a token is shown that may not read tasks: which one it is, and where it stands.
    pub fn outline(self) -> Self {
        let (worker, error, attempts) = (None, None, Vec::new());
        Self { worker, error, attempts, progress: None, result: None, ..self }
    }

    /// Changes with whatever is shown.
    pub fn etag(&self) -> Result<HeaderValue, Problem> {
        let unshown = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR);
        let json = serde_json::to_vec(self).map_err(unshown)?;
        HeaderValue::from_str(&format!("\"{}\"", fingerprint(&json)))
            .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

/// Short, and different wherever the bytes are.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    let mut hash = sha256(bytes);
    hash.truncate(FINGERPRINT_DIGITS);
    hash
}

/// Whether the caller has what it would be sent (`If-None-Match`).
pub(crate) fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    known.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|known| {
        let known = known.trim();
        known == "*" || Some(known.trim_start_matches("W/")) == etag.to_str().ok()
    })
}

/// The runs that failed and were tried again, and the one that its record tells of.
fn attempts(record: &TaskRecord) -> Vec<Attempt> {
    let past = record.past.iter().map(|run| Attempt {
        attempt: run.attempt,
        started: run.started,
        finished: run.finished,
        worker: Some(run.worker.clone()),
        error: Some(run.error.clone()),
    });
    let mut attempts: Vec<Attempt> = past.collect();
    let has_run = matches!(
        record.state,
        TaskState::Running | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled
    );
    let is_told = record.past.iter().any(|run| run.attempt == record.attempt);
    if has_run && !is_told && record.started.is_some() {
        attempts.push(Attempt {
            attempt: record.attempt,
            started: record.started,
            finished: record.finished,
            worker: record.worker.clone(),
            error: record.error.clone().filter(|_| record.state == TaskState::Failed),
        });
    }
    attempts
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;
    use umbel_broker::PastRun;

    use super::*;

    pub(crate) fn record(state: TaskState) -> TaskRecord {
        TaskRecord {
            id: "visits-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap(),
            task: "sites.visit".parse().unwrap(),
            state,
            queue: "visits".parse().unwrap(),
            attempt: 2,
            max_attempts: 5,
            enqueued: DateTime::from_timestamp_millis(1_500),
            started: DateTime::from_timestamp_millis(3_000),
            finished: None,
            worker: Some("w2".to_owned()),
            error: None,
            past: vec![PastRun {
                attempt: 1,
                started: DateTime::from_timestamp_millis(2_000),
                finished: DateTime::from_timestamp_millis(2_500),
                worker: "w1".to_owned(),
                error: "no luck".to_owned(),
            }],
            progress: Some(json!({"done": 3})),
            cancelled_by: None,
            owner: None,
            result: None,
        }
    }

    #[test]
    fn a_result_is_shown_as_json_and_what_is_none_is_said() {
        let with = |result: &[u8]| TaskRecord {
            result: Some(result.to_vec()),
            ..record(TaskState::Succeeded)
        };
        let good = codec::encode(&json!({"found": [1, 2]})).unwrap();
        let json = json!(Record::of(with(&good)).unwrap());
        assert_eq!(json["result"], json!({"found": [1, 2]}));
        assert_eq!(json["enqueued"], "1970-01-01T00:00:01.500Z");
        assert_eq!((&json["state"], &json["finished"]), (&json!("succeeded"), &Value::Null));
        assert!(Record::of(with(b"\xc1")).is_err());
    }

    #[test]
    fn every_run_is_shown_once() {
        let runs = |state| {
            let shown = Record::of(record(state)).unwrap();
            shown.attempts.iter().map(|run| run.attempt).collect::<Vec<_>>()
        };
        assert_eq!(runs(TaskState::Running), [1, 2]);
        // The second attempt has not begun.
        assert_eq!(runs(TaskState::Queued), [1]);
        let again = TaskRecord { attempt: 1, ..record(TaskState::Retrying) };
        assert_eq!(attempts(&again).len(), 1);
    }

    #[test]
    fn an_etag_changes_with_what_is_shown() {
        let one = Record::of(record(TaskState::Running)).unwrap().etag().unwrap();
        let same = Record::of(record(TaskState::Running)).unwrap().etag().unwrap();
        let other = Record::of(record(TaskState::Retrying)).unwrap().etag().unwrap();
        assert_eq!(one, same);
        assert_ne!(one, other);
        let asks = |known: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            is_known(&headers, &one)
        };
        let tag = one.to_str().unwrap();
        assert!(
            asks(tag) && asks(&format!("W/{tag}")) && asks(&format!("\"x\", {tag}")) && asks("*")
        );
        assert!(!asks("\"x\""));
    }
}
