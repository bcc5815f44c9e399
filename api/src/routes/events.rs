//! `GET /v1/tasks/{task}/events`: what becomes of a task, as it becomes.

use std::{convert::Infallible, fmt, time::Duration};

use axum::{
    Extension,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};
use tracing::warn;
use umbel_broker::Client;
use umbel_proto::{TaskId, TaskState};

use super::{
    Shared,
    record::{Record, fingerprint},
    tasks,
};
use crate::{Claims, problem::Problem, shares::Share};

/// How often Redis is asked; the answer is one small hash.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Proxies cut a connection on which nothing comes.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// How long one connection is held. A client connects again by itself and misses nothing.
const HELD_FOR: Duration = Duration::from_secs(10 * 60);

/// When a client should connect again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// When who found no room for one more listener should come again.
const ROOM_AFTER: Duration = Duration::from_secs(5);

/// What a client has been sent of a task. Each event carries as its id what there is with it, so that who
/// comes again with one, whichever, is sent what is missing and nothing twice.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sent {
    state: Option<(TaskState, u32)>,
    /// A fingerprint: a progress may be large.
    progress: Option<String>,
    result: bool,
}

/// `state.attempt.progress.result`, each empty or absent where nothing of it was sent.
impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((state, attempt)) = self.state {
            write!(f, "{state}.{attempt}")?;
        }
        write!(f, ".{}", self.progress.as_deref().unwrap_or_default())?;
        f.write_str(if self.result { ".result" } else { "" })
    }
}

impl Sent {
    /// What an id says was sent; nothing where it is none of ours.
    fn read(id: &str) -> Self {
        let mut parts = id.split('.');
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let state = next().and_then(|state| state.parse().ok());
        let attempt = next().and_then(|attempt| attempt.parse().ok());
        let (progress, result) = (next().map(str::to_owned), next() == Some("result"));
        match state.zip(attempt) {
            Some(state) => Self { state: Some(state), progress, result },
            None => Self::default(),
        }
    }
}

/// One event, before it is written.
#[derive(Debug, PartialEq)]
struct Told {
    name: &'static str,
    id: String,
    data: String,
}

impl From<Told> for Event {
    fn from(told: Told) -> Self {
        Self::default().event(told.name).id(told.id).retry(AGAIN_AFTER).data(told.data)
    }
}

/// Follow a task
///
/// Server-sent events: `state` with state, attempt and error, `progress` as the task tells it, and at
/// the end `result` with all that is known. Each has an id; who comes again with `Last-Event-ID` is
/// sent what has changed since, and 204 where the end was sent.
#[utoipa::path(
    get,
    path = "/tasks/{task}/events",
    tag = "tasks",
    params(
        ("task" = String, Path, description = "The id of the task"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that came"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = 204, description = "The end was sent before."),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn follow(
    State(shared): State<Shared>,
    Extension(claims): Extension<Claims>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let record = tasks::of(&shared, &claims, &id).await?;
    let known = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let sent = known.map(Sent::read).unwrap_or_default();
    if record.state.has_ended() && changes(&mut sent.clone(), &record).is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let share = shared.following.take(&claims.sub).ok_or_else(|| {
        Problem::new(StatusCode::TOO_MANY_REQUESTS)
            .detail("this subject follows as many tasks as it may at once")
            .retry_after(ROOM_AFTER)
    })?;
    let room = shared.listeners.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE)
            .detail("too many follow tasks at once")
            .retry_after(ROOM_AFTER)
    })?;
    let Shared { client, closing, .. } = shared;
    let following = Following {
        client,
        id: record.id.clone(),
        sent,
        next: Some(record),
        until: Instant::now() + HELD_FOR,
        _room: (room, share),
    };
    let events = stream::unfold(following, Following::step)
        .flat_map(|told| stream::iter(told.into_iter().map(Event::from)))
        .take_until(closing.cancelled_owned())
        .map(Ok::<_, Infallible>);
    let comments = KeepAlive::new().interval(COMMENT_EVERY);
    Ok(Sse::new(events).keep_alive(comments).into_response())
}

struct Following {
    client: Client,
    id: TaskId,
    sent: Sent,
    /// What was read and not yet sent.
    next: Option<Record>,
    until: Instant,
    _room: (OwnedSemaphorePermit, Share),
}

impl Following {
    /// The events of one change; the end of the stream after that of the task.
    async fn step(mut self) -> Option<(Vec<Told>, Self)> {
        loop {
            if let Some(record) = self.next.take() {
                let events = changes(&mut self.sent, &record);
                if record.state.has_ended() {
                    // Nothing comes after it.
                    self.until = Instant::now();
                }
                if !events.is_empty() {
                    return Some((events, self));
                }
            }
            if Instant::now() >= self.until {
                return None;
            }
            sleep(LOOK_EVERY).await;
            match self.client.task(&self.id).await {
                // Its end is forgotten; whoever comes again is told so.
                Ok(None) => return None,
                Ok(Some(record)) => self.next = Record::of(record).ok(),
                // The task goes on while Redis is away, and so does who follows it.
                Err(error) if error.is_transient() => {}
                Err(error) => {
                    warn!(task.id = %self.id, %error, "a task cannot be followed any more");
                    return None;
                }
            }
        }
    }
}

/// What is to be sent of a record, given what was.
fn changes(sent: &mut Sent, record: &Record) -> Vec<Told> {
    let mut events = Vec::new();
    let mut event = |name, sent: &Sent, data: Value| {
        events.push(Told { name, id: sent.to_string(), data: data.to_string() });
    };
    let Record { state, attempt, error, .. } = record;
    if sent.state != Some((*state, *attempt)) {
        sent.state = Some((*state, *attempt));
        // Should it have ended before and run again.
        sent.result = false;
        event("state", sent, json!({ "state": state, "attempt": attempt, "error": error }));
    }
    let progress = record.progress.as_ref().map(|told| fingerprint(told.to_string().as_bytes()));
    if sent.progress != progress {
        sent.progress = progress;
        if let Some(told) = &record.progress {
            event("progress", sent, told.clone());
        }
    }
    if state.has_ended() && !sent.result {
        sent.result = true;
        event("result", sent, json!(record));
    }
    events
}

#[cfg(test)]
mod tests {
    use umbel_broker::TaskRecord;

    use super::*;
    use crate::routes::record::tests::record;

    fn shown(state: TaskState) -> Record {
        Record::of(record(state)).unwrap()
    }

    fn names(events: &[Told]) -> Vec<&str> {
        events.iter().map(|event| event.name).collect()
    }

    #[test]
    fn a_change_is_sent_once_and_the_end_with_all_that_is_known() {
        let mut sent = Sent::default();
        assert_eq!(names(&changes(&mut sent, &shown(TaskState::Running))), ["state", "progress"]);
        assert!(changes(&mut sent, &shown(TaskState::Running)).is_empty());
        assert_eq!(names(&changes(&mut sent, &shown(TaskState::Succeeded))), ["state", "result"]);
        assert!(changes(&mut sent, &shown(TaskState::Succeeded)).is_empty());
    }

    #[test]
    fn who_comes_again_after_any_event_is_sent_what_is_missing_and_nothing_twice() {
        let queued = TaskRecord { progress: None, ..record(TaskState::Queued) };
        let mut sent = Sent::default();
        let mut whole = changes(&mut sent, &Record::of(queued).unwrap());
        whole.extend(changes(&mut sent, &shown(TaskState::Running)));
        whole.extend(changes(&mut sent, &shown(TaskState::Succeeded)));
        let rests: [&[&str]; 5] = [
            &["state", "progress", "result"],
            &["state", "progress", "result"],
            &["state", "result"],
            &["result"],
            &[],
        ];
        assert_eq!(names(&whole), ["state", "state", "progress", "state", "result"]);
        for (last, rest) in whole.iter().zip(rests) {
            let again = changes(&mut Sent::read(&last.id), &shown(TaskState::Succeeded));
            assert_eq!(names(&again), rest, "after {}", last.id);
        }
    }

    #[test]
    fn an_id_of_somebody_else_is_none() {
        for id in ["", ".", "of long ago", "running", "running.x", "9f86d081884c7d659a2feaa0"] {
            assert_eq!(Sent::read(id), Sent::default(), "{id:?}");
        }
    }
}
