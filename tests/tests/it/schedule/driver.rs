//! A run: the storm, in which chance says what happens, the calm after it, and the judgement.

use std::{collections::VecDeque, mem, sync::Arc};

use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use umbel_broker::{Client, Scripts, keys::Shard, liveness::Heartbeat};
use umbel_proto::TaskId;
use umbel_tests::eventually::eventually;

use super::{
    Figures,
    model::Model,
    server::{Left, Record, Server},
    steps::{STEPS, complete, completion},
    worker::{Life, Worker, open},
};
use crate::wire::Wire;

/// Workers that are not dead, frozen ones among them.
const WORKERS: usize = 8;

/// How many of the last steps are told when a run fails.
const TOLD: usize = 60;

/// A storm of more steps a task than this does not come to its end.
const STEPS_PER_TASK: usize = 20;

/// How often the keys are judged: every so many steps.
const LOOK_EVERY: u64 = 200;

/// How often the server is restarted in a run.
const RESTARTS: usize = 3;

/// A calm of more rounds than this does not come to its end.
const ROUNDS_MAX: usize = 2_000;

/// A worker that is no more, and has not been declared dead.
#[derive(Debug, Clone)]
pub struct Corpse {
    pub id: String,
    pub observed: String,
}

pub struct Driver {
    pub rng: StdRng,
    scripts: Option<Arc<Scripts>>,
    pub shard: Shard,
    pub server: Server,
    /// Two that look after the dead, and may do so at once.
    pub reapers: [Client; 2],
    pub enqueuing: (Client, Wire),
    pub workers: Vec<Worker>,
    pub corpses: Vec<Corpse>,
    /// Declared dead, as the others know.
    pub dead: Vec<String>,
    born: usize,
    /// How many are to be enqueued in all.
    pub tasks: usize,
    pub accepted: Vec<TaskId>,
    pub model: Model,
    pub figures: Figures,
    told: VecDeque<String>,
}

impl Driver {
    /// `scripts`: others than the shipped ones, for all that takes part.
    pub async fn start(seed: u64, tasks: usize, scripts: Option<Arc<Scripts>>) -> Self {
        let shard = Shard::first(&"default".parse().unwrap());
        let server = Server::start(shard.clone()).await;
        let client = |url| open(url, "test", scripts.as_ref());
        let reapers = [client(server.url()), client(server.url())];
        let wire = Wire::to(server.port()).await;
        Self {
            rng: StdRng::seed_from_u64(seed),
            enqueuing: (client(wire.url()), wire),
            scripts,
            shard,
            server,
            reapers,
            workers: Vec::new(),
            corpses: Vec::new(),
            dead: Vec::new(),
            born: 0,
            tasks,
            accepted: Vec::new(),
            model: Model::default(),
            figures: Figures::default(),
            told: VecDeque::new(),
        }
    }

    /// Until all is enqueued and nearly all has ended.
    pub async fn storm(&mut self) {
        let enough = self.tasks as u64 * 19 / 20;
        while self.accepted.len() < self.tasks || self.model.ended() < enough {
            assert!(self.figures.steps < (self.tasks * STEPS_PER_TASK) as u64, "no end of it");
            while self.workers.iter().filter(|worker| worker.is_counted()).count() < WORKERS {
                self.born().await;
            }
            // At even distances, by how much has been enqueued.
            let due = self.accepted.len() * (RESTARTS + 1) / self.tasks;
            if due.min(RESTARTS) > self.figures.restarts as usize {
                self.restart().await;
            }
            let drawn = STEPS.choose_weighted(&mut self.rng, |(_, weight)| *weight);
            let (step, _) = *drawn.unwrap();
            self.take(step).await;
            self.figures.steps += 1;
            if self.figures.steps.is_multiple_of(LOOK_EVERY) {
                self.server.judge_keys().await;
            }
        }
    }

    /// Whoever does not move is dead now; the others finish, and then the sleepers wake up.
    pub async fn calm(&mut self) {
        self.tell("the calm".to_owned());
        for worker in &mut self.workers {
            if worker.life == Life::Frozen {
                worker.life = Life::Presumed;
                self.corpses.push(Corpse { id: worker.id.clone(), observed: worker.observed() });
            }
        }
        while let Some(corpse) = self.corpses.pop() {
            self.declare(&corpse.id, &corpse.observed).await;
        }
        self.finish().await;
        // By now all that they hold has ended in other hands.
        for at in 0..self.workers.len() {
            if self.workers[at].is_counted() {
                continue;
            }
            self.workers[at].life = Life::Zombie;
            self.mend(at).await;
            self.complete_all(at).await;
            let zombie = &mut self.workers[at];
            assert_eq!(zombie.client.heartbeat(&zombie.id, "{}").await.unwrap(), Heartbeat::Fenced);
            assert_eq!(zombie.fetch(1, &mut self.model).await, 0, "there is nothing to be had");
        }
        self.finish().await;
        self.server.judge_keys().await;
    }

    /// The living take all that there is, until nothing is left and no dead worker is known to
    /// the queue.
    async fn finish(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.reap_all().await;
            for at in 0..self.workers.len() {
                if self.workers[at].life != Life::Alive {
                    continue;
                }
                self.mend(at).await;
                self.workers[at].fetch(64, &mut self.model).await;
                self.complete_all(at).await;
            }
            self.tick(1).await;
            self.unpark(1).await;
            let consumers = self.reapers[0].consumers(&self.shard).await.unwrap();
            let nothing = Left { ready: 0, delayed: 0, parked: 0 };
            if self.server.left().await == nothing
                && consumers.iter().all(|consumer| !self.dead.contains(consumer))
            {
                return;
            }
        }
        panic!("it is not drained: {:?}", self.server.left().await);
    }

    pub async fn complete_all(&mut self, at: usize) {
        let id = self.workers[at].id.clone();
        let mut batch = Vec::new();
        for hand in mem::take(&mut self.workers[at].hands) {
            let verdict = complete(&id, &hand.note);
            batch.push((hand, verdict));
        }
        self.settle(at, batch).await;
    }

    /// By the answers that the workers got, by the records in Redis, and by what Redis wrote down.
    pub async fn judge(mut self) -> Figures {
        assert_eq!(self.accepted.len(), self.tasks);
        assert_eq!(self.model.ended(), self.tasks as u64, "ended, by the answers");
        let living: Vec<_> = self.workers.iter().filter(|worker| worker.is_counted()).collect();
        let consumers = self.reapers[0].consumers(&self.shard).await.unwrap();
        assert!(consumers.iter().all(|name| living.iter().any(|worker| worker.id == *name)));
        for worker in &self.workers {
            assert!(worker.hands.is_empty() && self.server.pending(&worker.id).await.is_empty());
        }
        let records = self.server.records(&self.accepted).await;
        let in_state = |state| records.iter().filter(|record| record.state == state).count() as u64;
        let Model { completed, completed_in_races, buried, discarded, .. } = &self.model;
        assert_eq!(in_state("succeeded"), completed.len() as u64 + completed_in_races);
        assert_eq!((in_state("failed"), in_state("cancelled")), (*buried, *discarded));
        for (id, record) in self.accepted.iter().zip(&records) {
            if let Some((worker, entry)) = completed.get(id.as_str()) {
                let result = Some(completion(worker, entry));
                let expected =
                    Record { state: "succeeded".to_owned(), worker: worker.clone(), result };
                assert_eq!(*record, expected, "{id}");
            }
        }

        let ledger = self.server.ledger();
        assert_eq!(ledger.wrongs, []);
        assert_eq!(ledger.stories.len(), self.tasks, "tasks that Redis has ever known");
        for id in &self.accepted {
            let ends = &ledger.stories[id.as_str()].ends;
            assert_eq!(ends.len(), 1, "{id} ended {ends:?}");
        }
        assert_eq!(ledger.dead.len() as u64, *buried);
        Figures {
            deliveries: ledger.stories.values().map(|story| story.handed_out.len() as u64).sum(),
            completed: in_state("succeeded"),
            buried: *buried,
            discarded: *discarded,
            ..self.figures
        }
    }

    /// A new worker, in the place of one that is dead.
    async fn born(&mut self) {
        self.born += 1;
        let id = format!("w{}", self.born);
        let port = self.server.port();
        self.workers.push(Worker::start(id, self.shard.clone(), port, self.scripts.as_ref()).await);
    }

    async fn restart(&mut self) {
        self.tell("restart".to_owned());
        self.server.restart().await;
        self.model.restarted();
        self.figures.restarts += 1;
        let clients = self.reapers.iter().chain([&self.enqueuing.0]);
        for client in clients {
            eventually("the server is there again", async || client.ping().await.ok()).await;
        }
        for worker in &self.workers {
            worker.reconnect().await;
        }
    }

    /// Remembers a step, for when the run fails.
    pub fn tell(&mut self, step: String) {
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        self.told.push_back(format!("{} {step}", self.figures.steps));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("schedule: the last steps: {:#?}", self.told);
        }
    }
}
