//! The protocol as a pure function: `step` takes a command and says what is answered and what
//! stands afterwards. No Redis, no clock, no chance.

use super::{
    hands::{Delivery, Hands},
    server::Server,
    words::{Answer, Command, Entry, Stamp, Worker},
};

/// One shard of a queue, and all that its workers know.
#[derive(Debug, Clone)]
pub struct State {
    pub server: Server,
    pub workers: [Hands; 3],
    /// How many tasks were accepted: the number of the next one.
    pub tasks: usize,
    /// How many generations of groups were made.
    pub generations: usize,
    /// How often a server was started.
    pub runs: usize,
    /// The enqueuing process has entered the queue in the list of queues.
    pub listed: bool,
    /// What a replica has of the server.
    pub replica: Option<Box<Server>>,
    /// How many commands there were.
    pub step: usize,
    /// The last fetch took in what had been delivered before.
    pub adopted: bool,
}

impl State {
    /// `hides_run`: on a server that refuses INFO.
    pub fn new(hides_run: bool) -> Self {
        Self {
            server: Server::new(hides_run),
            workers: Default::default(),
            tasks: 0,
            generations: 0,
            runs: 1,
            listed: false,
            replica: None,
            step: 0,
            adopted: false,
        }
    }

    pub fn hands(&self, worker: Worker) -> &Hands {
        &self.workers[worker as usize]
    }

    pub fn hands_mut(&mut self, worker: Worker) -> &mut Hands {
        &mut self.workers[worker as usize]
    }

    /// The only way in. The caller has asked [`allows`](Self::allows).
    pub fn step(&mut self, command: &Command) -> Answer {
        let now = Stamp { later_ms: 0, step: self.step };
        self.step += 1;
        self.adopted = false;
        match command {
            Command::Enqueue(calls) => {
                self.server.listed |= !self.listed;
                self.listed = true;
                let entries = calls.iter().map(|call| {
                    let entry = self.server.enqueue(*call, self.tasks, now.step);
                    self.tasks += usize::from(matches!(entry, Entry::Accepted(_)));
                    entry
                });
                Answer::Enqueued(entries.collect())
            }
            Command::Fetch { worker, free, anew } => self.fetch(*worker, *free, *anew),
            Command::Twice { worker } => self.twice(*worker),
            Command::Start { worker, picks } => self.start(*worker, picks, now),
            Command::Settle { worker, ends } => self.settle(*worker, ends, now),
            Command::Beat { worker } => self.server.beat(*worker),
            Command::Declare { worker, observed } => {
                let observed = self.server.observed(*worker, *observed);
                self.server.declare(*worker, &observed, now)
            }
            Command::SignOff { worker } => {
                self.server.sign_off(*worker, now);
                Answer::Done
            }
            Command::BootEnded { boot } => self.server.boot_ended(*boot, now),
            Command::Forget { worker } => {
                self.server.beats.remove(worker);
                self.server.informed.remove(worker);
                Answer::Done
            }
            Command::Recover { worker, charged } => self.server.recover(*worker, *charged),
            Command::Tick(clock) => self.server.tick(*clock),
            Command::Unpark(name) => self.server.unpark(*name),
            Command::Cancel { task } => self.server.cancel(*task, now),
            Command::Progress { worker, pick } => {
                let delivery = self.hands(*worker).hand[*pick].clone();
                self.server.progress(*worker, &delivery)
            }
            Command::Look => self.server.stands(),
            Command::Cap(cap) => {
                self.server.cap = *cap;
                Answer::Done
            }
            Command::Pause => {
                self.server.listed |= !self.listed;
                self.listed = true;
                let changed = self.server.paused.is_none();
                self.server.paused.get_or_insert(now);
                Answer::Changed(changed)
            }
            Command::Resume => Answer::Changed(self.server.paused.take().is_some()),
            Command::Redrive(letter) => self.server.redrive(*letter),
            Command::RedriveAll(name) => self.server.redrive_all(*name),
            Command::DeleteLetter(letter) => {
                Answer::Changed(self.server.dead.letters.remove(letter).is_some())
            }
            Command::DeleteLetters(name) => self.server.delete_letters(*name),
            Command::Restart => {
                self.starts_again();
                Answer::Done
            }
            Command::Replicate => {
                self.replica = Some(Box::new(self.server.clone()));
                Answer::Done
            }
            Command::FailOver => {
                self.server = self.replica.as_deref().cloned().unwrap_or_default();
                self.starts_again();
                Answer::Done
            }
            fault => {
                self.server.suffer(fault);
                Answer::Done
            }
        }
    }

    fn starts_again(&mut self) {
        self.server.run = self.runs;
        self.runs += 1;
        for hands in &mut self.workers {
            if let Some(link) = hands.reader.as_mut().and_then(|reader| reader.link.as_mut()) {
                link.broken = true;
            }
        }
    }

    /// Whether a command means something here, and one thing only.
    pub fn allows(&self, command: &Command) -> bool {
        let in_hand = |worker: &Worker, picks: &mut dyn Iterator<Item = usize>| {
            let picks: Vec<usize> = picks.collect();
            let distinct: std::collections::BTreeSet<usize> = picks.iter().copied().collect();
            let known = distinct.last().is_some_and(|last| *last < self.hands(*worker).hand.len());
            known && distinct.len() == picks.len()
        };
        match command {
            Command::Fetch { worker, free, anew } => self.allows_fetch(*worker, *free, *anew),
            Command::Twice { worker } => {
                let has_body = |delivery: &Delivery| self.server.knows(*worker, delivery);
                self.hands(*worker).hand.iter().any(has_body)
            }
            Command::Start { worker, picks } => in_hand(worker, &mut picks.iter().copied()),
            Command::Settle { worker, ends } => {
                in_hand(worker, &mut ends.iter().map(|end| end.pick))
            }
            Command::Cancel { task } => *task < self.tasks,
            Command::Progress { worker, pick } => in_hand(worker, &mut std::iter::once(*pick)),
            Command::Ghost { stream, .. } => self.server.ready(*stream).group.is_some(),
            Command::LoseEntry { stream, entry } => {
                self.server.ready(*stream).entries.contains_key(entry)
            }
            Command::LoseWaiting { task } => self.server.waiting.contains_key(task),
            Command::FailOver => self.replica.is_some(),
            _ => true,
        }
    }

    /// A worker compares its memory with Redis when it connects, and now and then by its clock.
    /// There is no clock here, so what it would find must be nothing where it reads on. And which
    /// of two entries of one id in two streams it takes in first is chance, so room is for both.
    fn allows_fetch(&self, worker: Worker, free: usize, anew: bool) -> bool {
        let ghosts = self.ghosts(worker);
        let reads_on =
            !anew
                && self.hands(worker).reader.as_ref().is_some_and(|reader| {
                    !reader.owed && reader.link.is_some_and(|link| !link.broken)
                });
        if reads_on {
            return ghosts.is_empty();
        }
        let ambiguous = ghosts.windows(2).any(|pair| pair[0].0 == pair[1].0);
        ghosts.len() <= free || !ambiguous
    }
}
