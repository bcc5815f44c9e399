//! What `top` and `tail` see at one look, and what has happened between two: nothing is written for
//! their sake when a task is enqueued or ends, so what is too short for a look is not seen.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use umbel_broker::{
    BrokerError, Client, QueueStatus,
    dead::{DeadLetter, LetterFilter},
    roster::{RunningTask, WorkerStatus},
    schedules::ScheduleStatus,
};

use super::{
    inspect::is_silent,
    table::{plain, span},
};

/// One look.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub at: DateTime<Utc>,
    pub queues: Vec<QueueStatus>,
    pub workers: Vec<WorkerStatus>,
    pub schedules: Vec<ScheduleStatus>,
    /// The last dead letters of all queues, the newest first.
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub queue: umbel_proto::QueueName,
    pub letter: DeadLetter,
}

impl Look {
    /// A few commands a queue; `failures`: how many dead letters of each are read.
    pub async fn take(client: &Client, failures: usize) -> Result<Self, BrokerError> {
        let at = Utc::now();
        let queues = client.queues().await?;
        let mut all = Vec::new();
        for queue in queues.iter().filter(|queue| queue.dead > 0) {
            let filter = LetterFilter::default();
            let page = client.dead_letters(&queue.name, &filter, None, failures).await?;
            let queue = &queue.name;
            all.extend(
                page.letters.into_iter().map(|letter| Failure { queue: queue.clone(), letter }),
            );
        }
        all.sort_by_key(|failure| std::cmp::Reverse(failure.letter.letter));
        Ok(Self {
            at,
            queues,
            workers: client.living_workers().await?,
            schedules: client.schedules(at).await?,
            failures: all,
        })
    }

    /// What runs, the longest first.
    pub fn running(&self) -> Vec<(&WorkerStatus, &RunningTask)> {
        let mut all: Vec<_> = self
            .workers
            .iter()
            .flat_map(|worker| worker.info.running.iter().map(move |task| (worker, task)))
            .collect();
        all.sort_by(|(_, a), (_, b)| (a.since, &a.id).cmp(&(b.since, &b.id)));
        all
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Event {
    pub at: DateTime<Utc>,
    pub event: &'static str,
    /// The queue, worker or schedule.
    pub of: String,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub text: String,
}

/// What happened between two looks. Of what has left a worker it is told that it did; how it ended
/// is known to its record.
pub(super) fn between(before: &Look, after: &Look) -> Vec<Event> {
    let mut events = Vec::new();
    let mut add = |event, of: &str, id: Option<&str>, text: String| {
        events.push(Event {
            at: after.at,
            event,
            of: of.to_owned(),
            id: id.map(str::to_owned),
            text: plain(&text),
        });
    };
    for queue in &after.queues {
        let old = before.queues.iter().find(|old| old.name == queue.name);
        let name = queue.name.as_str();
        match (old.and_then(|old| old.paused.as_ref()), &queue.paused) {
            (None, Some(pause)) => {
                add("paused", name, None, format!("by {}: {}", pause.by, pause.why));
            }
            (Some(_), None) => add("resumed", name, None, String::new()),
            _ => {}
        }
        let counts =
            |queue: &QueueStatus| [queue.queued, queue.running, queue.delayed, queue.parked];
        if old.map_or([0; 4], counts) != counts(queue) {
            let [queued, running, delayed, parked] = counts(queue);
            let text =
                format!("{queued} queued, {running} running, {delayed} delayed, {parked} parked");
            add("depth", name, None, text);
        }
    }
    workers(before, after, &mut add);
    let known: BTreeSet<_> =
        before.failures.iter().map(|failure| (&failure.queue, failure.letter.letter)).collect();
    let last = before.failures.iter().map(|failure| failure.letter.letter).max();
    for failure in after.failures.iter().rev() {
        let letter = &failure.letter;
        // What comes into view only because newer ones were deleted has not just died.
        let is_new = !known.contains(&(&failure.queue, letter.letter))
            && (last.is_none_or(|last| letter.letter > last) || letter.died > Some(before.at));
        if is_new {
            let task = letter.task.as_deref().unwrap_or("no task");
            let text = format!("{task}, {}: {}", letter.why, letter.error);
            add("dead", failure.queue.as_str(), letter.id.as_deref(), text);
        }
    }
    for schedule in &after.schedules {
        let name = &schedule.entry.name;
        let old = before.schedules.iter().find(|old| old.entry.name == *name);
        let last = old.and_then(|old| old.fires.first());
        if let Some(fire) = schedule.fires.first().filter(|fire| Some(*fire) != last) {
            let text = format!("slot {}, {} late", fire.slot, span(fire.late));
            let outcome = if fire.outcome == "fired" { "fired" } else { "missed" };
            add(outcome, name, fire.task.as_deref(), text);
        }
    }
    events
}

fn workers(
    before: &Look,
    after: &Look,
    add: &mut impl FnMut(&'static str, &str, Option<&str>, String),
) {
    let by_id = |look: &Look| -> BTreeMap<String, WorkerStatus> {
        look.workers.iter().map(|worker| (worker.id.clone(), worker.clone())).collect()
    };
    let (old, new) = (by_id(before), by_id(after));
    for (id, worker) in &new {
        let known = old.get(id);
        if known.is_none() {
            add("joined", id, None, format!("serves {}", worker.info.queues.join(", ")));
        }
        if is_silent(worker, after.at) && known.is_some_and(|known| !is_silent(known, before.at)) {
            add("silent", id, None, "has said nothing for a while".to_owned());
        }
        let ran: &[RunningTask] = known.map_or(&[], |known| &known.info.running);
        let same = |a: &RunningTask, b: &RunningTask| (&a.id, a.since) == (&b.id, b.since);
        for task in worker.info.running.iter().filter(|task| !ran.iter().any(|r| same(r, task))) {
            let text = format!("{}, attempt {}", task.task, task.attempt);
            add("running", id, Some(&task.id), text);
        }
        // A worker tells of so many at most: with more, one may have fallen off the list.
        let tells_all = worker.info.running_count == worker.info.running.len();
        let runs = &worker.info.running;
        for task in ran.iter().filter(|task| tells_all && !runs.iter().any(|r| same(r, task))) {
            let text = format!("{}, after {}", task.task, span(after.at - task.since));
            add("done", id, Some(&task.id), text);
        }
    }
    for id in old.keys().filter(|id| !new.contains_key(*id)) {
        add("left", id, None, String::new());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use chrono::TimeDelta;
    use umbel_broker::{Pause, roster::WorkerInfo};

    use super::*;

    /// Two queues, a worker that runs a task, and a dead letter.
    pub(crate) fn look() -> Look {
        let at = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let queue = |name: &str, queued, dead| QueueStatus {
            name: name.parse().unwrap(),
            queued,
            running: 1,
            delayed: 3,
            parked: 0,
            dead,
            paused: None,
        };
        let running = RunningTask {
            id: "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".to_owned(),
            task: "pages.scrape".to_owned(),
            attempt: 2,
            since: at - TimeDelta::seconds(42),
        };
        let info = WorkerInfo {
            host: "box".to_owned(),
            queues: vec!["default".to_owned()],
            concurrency: 4,
            beat: Some(at),
            running_count: 1,
            running: vec![running],
            ..WorkerInfo::default()
        };
        let letter = DeadLetter {
            letter: "1728000000000-0".parse().unwrap(),
            why: "attempts".to_owned(),
            error: "no route to host".to_owned(),
            worker: "box-1".to_owned(),
            died: Some(at - TimeDelta::minutes(3)),
            id: Some("default-0191f3c4-7b6a-7c3e-9d4f-0123456789ac".to_owned()),
            task: Some("pages.scrape".to_owned()),
            attempt: Some(5),
            crashes: Some(0),
            enqueued: None,
        };
        Look {
            at,
            queues: vec![queue("default", 17, 1), queue("upkeep", 0, 0)],
            workers: vec![WorkerStatus { id: "box-1".to_owned(), info }],
            schedules: Vec::new(),
            failures: vec![Failure { queue: "default".parse().unwrap(), letter }],
        }
    }

    #[test]
    fn between_two_equal_looks_nothing_happened() {
        assert_eq!(between(&look(), &look()), []);
    }

    #[test]
    fn what_changed_is_told_once_each() {
        let before = look();
        let mut after = look();
        after.at += TimeDelta::seconds(1);
        after.queues[1].paused =
            Some(Pause { by: "ann".to_owned(), why: "noon".to_owned(), since: after.at });
        after.queues[0].queued = 18;
        after.workers[0].info.running[0].id = "default-other".to_owned();
        let mut new = after.failures[0].clone();
        new.letter.letter = "1728000000001-0".parse().unwrap();
        after.failures.insert(0, new);
        let events = between(&before, &after);
        let told: Vec<&str> = events.iter().map(|event| event.event).collect();
        assert_eq!(told, ["depth", "paused", "running", "done", "dead"]);
        after.workers.clear();
        assert!(between(&before, &after).iter().any(|event| event.event == "left"));
    }
}
