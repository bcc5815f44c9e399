//! `/v1/tasks`: what may be enqueued, and what became of a task.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use umbel_broker::Cancel;
use umbel_proto::{Catalog, Priority, TaskId, TaskState};
use utoipa::ToSchema;

use super::{
    Shared, broker_problem,
    record::{Record, is_known},
};
use crate::{Claims, Scope, problem::Problem};

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
    params(
        ("task" = String, Path, description = "The id of the task"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, body = Record, headers(("ETag" = String, description = "Changes with what is shown"))),
        (status = 304, description = "Nothing has changed."),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let record = of(&shared, &claims, &id).await?;
    let etag = record.etag()?;
    let tagged = [(header::ETAG, etag.clone())];
    if is_known(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, tagged).into_response());
    }
    Ok((tagged, Json(record)).into_response())
}

/// Cancel a task
///
/// A task that waits ends as cancelled and is never started. One that runs is asked to end within a
/// few seconds, and is ended ten seconds later; if it succeeds before, it has succeeded. Without
/// `tasks:read` the answer tells nothing of its runs.
#[utoipa::path(
    delete,
    path = "/tasks/{task}",
    tag = "tasks",
    params(("task" = String, Path, description = "The id of the task")),
    responses(
        (status = 200, description = "It was cancelled before.", body = Record),
        (status = 202, description = "Its end is asked for.", body = Record),
        (status = 409, description = "It had ended otherwise.", body = Problem,
            content_type = "application/problem+json"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn cancel(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let record = of(&shared, &claims, &id).await?;
    let met = shared.client.cancel(&record.id, &claims.sub).await.map_err(broker_problem)?;
    let status = match met.ok_or_else(unknown)? {
        Cancel::Ended(TaskState::Cancelled) => StatusCode::OK,
        Cancel::Ended(state) => {
            return Err(Problem::new(StatusCode::CONFLICT)
                .detail(format!("the task has ended: it is `{state}`")));
        }
        Cancel::Waiting | Cancel::Running => StatusCode::ACCEPTED,
    };
    let record = of(&shared, &claims, &id).await?;
    let shown = if claims.allows(Scope::Read) { record } else { record.outline() };
    Ok((status, Json(shown)).into_response())
}

/// The task of an id, where the caller may know of it: that of somebody else, or of the
/// system itself, is as unknown to all but an admin as one that does not exist.
pub(crate) async fn of(shared: &Shared, claims: &Claims, id: &str) -> Result<Record, Problem> {
    let id: TaskId = id.parse().map_err(|_| unknown())?;
    let record = shared.client.task(&id).await.map_err(broker_problem)?.ok_or_else(unknown)?;
    let is_own = record.owner.as_ref() == Some(&claims.sub);
    if !(claims.is_admin() || is_own && claims.allows_task(record.task.as_str())) {
        return Err(unknown());
    }
    Record::of(record)
}

fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND).detail("nothing is known of such a task")
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
}
