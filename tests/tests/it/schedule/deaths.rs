//! Who is declared dead, what becomes of what it held, and what it does when it was not dead.

use std::mem;

use chrono::Utc;
use rand::{Rng, seq::IndexedRandom};
use umbel_broker::{
    BrokerError, Client,
    liveness::{Cause, Heartbeat},
    shard::Recovered,
};

use super::{
    driver::{Corpse, Driver},
    steps::complete,
    worker::Life,
};

/// One act in so many is a zombie's last.
const ZOMBIE_ACTS: u32 = 2;

/// A batch of recovery takes 64; more rounds than this are none that ends.
const ROUNDS_MAX: usize = 50;

impl Driver {
    /// Declares one dead that is: killed, or frozen for long enough.
    pub async fn declare_somebody(&mut self) {
        let frozen = self.workers.iter().filter(|worker| worker.life == Life::Frozen);
        let frozen = frozen.map(|w| Corpse { id: w.id.clone(), observed: w.observed() });
        let silent: Vec<Corpse> = self.corpses.iter().cloned().chain(frozen).collect();
        let Some(Corpse { id, observed }) = silent.choose(&mut self.rng).cloned() else { return };
        self.corpses.retain(|corpse| corpse.id != id);
        for worker in &mut self.workers {
            if worker.id == id {
                worker.life = Life::Presumed;
            }
        }
        self.declare(&id, &observed).await;
        // Otherwise it is left to whoever looks at all the dead.
        if self.rng.random() {
            self.recover(&id).await;
        }
    }

    /// Two declare it at once, and one of them has; who saw another beat has not.
    pub async fn declare(&mut self, id: &str, observed: &str) {
        self.tell(format!("{id} is declared dead"));
        let [one, other] = &self.reapers;
        assert!(!declared(one, id, "0").await.unwrap(), "by a beat that it does not have");
        let both = tokio::join!(declared(one, id, observed), declared(other, id, observed));
        let both = [both.0.unwrap(), both.1.unwrap()];
        assert_eq!(both.iter().filter(|declared| **declared).count(), 1, "{id}: {both:?}");
        self.dead.push(id.to_owned());
    }

    /// Recovers every dead worker that the queue knows, as reapers do at each beat.
    pub async fn reap_all(&mut self) {
        let consumers = self.reapers[0].consumers(&self.shard).await.unwrap();
        for id in mem::take(&mut self.dead) {
            let may_wake = self.workers.iter().any(|worker| worker.id == id);
            if consumers.contains(&id) {
                self.recover(&id).await;
            } else if !may_wake {
                // As if its tombstone had stood for a day.
                self.reapers[0].forget_worker(&id).await.unwrap();
                continue;
            }
            self.dead.push(id);
        }
    }

    /// What it held is added again, all of it and each once, whoever is at it.
    async fn recover(&mut self, id: &str) {
        let pending = self.server.pending(id).await;
        for entry in self.model.held_by(id) {
            assert!(
                pending.contains(entry),
                "{id} holds {entry:?}, and the server does not know it"
            );
        }
        let added = self.recover_all(id).await;
        assert_eq!(added, pending.len() as u64, "added again of {id}");
        self.model.recovered(id);
    }

    async fn recover_all(&mut self, id: &str) -> u64 {
        let (charged, at_once) = (self.rng.random_ratio(1, 4), self.rng.random_range(1..=2));
        self.tell(format!("{id} is recovered by {at_once}"));
        let mut added = 0;
        for _ in 0..ROUNDS_MAX {
            let [one, other] = &self.reapers;
            let done = match at_once {
                1 => vec![one.recover(&self.shard, id, charged).await],
                _ => {
                    let both = tokio::join!(
                        one.recover(&self.shard, id, charged),
                        other.recover(&self.shard, id, charged)
                    );
                    vec![both.0, both.1]
                }
            };
            let done: Result<Vec<Recovered>, BrokerError> = done.into_iter().collect();
            let done = done.unwrap();
            assert!(done.iter().all(|recovered| recovered.gone == 0), "{id}: {done:?}");
            added += done.iter().map(|recovered| recovered.added).sum::<u64>();
            if !done.iter().any(|recovered| recovered.more) {
                assert!(self.server.pending(id).await.is_empty());
                self.figures.recovered += added;
                return added;
            }
        }
        panic!("the recovery of {id} does not end")
    }

    /// It has been declared dead and goes on as if nothing had been, until it learns of it.
    pub async fn act_as_zombie(&mut self, at: usize) {
        let (act, is_last) = (self.rng.random_range(0..5), self.rng.random_ratio(1, ZOMBIE_ACTS));
        self.mend(at).await;
        let zombie = &mut self.workers[at];
        match act {
            0 => zombie.start_all(&self.model).await,
            1 => {
                // It makes its consumer again, and what it gets is its own until it is recovered.
                zombie.fetch(4, &mut self.model).await;
            }
            2 => self.complete_all(at).await,
            _ => self.race(at).await,
        }
        if is_last {
            let zombie = self.workers.swap_remove(at);
            let answer = zombie.client.heartbeat(&zombie.id, "{}").await.unwrap();
            assert_eq!(answer, Heartbeat::Fenced);
        }
    }

    /// A zombie settles what it holds while it is recovered: each task goes one way or the other.
    async fn race(&mut self, at: usize) {
        let zombie = &mut self.workers[at];
        let hands = mem::take(&mut zombie.hands);
        let (fresh, old): (Vec<_>, _) =
            hands.into_iter().partition(|hand| self.model.is_fresh(&hand.note));
        zombie.hands = old;
        let id = zombie.id.clone();
        let mut batch = Vec::new();
        for hand in fresh {
            let verdict = complete(&id, &hand.note);
            batch.push((hand, verdict));
        }
        let (count, held) = (batch.len() as u64, self.server.pending(&id).await.len() as u64);
        zombie.send(batch).await;
        let mut zombie = self.workers.remove(at);
        let (added, ()) = tokio::join!(self.recover_all(&id), zombie.answered());
        let stale = zombie.newly_stale();
        self.workers.insert(at, zombie);
        assert_eq!((count - stale) + added, held, "of {id}, settled and added again");
        self.model.completed_in_races += count - stale;
        self.model.recovered(&id);
        self.figures.stale += stale;
        self.figures.races += u64::from(count > 0);
    }
}

async fn declared(client: &Client, id: &str, observed: &str) -> Result<bool, BrokerError> {
    client.declare_dead(id, observed, &Cause::Silent, Utc::now()).await
}
