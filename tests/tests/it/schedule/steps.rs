//! What can happen, one step each. A step for which nobody is in the right state is none.

use std::time::Duration;

use chrono::Utc;
use rand::{Rng, seq::IndexedRandom};
use umbel_broker::{NewTask, Verdict, When, Why, shard::Tick};
use umbel_proto::{Priority, Task, TaskState};
use umbel_tests::{
    eventually::eventually,
    probe::{Act, Probe},
};

use super::{
    driver::{Corpse, Driver},
    model::{InHand, Note},
    worker::{Life, Refused, Worker},
};
use crate::wire::Half;

/// More tasks than this are not open at once: what is to be harmed must be in hands.
const OPEN_MAX: u64 = 600;

const ENQUEUE_MAX: usize = 48;
const FETCH_MAX: usize = 18;
const HANDS_MAX: usize = 48;

/// All delays are shorter than a tick looks ahead, and that is shorter than the skew at which
/// nothing is moved: so chance alone tells when a delay ends.
const DELAY_MAX_MS: u64 = 3_800;
pub const LOOK_AHEAD: Duration = Duration::from_millis(3_900);

/// For so many steps at least a line is down: by then the settler has asked again, or will at once.
const DOWN_MIN: u64 = 25;

/// Nothing that is parked is given up.
const PARKED_MAX: Duration = Duration::from_hours(24);

/// A task that was charged with so many deaths is buried by who gets it next.
const CRASH_LIMIT: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Enqueue,
    EnqueueInVain,
    Fetch,
    FetchInVain,
    Start,
    Settle,
    SettleInVain,
    Mend,
    Beat,
    Tick,
    Unpark,
    Kill,
    SignOff,
    Freeze,
    Thaw,
    Declare,
    Reap,
    Wake,
    ActAsZombie,
}

/// How often what happens, each in comparison with the others.
pub const STEPS: [(Step, u32); 19] = [
    (Step::Enqueue, 45),
    (Step::EnqueueInVain, 6),
    (Step::Fetch, 250),
    (Step::FetchInVain, 30),
    (Step::Start, 40),
    (Step::Settle, 240),
    (Step::SettleInVain, 70),
    (Step::Mend, 60),
    (Step::Beat, 30),
    (Step::Tick, 50),
    (Step::Unpark, 20),
    (Step::Kill, 50),
    (Step::SignOff, 5),
    (Step::Freeze, 55),
    (Step::Thaw, 20),
    (Step::Declare, 80),
    (Step::Reap, 40),
    (Step::Wake, 70),
    (Step::ActAsZombie, 70),
];

impl Driver {
    pub async fn take(&mut self, step: Step) {
        let alive = |worker: &Worker| worker.life == Life::Alive;
        let is_idle = |worker: &Worker| alive(worker) && worker.is_idle();
        let has_room = |worker: &Worker| alive(worker) && worker.hands.len() < HANDS_MAX;
        let has_hands = |worker: &Worker| is_idle(worker) && !worker.hands.is_empty();
        match step {
            Step::Enqueue => self.enqueue(false).await,
            Step::EnqueueInVain => self.enqueue(true).await,
            Step::Tick => {
                let at_once = self.rng.random_range(1..=2);
                self.tick(at_once).await;
            }
            Step::Unpark => {
                let at_once = self.rng.random_range(1..=2);
                self.unpark(at_once).await;
            }
            Step::Declare => self.declare_somebody().await,
            Step::Reap => self.reap_all().await,
            Step::Fetch => {
                let free = self.rng.random_range(1..=FETCH_MAX);
                if let Some(at) = self.somebody("fetches", has_room) {
                    self.workers[at].fetch(free, &mut self.model).await;
                }
            }
            Step::FetchInVain => {
                let free = self.rng.random_range(1..=FETCH_MAX);
                if let Some(at) = self.somebody("fetches in vain", has_room) {
                    let lost = self.workers[at].fetch_in_vain(free, &mut self.model).await;
                    self.figures.reads_lost += u64::from(lost);
                }
            }
            Step::Start => {
                if let Some(at) = self.somebody("starts", has_hands) {
                    self.workers[at].start_all(&self.model).await;
                }
            }
            Step::Settle => {
                if let Some(at) = self.somebody("settles", has_hands) {
                    let batch = self.batch(at);
                    self.settle(at, batch).await;
                }
            }
            Step::SettleInVain => {
                let lost = if self.rng.random() { Half::Request } else { Half::Answer };
                if let Some(at) = self.somebody("settles in vain", has_hands) {
                    let batch = self.batch(at);
                    self.settle_in_vain(at, batch, lost).await;
                }
            }
            Step::Mend => {
                let step = self.figures.steps;
                let is_due = |worker: &Worker| alive(worker) && worker.lost_by(step) >= DOWN_MIN;
                if let Some(at) = self.somebody("mends", is_due) {
                    self.mend(at).await;
                }
            }
            Step::Beat => {
                if let Some(at) = self.somebody("beats", is_idle) {
                    self.workers[at].beat().await;
                }
            }
            Step::Kill => {
                if let Some(at) = self.somebody("is killed", alive) {
                    let Worker { id, .. } = &self.workers[at];
                    let observed = self.workers[at].observed();
                    self.corpses.push(Corpse { id: id.clone(), observed });
                    drop(self.workers.swap_remove(at));
                    self.figures.kills += 1;
                }
            }
            Step::SignOff => {
                if let Some(at) = self.somebody("signs off with what it holds", is_idle) {
                    let worker = self.workers.swap_remove(at);
                    worker.client.sign_off(&worker.id, Utc::now()).await.unwrap();
                    self.dead.push(worker.id.clone());
                }
            }
            Step::Freeze => {
                if let Some(at) = self.somebody("freezes", alive) {
                    self.workers[at].life = Life::Frozen;
                    self.figures.freezes += 1;
                }
            }
            Step::Thaw => {
                if let Some(at) = self.somebody("thaws", |w| w.life == Life::Frozen) {
                    self.workers[at].life = Life::Alive;
                }
            }
            Step::Wake => {
                if let Some(at) = self.somebody("wakes", |w| w.life == Life::Presumed) {
                    self.workers[at].life = Life::Zombie;
                    self.figures.zombies += 1;
                }
            }
            Step::ActAsZombie => {
                if let Some(at) = self.somebody("acts as a zombie", |w| w.life == Life::Zombie) {
                    self.act_as_zombie(at).await;
                }
            }
        }
    }

    /// Draws a worker in the right state. Draws in any case: what follows does not depend on it.
    fn somebody(&mut self, what: &str, is_right: impl Fn(&Worker) -> bool) -> Option<usize> {
        let right: Vec<usize> =
            (0..self.workers.len()).filter(|at| is_right(&self.workers[*at])).collect();
        let at = *right.choose(&mut self.rng)?;
        self.tell(format!("{} {what}", self.workers[at].id));
        Some(at)
    }

    async fn enqueue(&mut self, in_vain: bool) {
        let count = self.rng.random_range(1..=ENQUEUE_MAX).min(self.tasks - self.accepted.len());
        if count == 0 || self.accepted.len() as u64 > self.model.ended() + OPEN_MAX {
            return;
        }
        let lost = if self.rng.random() { Half::Request } else { Half::Answer };
        let mut batch = Vec::new();
        for n in 0..count {
            let name = format!("n{}", self.accepted.len() + n);
            let mut task = NewTask::of(&Probe::new(&name, Act::Ok)).unwrap();
            task.call.priority = [None, Some(Priority::High), Some(Priority::Low)]
                .choose(&mut self.rng)
                .copied()
                .flatten();
            task.call.max_attempts = Some(self.rng.random_range(1..=5));
            task.call.tracked = self.rng.random();
            let delay = Duration::from_millis(self.rng.random_range(0..DELAY_MAX_MS));
            task.call.when = self.rng.random_bool(0.2).then_some(When::In(delay));
            task.call.idempotency_key = in_vain.then_some(name);
            batch.push(task);
        }
        self.tell(format!("{count} are enqueued, in vain: {in_vain} ({lost:?})"));
        let (client, wire) = &self.enqueuing;
        if in_vain {
            wire.lose(lost, "EVALSHA");
            client.submit_many(&batch).await.unwrap_err();
            assert!(wire.has_lost());
            wire.mend();
            // It connects again at the next call.
            eventually("the line", async || client.ping().await.ok()).await;
            self.figures.enqueues_lost += 1;
        }
        for submitted in client.submit_many(&batch).await.unwrap() {
            let submitted = submitted.unwrap();
            assert_eq!(submitted.existing, in_vain && lost == Half::Answer, "{submitted:?}");
            self.accepted.push(submitted.id);
        }
    }

    /// Moves all that is delayed, by as many as are at it at once.
    pub async fn tick(&mut self, at_once: usize) {
        let delayed = self.server.left().await.delayed as u64;
        let now = Utc::now() + LOOK_AHEAD;
        let mut all_moved = 0;
        loop {
            let [one, other] = &self.reapers;
            let ticks = match at_once {
                1 => vec![one.tick(&self.shard, now).await],
                _ => {
                    let both =
                        tokio::join!(one.tick(&self.shard, now), other.tick(&self.shard, now));
                    vec![both.0, both.1]
                }
            };
            let mut is_full = false;
            for tick in ticks {
                let tick = tick.unwrap();
                let Tick::Moved { moved, gone: 0, .. } = tick else { panic!("{tick:?}") };
                all_moved += moved;
                is_full |= tick.is_full();
            }
            if !is_full {
                break;
            }
        }
        assert_eq!(all_moved, delayed, "each was moved once");
    }

    /// Adds all that is parked, by as many as are at it at once.
    pub async fn unpark(&mut self, at_once: usize) {
        let parked = self.server.left().await.parked as u64;
        let [one, other] = &self.reapers;
        let moved = match at_once {
            1 => one.unpark(&self.shard, Probe::NAME).await.unwrap(),
            _ => {
                let one = one.unpark(&self.shard, Probe::NAME);
                let (one, other) = tokio::join!(one, other.unpark(&self.shard, Probe::NAME));
                one.unwrap() + other.unwrap()
            }
        };
        assert_eq!(moved, parked, "each was added once");
    }

    /// Some of what is in hand, with what becomes of each.
    fn batch(&mut self, at: usize) -> Vec<(InHand, Verdict)> {
        let worker = &mut self.workers[at];
        let count = self.rng.random_range(1..=worker.hands.len());
        let from = self.rng.random_range(0..=worker.hands.len() - count);
        let hands: Vec<InHand> = worker.hands.drain(from..from + count).collect();
        let id = worker.id.clone();
        hands.into_iter().map(|hand| self.judged(&id, hand)).collect()
    }

    fn judged(&mut self, worker: &str, hand: InHand) -> (InHand, Verdict) {
        // Both are drawn in any case, so that the draws to come do not hang on this task.
        let drawn = self.rng.random_range(0..1_000);
        let delay = Duration::from_millis(self.rng.random_range(0..DELAY_MAX_MS));
        let note = &hand.note;
        let bury = |why, error: &str| Verdict::Bury { why, error: error.to_owned() };
        let verdict = match drawn {
            _ if note.crashes >= CRASH_LIMIT => bury(Why::Crash, "too many deaths"),
            0..650 => complete(worker, note),
            650..780 if note.attempt < note.max_attempts => {
                Verdict::Retry { delay, error: "not yet".to_owned() }
            }
            650..780 => bury(Why::Attempts, "not ever"),
            780..800 => Verdict::Park { left: PARKED_MAX, reason: "not known here".to_owned() },
            800..860 => Verdict::Defer { delay, reason: "later".to_owned() },
            860..990 => Verdict::Release,
            990..995 => bury(Why::Fatal, "no"),
            _ => Verdict::Discard { state: TaskState::Cancelled, by: "somebody".to_owned() },
        };
        (hand, verdict)
    }

    pub async fn settle(&mut self, at: usize, batch: Vec<(InHand, Verdict)>) {
        let refused = self.workers[at].settle(batch, &mut self.model).await;
        self.refused(refused);
    }

    async fn settle_in_vain(&mut self, at: usize, batch: Vec<(InHand, Verdict)>, lost: Half) {
        // What is looked at again first is more than one call.
        if !batch.iter().all(|(hand, _)| self.model.is_fresh(&hand.note)) {
            return self.settle(at, batch).await;
        }
        let step = self.figures.steps;
        self.workers[at].settle_in_vain(batch, lost, step, &mut self.model).await;
        self.figures.settles_lost += 1;
    }

    pub async fn mend(&mut self, at: usize) {
        let (count, refused) = self.workers[at].mend(&mut self.model).await;
        self.figures.sent_again += count as u64;
        self.refused(refused);
    }

    fn refused(&mut self, refused: Refused) {
        self.figures.stale += refused.stale;
        self.figures.dropped += refused.dropped;
    }
}

/// The result tells whose completion it is.
pub fn complete(worker: &str, note: &Note) -> Verdict {
    Verdict::Complete { output: completion(worker, &note.entry.1).into_bytes() }
}

pub fn completion(worker: &str, entry: &str) -> String {
    format!("{worker} {entry}")
}
