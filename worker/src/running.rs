//! What a worker runs just now, as it tells of it with each heartbeat.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use umbel_broker::roster::{RUNNING_TOLD, RunningTask, WorkerInfo};
use umbel_proto::{TaskId, TaskName};

/// The tasks in a worker's hands, those that began first in front.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningTasks(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    begun: u64,
    tasks: BTreeMap<u64, Begun>,
}

/// A task that runs.
#[derive(Debug)]
pub(crate) struct Begun {
    pub id: TaskId,
    pub task: TaskName,
    pub attempt: u32,
    pub since: DateTime<Utc>,
}

/// Takes its task out of the table when it is dropped: however the run ends, it has ended.
#[derive(Debug)]
pub(crate) struct Entered {
    of: RunningTasks,
    number: u64,
}

impl RunningTasks {
    pub fn enter(&self, task: Begun) -> Entered {
        let mut table = self.lock();
        let number = table.begun;
        table.begun += 1;
        table.tasks.insert(number, task);
        Entered { of: self.clone(), number }
    }

    /// What a worker tells of itself at `now`, as JSON.
    pub fn tell(&self, worker: &WorkerInfo, now: DateTime<Utc>) -> serde_json::Result<String> {
        let (running_count, running) = {
            let table = self.lock();
            let told = table.tasks.values().take(RUNNING_TOLD).map(Begun::told).collect();
            (table.tasks.len(), told)
        };
        let told = WorkerInfo { beat: Some(now), running_count, running, ..worker.clone() };
        serde_json::to_string(&told)
    }

    // No code under the lock panics half-way.
    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    fn told(&self) -> RunningTask {
        let Self { id, task, attempt, since } = self;
        RunningTask { id: id.to_string(), task: task.to_string(), attempt: *attempt, since: *since }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.of.lock().tasks.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tasks: &RunningTasks) -> WorkerInfo {
        let worker = WorkerInfo { host: "here".to_owned(), ..WorkerInfo::default() };
        serde_json::from_str(&tasks.tell(&worker, DateTime::UNIX_EPOCH).unwrap()).unwrap()
    }

    fn task(n: usize) -> Begun {
        let id = format!("default-00000000-0000-7000-8000-{n:012}").parse().unwrap();
        let task = "probe".parse().unwrap();
        Begun { id, task, attempt: 1, since: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn a_worker_tells_what_it_runs_until_that_ends() {
        let tasks = RunningTasks::default();
        let first = tasks.enter(task(1));
        let _second = tasks.enter(task(2));
        let all = told(&tasks);
        assert_eq!((&*all.host, all.beat), ("here", Some(DateTime::UNIX_EPOCH)));
        assert_eq!((all.running_count, all.running), (2, vec![task(1).told(), task(2).told()]));
        drop(first);
        assert_eq!(told(&tasks).running, [task(2).told()]);
    }

    #[test]
    fn however_many_run_only_the_oldest_are_told_and_all_are_counted() {
        let tasks = RunningTasks::default();
        let _entered: Vec<Entered> = (0..RUNNING_TOLD + 9).map(|n| tasks.enter(task(n))).collect();
        let all = told(&tasks);
        assert_eq!((all.running_count, all.running.len()), (RUNNING_TOLD + 9, RUNNING_TOLD));
        assert_eq!(all.running[0], task(0).told());
    }
}
