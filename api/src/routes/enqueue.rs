//! `POST /v1/tasks/{task}`: enqueue a task.

use std::{num::NonZeroU16, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Value, json};
use tracing::debug;
use umbel_broker::{CallOptions, NewTask, TaskHandle, WaitError, When};
use umbel_proto::{
    ArgsError, Catalog, CatalogEntry, NameError, Priority, QueueName, TaskId, TaskState, codec,
};
use utoipa::ToSchema;

use super::{
    Shared, broker_problem,
    record::Record,
    values::{FURTHEST, Key, Seconds, far, invalid},
};
use crate::{Claims, Scope, access::no_such_task, body::JsonBody, problem::Problem};

/// A task to enqueue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTaskBody {
    /// The arguments of the task. Default: none.
    #[serde(default = "no_args")]
    #[schema(value_type = Object)]
    pub args: Value,
    /// Start no earlier than this many seconds from now.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 31_622_400, example = 1.5)]
    pub delay_s: Option<Seconds>,
    /// Start no earlier than this; not together with `delay_s`.
    pub at: Option<DateTime<Utc>>,
    /// Do not start after so many seconds from now; it ends as `expired` then. Default: never too late.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 31_622_400, example = 3600)]
    pub expires_s: Option<Seconds>,
    /// Do not start after this; not together with `expires_s`.
    pub expires_at: Option<DateTime<Utc>>,
    /// A queue in which a task waits by itself that the token may enqueue. Default: the task's own.
    #[schema(example = "default")]
    pub queue: Option<String>,
    /// `high`, `normal` or `low`. Default: the task's own.
    #[schema(value_type = Option<String>, example = "normal")]
    pub priority: Option<Priority>,
    /// How often the task is tried in all. Default: the task's own.
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 65_535)]
    pub max_attempts: Option<NonZeroU16>,
}

/// A task that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    #[schema(value_type = String, example = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab")]
    id: TaskId,
    /// Where it stands; absent if the idempotency key stands for an earlier task of which nothing is
    /// kept any more, or that the token may not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "queued")]
    state: Option<TaskState>,
}

/// The longest wait for the end of a task: shorter than a request may take.
const WAIT_LONGEST: Duration = Duration::from_secs(25);

/// Enqueue a task
///
/// The arguments are read as those of the task before anything is enqueued. With an
/// Idempotency-Key the same request may be sent again within 24 hours and names the same task;
/// another one with it is refused, whatever queue it is for.
#[utoipa::path(
    post,
    path = "/tasks/{task}",
    tag = "tasks",
    params(
        ("task" = String, Path, description = "The name of the task, as in the list of tasks"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer with the ended task, if it ends within N seconds; at most 25. Passed over without `tasks:read`"),
    ),
    request_body = NewTaskBody,
    responses(
        (status = 200, description = "It has ended within the time that was to be waited.", body = Record,
            headers(("Location" = String, description = "Where to ask for it"))),
        (status = 202, description = "It is enqueued.", body = Accepted,
            headers(("Location" = String, description = "Where to ask for it"))),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn create(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path(name): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<NewTaskBody>,
) -> Result<Response, Problem> {
    let now = Utc::now();
    let key = Key::of(&headers)?.map(|key| key.of_subject(&claims.sub));
    // What has become of a task is for those who may read it.
    let reads = claims.allows(Scope::Read);
    let wait = wait(&headers).filter(|_| reads);
    let new = prepare(&shared.catalog, &claims, &name, body, key, now)?;
    let when = new.call.when;
    shared.client.claim_key(&new).await.map_err(broker_problem)?;
    let submitted = shared.client.submit(new).await.map_err(broker_problem)?;
    let location = [(header::LOCATION, format!("/v1/tasks/{}", submitted.id))];
    if let Some(wait) = wait
        && let Some(record) = ended_within(&shared, &submitted.id, wait).await
    {
        let applied = [("preference-applied", format!("wait={}", wait.as_secs()))];
        return Ok((StatusCode::OK, location, applied, Json(record)).into_response());
    }
    let state = if submitted.existing && !reads {
        None
    } else if submitted.existing {
        let record = shared.client.task(&submitted.id).await.map_err(broker_problem)?;
        record.map(|record| record.state)
    } else {
        Some(first_state(when, now))
    };
    Ok((StatusCode::ACCEPTED, location, Json(Accepted { id: submitted.id, state })).into_response())
}

/// The task of a request, checked in all its parts, before Redis is asked.
pub(crate) fn prepare(
    catalog: &Catalog,
    claims: &Claims,
    name: &str,
    body: NewTaskBody,
    key: Option<String>,
    now: DateTime<Utc>,
) -> Result<NewTask, Problem> {
    let entry = open(catalog, name)?;
    // In a batch the route cannot judge it.
    if !claims.allows_task(name) {
        return Err(no_such_task());
    }
    let when = moment(("delay_s", body.delay_s), ("at", body.at), now)?;
    let expires = moment(("expires_s", body.expires_s), ("expires_at", body.expires_at), now)?;
    let queue = queue(catalog, claims, body.queue)?;
    let mut new = NewTask::from_entry(entry, accept(entry, body.args)?).map_err(broker_problem)?;
    if let Some(queue) = queue {
        new.queue = queue;
    }
    new.call = CallOptions {
        when,
        expires,
        priority: body.priority,
        max_attempts: body.max_attempts.map(|most| most.get().into()),
        idempotency_key: key,
        owner: Some(claims.sub.clone()),
        tracked: true,
        ..CallOptions::default()
    };
    Ok(new)
}

/// A queue may be named that the token reaches anyway, in which a task waits by itself that it may enqueue.
/// Of queues that no task waits in nobody knows a worker, and those of others are not its to fill.
fn queue(
    catalog: &Catalog,
    claims: &Claims,
    name: Option<String>,
) -> Result<Option<QueueName>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let mut open = catalog.iter().filter(|entry| entry.options.over_http);
    if !open.any(|entry| entry.options.queue == name && claims.allows_task(entry.name.as_str())) {
        return Err(invalid("queue", "no task that may be enqueued here waits in such a queue"));
    }
    name.parse().map(Some).map_err(|error: NameError| invalid("queue", error.to_string()))
}

/// What the caller would rather wait for than ask again (`Prefer: wait=<seconds>`, RFC 7240), at most
/// as long as a request may take.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = values.flat_map(|value| value.split([',', ';'])).find_map(|preference| {
        preference.trim().strip_prefix("wait=")?.trim().parse::<u64>().ok()
    })?;
    Some(Duration::from_secs(seconds).min(WAIT_LONGEST))
}

/// The task as it has ended; `None` where it has not in time, keeps nothing, or cannot be shown: it is
/// accepted all the same.
async fn ended_within(shared: &Shared, id: &TaskId, wait: Duration) -> Option<Record> {
    match TaskHandle::<()>::new(shared.client.clone(), id.clone()).ended(wait).await {
        Ok(record) => Record::of(record).ok(),
        Err(WaitError::TimedOut(_)) => None,
        Err(error) => {
            debug!(%error, "could not wait for a task");
            None
        }
    }
}

pub(crate) fn first_state(when: Option<When>, now: DateTime<Utc>) -> TaskState {
    if waits(when, now) { TaskState::Scheduled } else { TaskState::Queued }
}

pub(crate) fn no_args() -> Value {
    json!({})
}

/// A task that is not for HTTP answers as one that does not exist.
fn open<'a>(catalog: &'a Catalog, name: &str) -> Result<&'a CatalogEntry, Problem> {
    catalog.get(name).filter(|entry| entry.options.over_http).ok_or_else(no_such_task)
}

fn accept(entry: &CatalogEntry, args: Value) -> Result<Vec<u8>, Problem> {
    let encoded = entry.accept(args).map_err(|error| match error {
        ArgsError::Field { field, reason } => invalid(args_field(&field), reason),
        ArgsError::TooLarge { .. } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE).detail(error.to_string())
        }
        ArgsError::Codec(error) => invalid("args", error.to_string()),
    })?;
    // What nests too deeply can be written and not be read: better said here than by a worker.
    match codec::decode::<IgnoredAny>(&encoded) {
        Ok(_) => Ok(encoded),
        Err(_) => Err(invalid("args", format!("nest deeper than {} levels", codec::MAX_DEPTH))),
    }
}

fn args_field(field: &str) -> String {
    match field {
        "" => "args".to_owned(),
        field if field.starts_with('[') => format!("args{field}"),
        field => format!("args.{field}"),
    }
}

/// A moment that is given by its distance or by itself.
fn moment(
    (distance, seconds): (&'static str, Option<Seconds>),
    (itself, at): (&'static str, Option<DateTime<Utc>>),
    now: DateTime<Utc>,
) -> Result<Option<When>, Problem> {
    match (seconds, at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid(itself, format!("not together with `{distance}`"))),
        (Some(Seconds(time)), None) => Ok(Some(When::In(time))),
        (None, Some(at)) if at - now > FURTHEST => Err(invalid(itself, far())),
        (None, Some(at)) => Ok(Some(When::At(at))),
    }
}

fn waits(when: Option<When>, now: DateTime<Utc>) -> bool {
    match when {
        None => false,
        Some(When::In(delay)) => !delay.is_zero(),
        Some(When::At(at)) => at > now,
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::Body,
        http::{HeaderValue, Request},
    };

    use super::*;
    use crate::{
        problem::tests::json_of,
        router::tests::{ask, catalog},
    };

    async fn post(body: impl Into<Body>) -> Response {
        let request = Request::post("/v1/tasks/sites.visit");
        ask(request.header(header::CONTENT_TYPE, "application/json"), body).await
    }

    async fn wrong_field(body: Value) -> String {
        let problem = json_of(post(body.to_string()).await).await;
        assert_eq!(problem["status"], 422, "{body}: {problem}");
        problem["errors"][0]["field"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_before_redis_is_asked() {
        let good = json!({"site": "a"});
        for (body, field) in [
            (json!({}), "args.site"),
            (json!({"args": {"site": 7}}), "args.site"),
            (json!({"args": {"site": "a", "links": [{"depth": -1}]}}), "args.links[0].depth"),
            (json!({"args": {"site": "a", "more": 1}}), "args.more"),
            (json!({"args": null}), "args"),
            (json!({"args": good, "delay_s": 1, "at": "2026-01-01T00:00:00Z"}), "at"),
            (json!({"args": good, "delay_s": -1}), "delay_s"),
            (json!({"args": good, "delay_s": 1e300}), "delay_s"),
            (json!({"args": good, "delay_s": "1"}), "delay_s"),
            (json!({"args": good, "delay_s": 400 * 24 * 3600}), "delay_s"),
            (json!({"args": good, "at": "tomorrow"}), "at"),
            (json!({"args": good, "at": "+262000-01-01T00:00:00Z"}), "at"),
            (json!({"args": good, "priority": "urgent"}), "priority"),
            (json!({"args": good, "max_attempts": 0}), "max_attempts"),
            (json!({"args": good, "max_attemps": 1}), "max_attemps"),
        ] {
            assert_eq!(wrong_field(body.clone()).await, field, "{body}");
        }
    }

    #[test]
    fn arguments_that_no_worker_could_read_are_refused() {
        let catalog = catalog();
        let entry = open(&catalog, "sites.visit").unwrap();
        let nested = |depth: usize| {
            let link = |next, _| json!({"depth": 1, "next": next});
            json!({"site": "a", "links": [(0..depth).fold(Value::Null, link)]})
        };
        // The map and the list around them are two levels.
        assert!(accept(entry, nested(codec::MAX_DEPTH - 4)).is_ok());
        assert!(accept(entry, nested(codec::MAX_DEPTH)).is_err());
    }

    #[tokio::test]
    async fn a_good_request_reaches_the_broker() {
        for body in [
            json!({"args": {"site": "a", "links": [{"depth": 1}]}}),
            json!({"args": {"site": "a"}, "delay_s": 1.5, "priority": "high", "max_attempts": 3}),
            json!({"args": {"site": "a"}, "at": "2026-01-01T00:00:00+02:00"}),
        ] {
            let response = post(body.to_string()).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{body}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_or_carried_has_its_own_status() {
        assert_eq!(json_of(post("{").await).await["status"], 400);
        let large = json!({"args": {"site": "x".repeat(codec::MAX_BYTES)}}).to_string();
        assert_eq!(json_of(post(large).await).await["status"], 413);
        assert_eq!(json_of(post(vec![b' '; 1024 * 1024 + 1]).await).await["status"], 413);
        let text = ask(Request::post("/v1/tasks/sites.visit"), "{}").await;
        assert_eq!(json_of(text).await["status"], 415);
    }

    #[tokio::test]
    async fn a_task_that_is_not_for_http_is_as_unknown_as_one_that_does_not_exist() {
        let mut answers = Vec::new();
        for name in ["sites.sweep", "sites.none", "UPPER", "a%0ab"] {
            let request = Request::post(format!("/v1/tasks/{name}"))
                .header(header::CONTENT_TYPE, "application/json");
            let mut problem = json_of(ask(request, "{}").await).await;
            problem
                .as_object_mut()
                .unwrap()
                .retain(|field, _| field == "status" || field == "detail");
            assert_eq!(problem["status"], 404, "{name}");
            answers.push(problem);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
    }

    #[test]
    fn a_wish_to_wait_is_read_from_the_preferences_and_bounded() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(value));
            wait(&headers).map(|wait| wait.as_secs())
        };
        for (value, seconds) in [
            ("wait=5", Some(5)),
            ("respond-async, wait=7", Some(7)),
            ("wait=3; x=1", Some(3)),
            ("wait=900", Some(25)),
            ("wait=soon", None),
            ("return=minimal", None),
        ] {
            assert_eq!(asked(value), seconds, "{value}");
        }
        assert_eq!(wait(&HeaderMap::new()), None);
    }

    #[test]
    fn a_start_that_has_passed_is_not_waited_for() {
        let now = Utc::now();
        assert!(!waits(None, now));
        assert!(!waits(Some(When::In(Duration::ZERO)), now));
        assert!(!waits(Some(When::At(now)), now));
        assert!(waits(Some(When::At(now + chrono::TimeDelta::milliseconds(1))), now));
    }

    #[test]
    fn only_what_is_for_http_is_open() {
        let catalog = catalog();
        assert!(open(&catalog, "sites.visit").is_ok());
        assert!(open(&catalog, "sites.sweep").is_err());
    }
}
