//! `/v1/dead`: what failed for good; running it again, and deleting it.

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;
use umbel_broker::{
    Why,
    dead::{DeadLetter, LetterFilter, LetterId, OpenedLetter, PAGE_LONGEST, Swept},
};
use umbel_proto::{QueueName, TaskId, TaskName, codec};
use utoipa::{IntoParams, ToSchema};

use super::{Shared, broker_problem, queues::known};
use crate::{Claims, body::JsonBody, problem::Problem};

/// How many letters a page has unless it is asked for otherwise.
const PAGE: usize = 50;

/// Dead letters, the newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterList)]
pub(crate) struct LetterList {
    letters: Vec<Letter>,
    /// Pass it as `before` for the next page; absent: there is none. A page may be short, or empty,
    /// and have a next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1790000000123-0")]
    next: Option<LetterId>,
}

/// A task that failed for good. Of what was no task only is told what can be read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct Letter {
    /// Names the letter in its queue.
    #[schema(value_type = String, example = "1790000000123-0")]
    letter: LetterId,
    #[schema(example = "default")]
    queue: String,
    /// `attempts`, `fatal`, `args`, `crash`, `unknown` or `unreadable`.
    #[schema(example = "attempts")]
    why: String,
    /// What the last attempt said; in a list cut at 2000 bytes.
    error: String,
    /// Who buried it.
    worker: String,
    died: Option<DateTime<Utc>>,
    /// The id of the task.
    id: Option<String>,
    #[schema(example = "pages.scrape")]
    task: Option<String>,
    attempt: Option<u32>,
    /// Deaths of workers that were charged to it.
    crashes: Option<u32>,
    enqueued: Option<DateTime<Utc>>,
}

/// A dead letter with its arguments.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenedDeadLetter)]
pub(crate) struct OpenLetter {
    #[serde(flatten)]
    letter: Letter,
    /// Absent where they cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    args: Option<Value>,
    /// Why the arguments cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

/// Which letters of a queue are looked at.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    queue: String,
    /// Only those of this task.
    task: Option<String>,
    /// Only those that failed so.
    why: Option<String>,
    /// Only those before this letter.
    before: Option<String>,
    /// How many, 1 to 100. Default 50.
    limit: Option<usize>,
}

/// Which letters of a queue are meant. Without `task` and `why`: all of them.
#[derive(Debug, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[schema(as = DeadLettersMeant)]
pub(crate) struct Meant {
    #[schema(example = "default")]
    queue: String,
    /// Only those of this task.
    task: Option<String>,
    /// Only those that failed so.
    why: Option<String>,
    /// Only those after this letter: `next` of an answer before.
    after: Option<String>,
}

/// What was done with the letters that were meant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLettersDone)]
pub(crate) struct Done {
    /// So many were run again, or deleted.
    done: u64,
    /// So many cannot be run again, and stay.
    refused: u64,
    /// Pass it as `after` to go on: one request looks at 4096 letters. Absent: all were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<LetterId>,
}

/// A task that waits again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RedrivenTask)]
pub(crate) struct Redriven {
    #[schema(value_type = String, example = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab")]
    id: TaskId,
}

/// What failed for good
#[utoipa::path(
    get,
    path = "/dead",
    tag = "dead letters",
    params(PageQuery),
    responses(
        (status = 200, body = LetterList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(shared): State<Shared>,
    Query(query): Query<PageQuery>,
) -> Result<Json<LetterList>, Problem> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE_LONGEST).contains(&limit) {
        return Err(wrong(format!("`limit` is 1 to {PAGE_LONGEST}")));
    }
    let filter = filter(query.task.as_deref(), query.why.as_deref())?;
    let before = query.before.as_deref().map(letter_id).transpose()?;
    let queue = known(&shared, &query.queue).await?;
    let page = shared.client.dead_letters(&queue, &filter, before, limit).await;
    let page = page.map_err(broker_problem)?;
    let letters = page.letters.into_iter().map(|letter| shown(&queue, letter)).collect();
    Ok(Json(LetterList { letters, next: page.next }))
}

/// One task that failed for good
#[utoipa::path(
    get,
    path = "/dead/{queue}/{letter}",
    tag = "dead letters",
    params(("queue" = String, Path), ("letter" = String, Path, description = "As in the list")),
    responses(
        (status = 200, body = OpenLetter),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read(
    State(shared): State<Shared>,
    Path((queue, letter)): Path<(String, String)>,
) -> Result<Json<OpenLetter>, Problem> {
    let (queue, letter) = named(&shared, &queue, &letter).await?;
    let opened = shared.client.dead_letter(&queue, letter).await.map_err(broker_problem)?;
    let OpenedLetter { letter, args } = opened.ok_or_else(no_letter)?;
    let args = args.map_err(|error| error.to_string());
    let args = args.and_then(|packed| {
        codec::decode::<Value>(&packed).map_err(|_| "the arguments are not JSON".to_owned())
    });
    let (args, unreadable) = match args {
        Ok(args) => (Some(args), None),
        Err(why) => (None, Some(why)),
    };
    Ok(Json(OpenLetter { letter: shown(&queue, letter), args, unreadable }))
}

/// Delete a dead letter
#[utoipa::path(
    delete,
    path = "/dead/{queue}/{letter}",
    tag = "dead letters",
    params(("queue" = String, Path), ("letter" = String, Path, description = "As in the list")),
    responses(
        (status = 204, description = "It is deleted."),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path((queue, letter)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (queue, letter) = named(&shared, &queue, &letter).await?;
    if !shared.client.delete_letter(&queue, letter).await.map_err(broker_problem)? {
        return Err(no_letter());
    }
    info!(queue.name = %queue, %letter, by = ?claims.sub, "a dead letter was deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Run a dead letter again
///
/// As a first attempt, under the same task id. 409: it is no task, or was cut when it was buried,
/// and stays.
#[utoipa::path(
    post,
    path = "/dead/{queue}/{letter}/redrive",
    tag = "dead letters",
    params(("queue" = String, Path), ("letter" = String, Path, description = "As in the list")),
    responses(
        (status = 202, description = "It waits in its queue again.", body = Redriven),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn redrive(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path((queue, letter)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Redriven>), Problem> {
    let (queue, letter) = named(&shared, &queue, &letter).await?;
    let redriven = shared.client.redrive(&queue, letter).await.map_err(broker_problem)?;
    let id = redriven.ok_or_else(no_letter)?;
    info!(queue.name = %queue, task.id = %id, by = ?claims.sub, "a dead letter runs again");
    Ok((StatusCode::ACCEPTED, Json(Redriven { id })))
}

/// Run dead letters again
///
/// All that are meant and were there when it began, the oldest first. Each is run again once, however
/// many such requests there are.
#[utoipa::path(
    post,
    path = "/dead/redrive",
    tag = "dead letters",
    request_body = Meant,
    responses(
        (status = 200, body = Done),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn redrive_all(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    JsonBody(meant): JsonBody<Meant>,
) -> Result<Json<Done>, Problem> {
    let (queue, filter, after) = meant.checked(&shared).await?;
    let swept = shared.client.redrive_all(&queue, &filter, after).await.map_err(broker_problem)?;
    info!(queue.name = %queue, count = swept.done, by = ?claims.sub, "dead letters run again");
    Ok(Json(swept.into()))
}

/// Delete dead letters
///
/// All that are meant and were there when it began.
#[utoipa::path(
    delete,
    path = "/dead",
    tag = "dead letters",
    params(Meant),
    responses(
        (status = 200, body = Done),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn remove_all(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Query(meant): Query<Meant>,
) -> Result<Json<Done>, Problem> {
    let (queue, filter, after) = meant.checked(&shared).await?;
    let swept =
        shared.client.delete_letters(&queue, &filter, after).await.map_err(broker_problem)?;
    info!(queue.name = %queue, count = swept.done, by = ?claims.sub, "dead letters were deleted");
    Ok(Json(swept.into()))
}

impl Meant {
    async fn checked(
        &self,
        shared: &Shared,
    ) -> Result<(QueueName, LetterFilter, Option<LetterId>), Problem> {
        let filter = filter(self.task.as_deref(), self.why.as_deref())?;
        let after = self.after.as_deref().map(letter_id).transpose()?;
        Ok((known(shared, &self.queue).await?, filter, after))
    }
}

/// A word that is none must not mean "all".
fn filter(task: Option<&str>, why: Option<&str>) -> Result<LetterFilter, Problem> {
    let task: Option<TaskName> = task
        .map(|name| name.parse().map_err(|_| wrong("`task` is no name of a task")))
        .transpose()?;
    let words = Why::ALL.map(Why::as_str).join(", ");
    let why = why
        .map(|word| Why::of(word).ok_or_else(|| wrong(format!("`why` is one of {words}"))))
        .transpose()?;
    Ok(LetterFilter { task, why })
}

fn letter_id(text: &str) -> Result<LetterId, Problem> {
    text.parse().map_err(|_| wrong("`before` and `after` name a letter, as in the list"))
}

async fn named(
    shared: &Shared,
    queue: &str,
    letter: &str,
) -> Result<(QueueName, LetterId), Problem> {
    let letter = letter.parse().map_err(|_| no_letter())?;
    Ok((known(shared, queue).await?, letter))
}

fn wrong(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST).detail(detail)
}

fn no_letter() -> Problem {
    Problem::new(StatusCode::NOT_FOUND).detail("there is no such dead letter (any more)")
}

fn shown(queue: &QueueName, letter: DeadLetter) -> Letter {
    Letter {
        letter: letter.letter,
        queue: queue.to_string(),
        why: letter.why,
        error: letter.error,
        worker: letter.worker,
        died: letter.died,
        id: letter.id,
        task: letter.task,
        attempt: letter.attempt,
        crashes: letter.crashes,
        enqueued: letter.enqueued,
    }
}

impl From<Swept> for Done {
    fn from(swept: Swept) -> Self {
        let Swept { done, refused, next } = swept;
        Self { done, refused, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_misspelt_is_refused_and_does_not_mean_all() {
        assert_eq!(filter(None, None).unwrap(), LetterFilter::default());
        let both = filter(Some("pages.scrape"), Some("crash")).unwrap();
        assert_eq!(both.why, Some(Why::Crash));
        for (task, why) in [(Some("Not A Name"), None), (None, Some("crashed")), (None, Some(""))] {
            assert!(filter(task, why).is_err(), "{task:?} {why:?}");
        }
        let typo = serde_json::from_str::<Meant>(r#"{"queue": "a", "taks": "b"}"#);
        assert!(typo.is_err());
    }
}
