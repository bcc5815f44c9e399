//! Which runs of a worker somebody wants ended: asked for by the heartbeat's answer, heeded by the
//! runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio_util::sync::CancellationToken;
use umbel_proto::TaskId;

/// The runs of a worker, and what was asked of them.
#[derive(Debug, Clone)]
pub(crate) struct Cancels {
    table: Arc<Mutex<Table>>,
    /// Ends all of them.
    stop: Arc<CancellationToken>,
}

#[derive(Debug, Default)]
struct Table {
    /// Task → who, as the last heartbeat had it. It may come before the run that it is about.
    asked: HashMap<String, String>,
    runs: HashMap<TaskId, Arc<Wanted>>,
}

impl Table {
    fn asked_of(&self, id: &TaskId) -> Option<String> {
        // Nearly always nobody has asked for anything.
        if self.asked.is_empty() { None } else { self.asked.get(id.as_str()).cloned() }
    }
}

/// Whether a run is still wanted.
// Most runs ask for neither token: each is made when it is asked for, under the lock.
#[derive(Debug)]
pub(crate) struct Wanted {
    by: Mutex<Option<String>>,
    /// What the handler sees.
    run: OnceLock<CancellationToken>,
    /// Somebody asked; the stop of the worker does not count.
    asked: OnceLock<CancellationToken>,
    stop: Arc<CancellationToken>,
}

/// A run that can be cancelled, until it is dropped.
#[derive(Debug)]
pub(crate) struct Cancellable {
    cancels: Cancels,
    id: TaskId,
    wanted: Arc<Wanted>,
}

impl Cancels {
    /// Of runs that `stop` ends as well.
    pub fn new(stop: CancellationToken) -> Self {
        Self { table: Arc::default(), stop: Arc::new(stop) }
    }

    /// Takes in what a heartbeat was answered.
    pub fn told(&self, asked: HashMap<String, String>) {
        let mut table = self.lock();
        for (id, wanted) in &table.runs {
            if let Some(by) = asked.get(id.as_str()) {
                wanted.cancel(by);
            }
        }
        table.asked = asked;
    }

    /// A run begins.
    pub fn begin(&self, id: &TaskId) -> Cancellable {
        let mut table = self.lock();
        let wanted = Arc::new(Wanted {
            by: Mutex::new(table.asked_of(id)),
            run: OnceLock::new(),
            asked: OnceLock::new(),
            stop: self.stop.clone(),
        });
        table.runs.insert(id.clone(), wanted.clone());
        Cancellable { cancels: self.clone(), id: id.clone(), wanted }
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// Is cancelled when the run should come to its end, whoever wants that.
    pub fn token(&self) -> &CancellationToken {
        self.made(&self.run, || self.stop.child_token())
    }

    fn asked(&self) -> &CancellationToken {
        self.made(&self.asked, CancellationToken::new)
    }

    fn made<'a>(
        &'a self,
        token: &'a OnceLock<CancellationToken>,
        make: impl FnOnce() -> CancellationToken,
    ) -> &'a CancellationToken {
        let by = self.lock();
        token.get_or_init(|| {
            let token = make();
            if by.is_some() {
                token.cancel();
            }
            token
        })
    }

    fn cancel(&self, who: &str) {
        let mut by = self.lock();
        if by.is_none() {
            *by = Some(who.to_owned());
            for token in [&self.asked, &self.run].into_iter().filter_map(OnceLock::get) {
                token.cancel();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancellable {
    pub fn wanted(&self) -> Arc<Wanted> {
        self.wanted.clone()
    }

    /// Waits until somebody wants this task ended.
    pub async fn asked(&self) {
        self.wanted.asked().cancelled().await;
    }

    /// Who wanted it, if somebody did.
    pub fn by(&self) -> Option<String> {
        self.wanted.lock().clone()
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        let mut table = self.cancels.lock();
        // A second run of the same task may have taken its place.
        if let Some((id, other)) = table.runs.remove_entry(&self.id)
            && !Arc::ptr_eq(&other, &self.wanted)
        {
            table.runs.insert(id, other);
        }
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
        let cancels = Cancels::new(CancellationToken::new());
        let id: TaskId = ID.parse().unwrap();
        let run = cancels.begin(&id);
        let looks = run.wanted();
        assert!(!looks.token().is_cancelled() && run.by().is_none());
        cancels.told(asked());
        assert!(looks.token().is_cancelled());
        assert_eq!(run.by().as_deref(), Some("ann"));
        drop(run);
        let again = cancels.begin(&id);
        assert_eq!(again.by().as_deref(), Some("ann"), "it is still asked for");
        assert!(again.wanted().token().is_cancelled() && again.wanted().asked().is_cancelled());
        cancels.told(HashMap::new());
        assert!(cancels.begin(&id).by().is_none());
        assert!(!cancels.stop.is_cancelled(), "nobody else is");
    }

    #[test]
    fn a_stop_of_the_worker_ends_a_run_and_cancels_no_task() {
        let stop = CancellationToken::new();
        let run = Cancels::new(stop.clone()).begin(&ID.parse().unwrap());
        stop.cancel();
        assert!(run.wanted().token().is_cancelled());
        assert!(run.by().is_none() && !run.wanted().asked().is_cancelled());
    }
}
