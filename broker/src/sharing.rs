//! Callers who enqueue at the same time share calls: the first go at once, who comes while they are
//! on their way goes with the next.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    BrokerError, Client, Submitted,
    enqueue::{IN_FLIGHT, batch_of, unanswered},
    keys::Shard,
    new_task::Sealed,
};

type Answer = Result<Submitted, BrokerError>;

/// The calls of one shard that are on their way, and who waits to go with the next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<HashMap<Shard, Lane>>>);

/// Where nobody is on the way, nobody waits: there is no lane.
#[derive(Debug, Default)]
struct Lane {
    on_the_way: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    sealed: Sealed,
    answer: oneshot::Sender<Answer>,
}

enum Entered {
    /// There is room on the way: the caller goes, and hands over when it is back.
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
        if lanes.left(self.shard) {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                let (client, shard) = (self.client.clone(), self.shard.clone());
                let carrier = Carrier { client, shard, has_left: false };
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
    has_left: bool,
}

impl Carrier {
    async fn run(mut self) {
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
        self.has_left = true;
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Where its runtime ends half way.
        if !self.has_left {
            self.client.lanes().close(&self.shard);
        }
    }
}

impl Lanes {
    fn enter(&self, shard: &Shard, sealed: Sealed) -> Entered {
        let mut lanes = self.lock();
        let lane = lanes.entry(shard.clone()).or_default();
        if lane.on_the_way < IN_FLIGHT {
            lane.on_the_way += 1;
            return Entered::Goes(sealed);
        }
        let (answer, receiver) = oneshot::channel();
        lane.waiting.push_back(Waiting { sealed, answer });
        Entered::Waits(receiver)
    }

    /// Ends a call where nobody waits to go with the next; whether it did.
    fn left(&self, shard: &Shard) -> bool {
        leave_unless_awaited(&mut self.lock(), shard).is_none()
    }

    /// Those who go next; ends the call where nobody waits.
    fn next(&self, shard: &Shard) -> Option<Vec<Waiting>> {
        let mut lanes = self.lock();
        let waiting = leave_unless_awaited(&mut lanes, shard)?;
        let fits = batch_of(waiting.iter().map(|waiting| waiting.sealed.bytes()));
        Some(waiting.drain(..fits).collect())
    }

    /// Ends a call whoever waits; where it was the last, they are told that there will be no answer.
    fn close(&self, shard: &Shard) {
        leave(&mut self.lock(), shard);
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> MutexGuard<'_, HashMap<Shard, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who wait to go with the next call; where nobody does, the call has ended.
fn leave_unless_awaited<'a>(
    lanes: &'a mut HashMap<Shard, Lane>,
    shard: &Shard,
) -> Option<&'a mut VecDeque<Waiting>> {
    if lanes.get(shard).is_none_or(|lane| lane.waiting.is_empty()) {
        leave(lanes, shard);
        return None;
    }
    lanes.get_mut(shard).map(|lane| &mut lane.waiting)
}

fn leave(lanes: &mut HashMap<Shard, Lane>, shard: &Shard) {
    let Some(lane) = lanes.get_mut(shard) else { return };
    lane.on_the_way -= 1;
    if lane.on_the_way == 0 {
        lanes.remove(shard);
    }
}
