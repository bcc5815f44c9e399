//! Callers who enqueue at the same time share calls: the first goes at once, who comes while it is
//! on its way goes with the next.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    BrokerError, Client, Submitted,
    enqueue::{Sealed, batch_of, unanswered},
    keys::Shard,
};

type Answer = Result<Submitted, BrokerError>;

/// Who waits for the call that is on its way, by shard. No entry: none is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<HashMap<Shard, VecDeque<Waiting>>>>);

#[derive(Debug)]
struct Waiting {
    sealed: Sealed,
    answer: oneshot::Sender<Answer>,
}

enum Entered {
    /// Nobody is on the way: the caller goes, and hands over when it is back.
    Goes(Sealed),
    Waits(oneshot::Receiver<Answer>),
}

/// A call on its way, by a caller who may give up waiting for it at any time.
struct OnItsWay<'a> {
    client: &'a Client,
    shard: &'a Shard,
}

impl Client {
    pub(crate) async fn submit_shared(&self, shard: &Shard, sealed: Sealed) -> Answer {
        match self.lanes().enter(shard, sealed) {
            Entered::Goes(sealed) => {
                let _hands_over = OnItsWay { client: self, shard };
                let mut answers = self.submit_batch(shard, vec![sealed]).await?;
                answers.pop().unwrap_or_else(|| Err(unanswered()))
            }
            Entered::Waits(answer) => answer.await.unwrap_or_else(|_| Err(unanswered())),
        }
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let lanes = self.client.lanes();
        if lanes.is_left(self.shard) {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                let carrier = Carrier { client: self.client.clone(), shard: self.shard.clone() };
                runtime.spawn(carrier.run());
            }
            // Their runtime is gone as well.
            Err(_) => lanes.close(self.shard),
        }
    }
}

/// Takes those who wait to Redis, until nobody does.
struct Carrier {
    client: Client,
    shard: Shard,
}

impl Carrier {
    async fn run(self) {
        while let Some(waiting) = self.client.lanes().next(&self.shard) {
            let (sealed, callers): (Vec<_>, Vec<_>) =
                waiting.into_iter().map(|waiting| (waiting.sealed, waiting.answer)).unzip();
            match self.client.submit_batch(&self.shard, sealed).await {
                Ok(answers) => {
                    for (caller, answer) in callers.into_iter().zip(answers) {
                        // Who has given up waiting has its task all the same.
                        let _ = caller.send(answer);
                    }
                }
                Err(error) => {
                    for caller in callers {
                        let _ = caller.send(Err(error.again()));
                    }
                }
            }
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Where its runtime ends half way; else nobody waits.
        if std::thread::panicking() || !self.client.lanes().is_left(&self.shard) {
            self.client.lanes().close(&self.shard);
        }
    }
}

impl Lanes {
    fn enter(&self, shard: &Shard, sealed: Sealed) -> Entered {
        let mut lanes = self.lock();
        match lanes.get_mut(shard) {
            Some(lane) => {
                let (answer, receiver) = oneshot::channel();
                lane.push_back(Waiting { sealed, answer });
                Entered::Waits(receiver)
            }
            None => {
                lanes.insert(shard.clone(), VecDeque::new());
                Entered::Goes(sealed)
            }
        }
    }

    /// Leaves a lane in which nobody waits.
    fn is_left(&self, shard: &Shard) -> bool {
        let mut lanes = self.lock();
        let empty = lanes.get(shard).is_none_or(VecDeque::is_empty);
        if empty {
            lanes.remove(shard);
        }
        empty
    }

    /// Those who go next; leaves the lane where nobody waits.
    fn next(&self, shard: &Shard) -> Option<Vec<Waiting>> {
        if self.is_left(shard) {
            return None;
        }
        let mut lanes = self.lock();
        let lane = lanes.get_mut(shard)?;
        let fits = batch_of(lane.iter().map(|waiting| waiting.sealed.bytes()));
        Some(lane.drain(..fits).collect())
    }

    /// Who waits there is told that there will be no answer.
    fn close(&self, shard: &Shard) {
        self.lock().remove(shard);
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> MutexGuard<'_, HashMap<Shard, VecDeque<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
