//! Which runs of a worker somebody wants ended: asked for by the heartbeat's answer, heeded by the
//! runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;
use umbel_proto::TaskId;

/// The runs of a worker, and what was asked of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancels(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Task → who, as the last heartbeat had it. It may come before the run that it is about.
    asked: HashMap<String, String>,
    runs: HashMap<TaskId, Tokens>,
}

#[derive(Debug, Clone)]
struct Tokens {
    by: Option<String>,
    /// What the handler sees.
    run: CancellationToken,
    /// Somebody asked; the stop of the worker does not count.
    asked: CancellationToken,
}

/// A run that can be cancelled, until it is dropped.
#[derive(Debug)]
pub(crate) struct Cancellable {
    cancels: Cancels,
    id: TaskId,
    tokens: Tokens,
}

impl Cancels {
    /// Takes in what a heartbeat was answered.
    pub fn told(&self, asked: HashMap<String, String>) {
        let mut table = self.lock();
        for (id, tokens) in &mut table.runs {
            if let Some(by) = asked.get(id.as_str()) {
                tokens.cancel(by);
            }
        }
        table.asked = asked;
    }

    /// A run begins; `stop` ends it as well.
    pub fn begin(&self, id: &TaskId, stop: &CancellationToken) -> Cancellable {
        let mut tokens =
            Tokens { by: None, run: stop.child_token(), asked: CancellationToken::new() };
        let mut table = self.lock();
        if let Some(by) = table.asked.get(id.as_str()) {
            tokens.cancel(by);
        }
        table.runs.insert(id.clone(), tokens.clone());
        Cancellable { cancels: self.clone(), id: id.clone(), tokens }
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    fn cancel(&mut self, by: &str) {
        if self.by.is_none() {
            self.by = Some(by.to_owned());
            self.asked.cancel();
            self.run.cancel();
        }
    }
}

impl Cancellable {
    /// Is cancelled when the run should come to its end, whoever wants that.
    pub fn token(&self) -> CancellationToken {
        self.tokens.run.clone()
    }

    /// Waits until somebody wants this task ended.
    pub async fn asked(&self) {
        self.tokens.asked.cancelled().await;
    }

    /// Who wanted it, if somebody did.
    pub fn by(&self) -> Option<String> {
        self.cancels.lock().runs.get(&self.id).and_then(|tokens| tokens.by.clone())
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        self.cancels.lock().runs.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";

    fn asked() -> HashMap<String, String> {
        HashMap::from([(ID.to_owned(), "ann".to_owned())])
    }

    #[test]
    fn a_run_is_cancelled_whether_it_was_asked_for_before_or_after_it_began() {
        let (cancels, stop) = (Cancels::default(), CancellationToken::new());
        let id: TaskId = ID.parse().unwrap();
        let run = cancels.begin(&id, &stop);
        assert!(!run.token().is_cancelled() && run.by().is_none());
        cancels.told(asked());
        assert!(run.token().is_cancelled());
        assert_eq!(run.by().as_deref(), Some("ann"));
        drop(run);
        assert_eq!(cancels.begin(&id, &stop).by().as_deref(), Some("ann"), "it is still asked for");
        cancels.told(HashMap::new());
        assert!(cancels.begin(&id, &stop).by().is_none());
        assert!(!stop.is_cancelled(), "nobody else is");
    }

    #[test]
    fn a_stop_of_the_worker_ends_a_run_and_cancels_no_task() {
        let (cancels, stop) = (Cancels::default(), CancellationToken::new());
        let run = cancels.begin(&ID.parse().unwrap(), &stop);
        stop.cancel();
        assert!(run.token().is_cancelled());
        assert!(run.by().is_none());
    }
}
