//! What the model does when somebody wants a task ended, and when a run tells how far it is.

use umbel_broker::Cancel;
use umbel_proto::TaskState;

use super::{
    hands::Delivery,
    server::Server,
    words::{Answer, Name, Stamp, TOLD_MS, Worker},
};

impl Server {
    pub fn is_cancelled(&self, task: usize) -> bool {
        self.records.get(&task).is_some_and(|record| record.fields.contains_key("cancel"))
    }

    pub fn cancel(&mut self, task: usize, now: Stamp) -> Answer {
        let Some(record) = self.records.get_mut(&task) else { return Answer::Cancelled(None) };
        let Some(state) = record.fields.get("state") else { return Answer::Cancelled(None) };
        let state: TaskState = state.parse().expect("a state");
        if state.has_ended() {
            return Answer::Cancelled(Some(Cancel::Ended(state)));
        }
        record.fields.insert("cancel", "somebody".to_owned());
        let worker = record.fields.get("worker").cloned();
        if self.waiting.contains_key(&task) {
            let parked =
                Name::ALL.into_iter().find(|name| self.parked_as(*name).contains_key(&task));
            match parked.filter(|_| !self.delayed.contains_key(&task)) {
                Some(name) => {
                    self.parked_as(name).remove(&task);
                    self.list_parked(name);
                }
                None => {
                    self.delayed.remove(&task);
                }
            }
            self.make_ready(task, &mut 0, &mut 0);
            return Answer::Cancelled(Some(Cancel::Waiting));
        }
        let runs_on = worker.filter(|_| state == TaskState::Running);
        let Some(worker) = runs_on
            .and_then(|shown| Worker::ALL.into_iter().find(|worker| worker.to_string() == shown))
        else {
            return Answer::Cancelled(Some(Cancel::Waiting));
        };
        let (tasks, expires) =
            self.asked.entry(worker).or_insert_with(|| (Default::default(), now));
        tasks.insert(task);
        *expires = Stamp { later_ms: TOLD_MS, ..now };
        Answer::Cancelled(Some(Cancel::Running))
    }

    pub fn progress(&mut self, worker: Worker, delivery: &Delivery) -> Answer {
        let task = delivery.body.task;
        let of_this_run = [
            ("state", "running".to_owned()),
            ("worker", worker.to_string()),
            ("attempt", delivery.body.attempt.to_string()),
        ];
        let record = self.records.get(&task);
        let is_its = record.is_some_and(|record| {
            of_this_run.iter().all(|(field, value)| record.fields.get(field) == Some(value))
        });
        if is_its {
            self.note(task, [("progress", "7".to_owned())]);
        }
        Answer::Noted(is_its)
    }
}
