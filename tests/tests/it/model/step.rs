//! What a step does.

use super::{
    action::{Action, Batch, Protocol},
    rules::CRASH_LIMIT,
    state::{
        Beat, Counters, Data, Entry, Epoch, Id, Phase, Reaper, Request, Run, Settle, State, TASKS,
        Verdict, Worker,
    },
    tally::{Event, Invariant, Log},
};

impl Protocol {
    pub fn step(&self, state: &mut State, action: Action, log: &mut Log) {
        match action {
            Action::Enqueue => {
                state.data.add(state.accepted, Counters { attempt: 1, crashes: 0 });
                state.accepted += 1;
            }
            Action::Promote { task } => state.data.promote(task),
            Action::Read(at) => self.read(state, at, log),
            Action::Arrive(at) => self.arrive(state, at),
            Action::LoseReply(at) => {
                state.faults.lost_fetches -= 1;
                state.faults.happened(1);
                let worker = &mut state.workers[at];
                worker.runs.retain(|run| run.phase != Phase::Arriving);
                worker.link = None;
            }
            Action::Reconcile(at) => self.reconcile(state, at, log),
            Action::Start(at, n) => self.start(state, at, n, log),
            Action::Settle { worker, batch, failed, unanswered } => {
                self.settle(state, worker, batch, failed, unanswered, log);
            }
            Action::Revalidate(at, n) => self.revalidate(state, at, n, log),
            Action::StrayArrives => {
                if let Some(request) = state.stray.take() {
                    self.carry_out(state, &request, log);
                }
            }
            Action::Crash(at) => {
                state.faults.crashes -= 1;
                state.faults.happened(1);
                state.workers[at].runs.clear();
                begin_anew(&mut state.workers[at]);
            }
            Action::Beat(at) => self.beat(state, at, log),
            Action::Suspect(id) => self.suspect(state, id),
            Action::Declare => self.declare(state, log),
            Action::Look(dead) => {
                log.event(Event::RecoveredAgain);
                state.reaper = Reaper::Recovers { dead, unmarked: false };
            }
            Action::Recover => self.recover(state, log),
            Action::Cut => {
                state.faults.failovers -= 1;
                state.faults.happened(1);
                state.replica = Some((state.data.clone(), 0));
            }
            Action::Failover => {
                if let Some((data, _)) = state.replica.take() {
                    // Connections live on, as behind a proxy, or are made anew before the next
                    // read: Reconcile is that, too.
                    state.run += 1;
                    lose(state, data, log);
                }
            }
            Action::Flush => {
                state.faults.flushes -= 1;
                state.faults.happened(1);
                lose(state, Data::empty(), log);
            }
        }
    }

    fn read(&self, state: &mut State, at: usize, log: &mut Log) {
        let id = state.id(at);
        let Some(link) = state.workers[at].link else { return };
        if state.data.generation == 0 {
            // NOGROUP.
            state.workers[at].link = None;
            return;
        }
        let Some(entry) = state.data.fetch(id) else { return };
        let worker = &mut state.workers[at];
        worker.read_late = worker.stale || state.data.beat(id) == Beat::Dead;
        take(worker, &entry, link, Phase::Arriving, log);
        // A reply to which nothing can happen on its way arrives at once.
        if state.faults.lost_fetches == 0 && self.rules.tagged_before_read {
            self.arrive(state, at);
        }
    }

    fn arrive(&self, state: &mut State, at: usize) {
        let now = state.epoch();
        let worker = &mut state.workers[at];
        for run in worker.runs.iter_mut().filter(|run| run.phase == Phase::Arriving) {
            run.phase = Phase::Held;
            if !self.rules.tagged_before_read {
                run.tag = now;
            }
            worker.known.insert(run.known());
        }
    }

    /// Connects where it must, which makes the groups, then takes in hand one ghost.
    fn reconcile(&self, state: &mut State, at: usize, log: &mut Log) {
        let id = state.id(at);
        if state.workers[at].link.is_none() || state.data.generation == 0 {
            state.data.make_groups(&mut state.next_generation);
            // A worker beats before its first read.
            if state.data.beat(id) == Beat::Missing && !state.workers[at].stale {
                *state.data.beat_mut(id) = Beat::Count(0);
            }
        }
        let tag = state.epoch();
        let ghost = self.ghost(state, at);
        let worker = &mut state.workers[at];
        worker.link = Some(tag);
        if let Some(entry) = ghost {
            log.event(Event::GhostAdopted);
            worker.known.insert(entry.known());
            take(worker, &entry, tag, Phase::Held, log);
        }
    }

    fn start(&self, state: &mut State, at: usize, n: usize, log: &mut Log) {
        let run = state.workers[at].runs[n];
        let caller = Id { worker: at as u8, n: run.n };
        if !self.asks_to_start(&run) || state.data.start(&run, caller, &self.rules) {
            state.workers[at].runs[n].phase = Phase::Running;
        } else {
            log.event(Event::NotStarted);
            forget(&mut state.workers[at], n);
        }
    }

    fn settle(
        &self,
        state: &mut State,
        at: usize,
        batch: Batch,
        failed: u8,
        unanswered: bool,
        log: &mut Log,
    ) {
        let Some(places) = self.batch(state, at, batch) else { return };
        let runs = &mut state.workers[at].runs;
        let tag = runs[places[0]].tag;
        let settles = places.iter().enumerate().map(|(n, place)| {
            let Run { entry, task, counters, .. } = runs[*place];
            let verdict = self.decide(&runs[*place], failed & (1 << n) != 0);
            Settle { entry, task, counters, verdict }
        });
        let request = Request { tag, settles: settles.collect() };
        let failures = failed.count_ones() as u8;
        state.faults.failures -= failures;
        state.faults.happened(failures);
        if unanswered {
            state.faults.lost_settles -= 1;
            state.faults.happened(1);
            for (place, settle) in places.into_iter().zip(&request.settles) {
                runs[place].phase = Phase::Sent(settle.verdict);
            }
            state.stray = Some(request);
        } else {
            self.carry_out(state, &request, log);
            for place in places.into_iter().rev() {
                forget(&mut state.workers[at], place);
            }
        }
    }

    /// `decide` of the workers, and what was decided stays so however often it is sent.
    fn decide(&self, run: &Run, failed: bool) -> Verdict {
        match run.phase {
            Phase::Sent(verdict) => verdict,
            _ if run.counters.crashes >= CRASH_LIMIT => Verdict::Bury,
            _ if !failed => Verdict::Complete,
            _ if run.counters.attempt < self.bounds.max_attempts => Verdict::Retry,
            _ => Verdict::Bury,
        }
    }

    /// A settle reaches the server. Whoever waits for the answer has seen to the epoch before:
    /// between an EPOCH and the answer to `held` nothing of interest can happen.
    fn carry_out(&self, state: &mut State, request: &Request, log: &mut Log) {
        let before = state.data.done;
        state.data.settle(state.run, request, &self.rules, log);
        let again = |task: &usize| state.forgotten[*task] && state.data.done[*task] > before[*task];
        (0..TASKS).filter(again).for_each(|_| log.event(Event::CompletedAgain));
    }

    /// What is pending for this worker as the same delivery is kept and tagged anew.
    fn revalidate(&self, state: &mut State, at: usize, n: usize, log: &mut Log) {
        let now = state.epoch();
        let run = state.workers[at].runs[n];
        let owner = Some(Id { worker: at as u8, n: run.n });
        let there = state.data.entry(run.entry);
        let rules = &self.rules;
        let is_mine = there.is_some_and(|entry| {
            let same = rules.same_delivery(entry, run.task, run.counters.attempt);
            entry.owner == owner && (same || !rules.revalidated)
        });
        if is_mine {
            log.event(Event::Kept);
            state.workers[at].runs[n].tag = now;
            return;
        }
        log.event(Event::Dropped);
        if there.is_some_and(|entry| entry.task != run.task) {
            log.event(Event::IdReused);
        }
        forget(&mut state.workers[at], n);
    }

    fn beat(&self, state: &mut State, at: usize, log: &mut Log) {
        let id = state.id(at);
        let lives = state.data.heartbeat(id, &self.rules, log);
        let worker = &mut state.workers[at];
        if lives {
            worker.stale = false;
            worker.read_late = false;
            return;
        }
        log.event(Event::Fenced);
        // What was not started is not; what runs ends as it may, and the gate judges it.
        worker.runs.retain(|run| !matches!(run.phase, Phase::Arriving | Phase::Held));
        begin_anew(worker);
    }

    fn suspect(&self, state: &mut State, id: Id) {
        let worker = &mut state.workers[id.worker as usize];
        if worker.n == id.n && !worker.stale {
            worker.stale = true;
            state.faults.silences -= 1;
            state.faults.happened(1);
        }
        state.reaper = if self.rules.declared_first {
            Reaper::Suspects(id, state.data.beat(id))
        } else {
            Reaper::Recovers { dead: id, unmarked: false }
        };
    }

    fn declare(&self, state: &mut State, log: &mut Log) {
        let Reaper::Suspects(id, observed) = state.reaper else { return };
        state.reaper = Reaper::Idle;
        if !state.data.declare(id, observed) {
            log.event(Event::NotDeclared);
        } else if state.data.holds(id) {
            state.reaper = Reaper::Recovers { dead: id, unmarked: false };
        }
    }

    fn recover(&self, state: &mut State, log: &mut Log) {
        let Reaper::Recovers { dead, unmarked } = state.reaper else { return };
        state.reaper = Reaper::Idle;
        if unmarked {
            log.event(Event::RecoveredUnmarked);
        } else if state.data.beat(dead) != Beat::Dead {
            log.breaks(Invariant::Marked);
        }
        let heir = state.id(1 - dead.worker as usize);
        state.data.recover(dead, heir, &self.rules, log);
    }
}

/// Goes on, or is started again, under the next id, knowing nothing and with no connection.
fn begin_anew(worker: &mut Worker) {
    worker.n += 1;
    worker.stale = false;
    worker.read_late = false;
    worker.link = None;
    worker.known.clear();
}

fn take(worker: &mut Worker, entry: &Entry, tag: Epoch, phase: Phase, log: &mut Log) {
    let Entry { id, task, counters, .. } = *entry;
    let run = Run { n: worker.n, entry: id, task, counters, tag, phase };
    let same = |held: &Run| (held.n, held.entry, held.task) == (run.n, run.entry, run.task);
    if worker.runs.iter().any(same) {
        log.event(Event::InHandTwice);
    }
    worker.runs.push(run);
}

/// A run is over for its worker.
fn forget(worker: &mut Worker, n: usize) {
    let run = worker.runs.remove(n);
    if run.n == worker.n {
        worker.known.remove(&run.known());
    }
}

/// The data is what it was once: what it does not know of is lost.
fn lose(state: &mut State, data: Data, log: &mut Log) {
    let before = std::mem::replace(&mut state.data, data);
    for task in 0..state.accepted as usize {
        if state.data.places(task) == 0 && !state.lost[task] {
            log.event(Event::Lost);
            state.lost[task] = true;
        }
        state.forgotten[task] |= before.done[task] > 0 && state.data.done[task] == 0;
    }
    if let Reaper::Recovers { dead, unmarked } = &mut state.reaper {
        *unmarked |= before.beat(*dead) == Beat::Dead && state.data.beat(*dead) != Beat::Dead;
    }
}
