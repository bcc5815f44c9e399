//! `GET /v1/tasks/{task}/events`: what becomes of a task, as it becomes.

use std::{convert::Infallible, time::Duration};

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
use serde_json::json;
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
use crate::{Claims, problem::Problem};

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

/// What was last sent of a task.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sent {
    state: Option<(TaskState, u32)>,
    progress: Option<serde_json::Value>,
    /// What a client has that comes again with `Last-Event-ID`.
    known: Option<String>,
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
    let known = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    if record.state.has_ended() && known.as_ref() == Some(&event_id(&record)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let room = shared.listeners.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE)
            .detail("too many follow tasks at once")
            .retry_after(ROOM_AFTER)
    })?;
    let Shared { client, closing, .. } = shared;
    let following = Following {
        client,
        id: record.id.clone(),
        sent: Sent { known, ..Sent::default() },
        next: Some(record),
        until: Instant::now() + HELD_FOR,
        _room: room,
    };
    let events = stream::unfold(following, Following::step)
        .flat_map(stream::iter)
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
    _room: OwnedSemaphorePermit,
}

impl Following {
    /// The events of one change; the end of the stream after that of the task.
    async fn step(mut self) -> Option<(Vec<Event>, Self)> {
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
fn changes(sent: &mut Sent, record: &Record) -> Vec<Event> {
    let id = event_id(record);
    let now = Sent {
        state: Some((record.state, record.attempt)),
        progress: record.progress.clone(),
        known: None,
    };
    let known = sent.known.take().is_some_and(|known| known == id);
    let before = std::mem::replace(sent, now.clone());
    if known {
        return Vec::new();
    }
    let mut events = Vec::new();
    let mut event = |name: &str, data: serde_json::Value| {
        let event = Event::default().event(name).id(&id).retry(AGAIN_AFTER);
        events.push(event.data(data.to_string()));
    };
    if before.state != now.state {
        let Record { state, attempt, error, .. } = record;
        event("state", json!({ "state": state, "attempt": attempt, "error": error }));
    }
    if let Some(progress) = &now.progress
        && before.progress != now.progress
    {
        event("progress", progress.clone());
    }
    if record.state.has_ended() {
        event("result", json!(record));
    }
    events
}

fn event_id(record: &Record) -> String {
    let told = json!([record.state, record.attempt, record.progress]);
    fingerprint(told.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::record::tests::record;

    fn shown(state: TaskState) -> Record {
        Record::of(record(state)).unwrap()
    }

    #[test]
    fn a_change_is_sent_once_and_the_end_with_all_that_is_known() {
        let mut sent = Sent::default();
        assert_eq!(changes(&mut sent, &shown(TaskState::Running)).len(), 2, "state and progress");
        assert!(changes(&mut sent, &shown(TaskState::Running)).is_empty());
        assert_eq!(changes(&mut sent, &shown(TaskState::Succeeded)).len(), 2, "state and result");
    }

    #[test]
    fn who_comes_again_is_sent_what_has_changed_since() {
        let known = Some(event_id(&shown(TaskState::Running)));
        let mut sent = Sent { known, ..Sent::default() };
        assert!(changes(&mut sent, &shown(TaskState::Running)).is_empty());
        assert_eq!(changes(&mut sent, &shown(TaskState::Retrying)).len(), 1);
        let mut sent = Sent { known: Some("of long ago".to_owned()), ..Sent::default() };
        assert_eq!(changes(&mut sent, &shown(TaskState::Running)).len(), 2);
    }
}
