//! `/v1/tasks`: what may be enqueued, and what became of a task.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tracing::error;
use umbel_broker::TaskRecord;
use umbel_proto::{Catalog, Priority, TaskId, TaskState, codec};
use utoipa::ToSchema;

use super::{Shared, broker_problem};
use crate::problem::Problem;

/// What is known of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Record {
    #[schema(value_type = String, example = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab")]
    id: TaskId,
    #[schema(example = "pages.scrape")]
    task: String,
    /// `scheduled`, `queued`, `running`, `retrying`, `succeeded`, `failed`, `cancelled`, `expired`
    /// or `parked`.
    #[schema(value_type = String, example = "succeeded")]
    state: TaskState,
    #[schema(example = "default")]
    queue: String,
    /// Which attempt it is at; the first is 1.
    attempt: u32,
    max_attempts: u32,
    enqueued: Option<DateTime<Utc>>,
    started: Option<DateTime<Utc>>,
    finished: Option<DateTime<Utc>>,
    worker: Option<String>,
    /// Why the last attempt failed.
    error: Option<String>,
    /// The output of a task that succeeded.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
}

/// The tasks that may be enqueued here, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskList {
    tasks: Vec<TaskType>,
}

/// A task that may be enqueued.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskType {
    #[schema(example = "pages.scrape")]
    name: String,
    #[schema(example = "default")]
    queue: String,
    #[schema(value_type = String, example = "normal")]
    priority: Priority,
    max_attempts: u32,
    /// How long one attempt may run, in seconds.
    time_limit_s: f64,
    /// How long state and result are kept after the end, in seconds.
    result_ttl_s: u64,
    /// The JSON Schema of the arguments.
    #[schema(value_type = Object)]
    args: Value,
    /// The JSON Schema of the result.
    #[schema(value_type = Object)]
    output: Value,
}

/// What became of a task
#[utoipa::path(
    get,
    path = "/tasks/{task}",
    tag = "tasks",
    params(("task" = String, Path, description = "The id of the task")),
    responses(
        (status = 200, body = Record),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Record>, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND).detail("nothing is known of such a task");
    let id: TaskId = id.parse().map_err(|_| unknown())?;
    let record = shared.client.task(&id).await.map_err(broker_problem)?.ok_or_else(unknown)?;
    Ok(Json(shown(record)?))
}

/// Which tasks may be enqueued
#[utoipa::path(
    get,
    path = "/tasks",
    tag = "tasks",
    responses(
        (status = 200, body = TaskList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(State(shared): State<Shared>) -> Response {
    Json(&*shared.shown).into_response()
}

/// The catalogue as it is shown.
pub(crate) fn catalogue(catalog: &Catalog) -> Value {
    let tasks = catalog.iter().filter(|entry| entry.options.over_http).map(|entry| TaskType {
        name: entry.name.to_string(),
        queue: entry.options.queue.to_owned(),
        priority: entry.options.priority,
        max_attempts: entry.options.max_attempts,
        time_limit_s: entry.options.time_limit.as_secs_f64(),
        result_ttl_s: entry.options.result_ttl.as_secs(),
        args: entry.args_schema.clone().to_value(),
        output: entry.output_schema.clone().to_value(),
    });
    json!(TaskList { tasks: tasks.collect() })
}

fn shown(record: TaskRecord) -> Result<Record, Problem> {
    let result = record.result.map(|bytes| codec::decode(&bytes)).transpose().map_err(|error| {
        error!(task.id = %record.id, %error, "the result of a task cannot be shown as JSON");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR).detail(format!(
            "the task is in state `{}`, but its result cannot be shown as JSON",
            record.state
        ))
    })?;
    Ok(Record {
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
        result,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::{problem::tests::json_of, router::tests::ask};

    #[tokio::test]
    async fn the_list_holds_what_may_be_enqueued_here_with_its_schemas() {
        let list = json_of(ask(Request::get("/v1/tasks"), "").await).await;
        assert_eq!(list["tasks"].as_array().unwrap().len(), 1);
        let visit = &list["tasks"][0];
        assert_eq!((&visit["name"], &visit["queue"]), (&json!("sites.visit"), &json!("visits")));
        assert_eq!(visit["args"]["required"], json!(["site"]));
        assert_eq!(visit["output"]["type"], "integer");
        assert_eq!((&visit["max_attempts"], &visit["time_limit_s"]), (&json!(5), &json!(600.0)));
    }

    #[test]
    fn a_result_is_shown_as_json_and_what_is_none_is_said() {
        let record = |result: &[u8]| TaskRecord {
            id: "visits-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap(),
            task: "sites.visit".parse().unwrap(),
            state: TaskState::Succeeded,
            queue: "visits".parse().unwrap(),
            attempt: 1,
            max_attempts: 5,
            enqueued: DateTime::from_timestamp_millis(1_500),
            started: None,
            finished: None,
            worker: None,
            error: None,
            result: Some(result.to_vec()),
        };
        let good = codec::encode(&json!({"found": [1, 2]})).unwrap();
        let json = json!(shown(record(&good)).unwrap());
        assert_eq!(json["result"], json!({"found": [1, 2]}));
        assert_eq!(json["enqueued"], "1970-01-01T00:00:01.500Z");
        assert_eq!((&json["state"], &json["finished"]), (&json!("succeeded"), &Value::Null));
        assert!(shown(record(b"\xc1")).is_err());
    }
}
