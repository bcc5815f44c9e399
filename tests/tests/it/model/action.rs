//! Who can do what: every step is one call of a script, one reply that arrives, or one thing that
//! goes wrong.

use stateright::{Model, Property};

use super::{
    check,
    rules::{Bounds, CRASH_LIMIT, Rules},
    state::{Beat, Entry, Id, Phase, Reaper, Run, State, TASKS, WORKERS, Worker},
    tally::{Log, Tally},
};

/// The model: two workers, a reaper, a server and its replica.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub rules: Rules,
    pub bounds: Bounds,
    pub tally: Tally,
}

/// Which of its runs a worker settles in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    One(usize),
    Both,
}

/// A step. A number without a name is a worker, a second one which of its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Enqueue,
    Promote {
        task: usize,
    },
    /// XREADGROUP reaches the server.
    Read(usize),
    /// Its reply reaches the worker.
    Arrive(usize),
    /// Its reply is lost, and the connection with it.
    LoseReply(usize),
    /// A look at what Redis thinks the worker holds, on a new connection or on the old one.
    Reconcile(usize),
    Start(usize, usize),
    /// `failed`: a bit for each run of the batch. `unanswered`: the call goes astray.
    Settle {
        worker: usize,
        batch: Batch,
        failed: u8,
        unanswered: bool,
    },
    /// A settle or a start was answered with EPOCH.
    Revalidate(usize, usize),
    /// The settle that went astray arrives.
    StrayArrives,
    /// The process dies and is started again.
    Crash(usize),
    /// The heartbeat of a worker that was silent, that has no field, or that is dead.
    Beat(usize),
    /// The reaper has seen no beat of this one for a lease.
    Suspect(Id),
    Declare,
    /// The reaper sees that a dead one holds something.
    Look(Id),
    Recover,
    /// The replica is cut off.
    Cut,
    Failover,
    Flush,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.bounds.faults)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_drained() && state.replica.is_none() {
            return;
        }
        self.work(state, actions);
        self.trouble(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        let mut log = Log::default();
        self.step(&mut next, action, &mut log);
        if let Some((_, missed)) = &mut next.replica
            && next.data != state.data
        {
            *missed += 1;
            if *missed > self.bounds.lag_max {
                return None;
            }
        }
        next.broken |= log.broken();
        self.tally.note(&log);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        check::properties()
    }
}

impl Protocol {
    /// Whether anything can happen that is not something going wrong.
    pub fn can_go_on(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.work(state, &mut actions);
        !actions.is_empty()
    }

    fn work(&self, state: &State, actions: &mut Vec<Action>) {
        if (state.accepted as usize) < TASKS {
            actions.push(Action::Enqueue);
        }
        let delayed = (0..TASKS).filter(|task| state.data.delayed[*task].is_some());
        actions.extend(delayed.map(|task| Action::Promote { task }));
        for worker in 0..distinct(state) {
            self.work_of(state, worker, actions);
        }
        reaping(state, self.rules.recovered_as_a_level, actions);
        if state.stray.is_some() {
            actions.push(Action::StrayArrives);
        }
        // Who was cut off is promoted in the end; a run without a failover cuts nobody off.
        if state.replica.is_some() {
            actions.push(Action::Failover);
        }
    }

    fn work_of(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let worker = &state.workers[at];
        if worker.is_waiting() {
            actions.push(Action::Arrive(at));
        } else {
            let news = state.data.stream.iter().any(|entry| entry.id > state.data.delivered);
            let reads = news && self.has_room(worker) && !worker.read_late;
            // Where it neither finds a ghost nor is followed by a read it changes nothing.
            let changed = worker.link != Some(state.epoch());
            if reads && changed || self.ghost(state, at).is_some() {
                actions.push(Action::Reconcile(at));
            }
            if reads && worker.link.is_some() {
                actions.push(Action::Read(at));
            }
        }
        for (n, run) in worker.runs.iter().enumerate() {
            if run.phase == Phase::Arriving {
                continue;
            }
            let asks = run.has_ended() || self.asks_to_start(run);
            if asks && !self.rules.pass(run.tag, state.epoch()) {
                actions.push(Action::Revalidate(at, n));
            } else if run.has_ended() {
                self.settling(state, at, Batch::One(n), actions);
            } else if !worker.stale {
                actions.push(Action::Start(at, n));
            }
        }
        self.settling(state, at, Batch::Both, actions);
        let beat = state.data.beat(state.id(at));
        if worker.stale || matches!(beat, Beat::Missing | Beat::Dead) {
            actions.push(Action::Beat(at));
        }
    }

    /// All ways to settle a batch: each run whose verdict was not sent yet may have failed.
    fn settling(&self, state: &State, worker: usize, batch: Batch, actions: &mut Vec<Action>) {
        let Some(places) = self.batch(state, worker, batch) else { return };
        let (faults, runs) = (&state.faults, &state.workers[worker].runs);
        for failed in 0..1 << places.len() {
            let failures = u8::count_ones(failed) as u8;
            let mut fails = places.iter().enumerate().filter(|(n, _)| failed & (1 << n) != 0);
            let can_fail = fails.all(|(_, place)| runs[*place].phase == Phase::Running);
            if failures > faults.failures || !can_fail {
                continue;
            }
            actions.push(Action::Settle { worker, batch, failed, unanswered: false });
            let may_stray = faults.lost_settles > 0 && failures < faults.together;
            if may_stray && state.stray.is_none() {
                actions.push(Action::Settle { worker, batch, failed, unanswered: true });
            }
        }
    }

    /// The places of a batch among a worker's runs. Those of a batch are of one epoch.
    pub fn batch(&self, state: &State, worker: usize, batch: Batch) -> Option<Vec<usize>> {
        if let Batch::One(place) = batch {
            return Some(vec![place]);
        }
        let runs = &state.workers[worker].runs;
        let ended: Vec<usize> = (0..runs.len()).filter(|place| runs[*place].has_ended()).collect();
        let [first, second] = ended[..] else { return None };
        let tag = runs[first].tag;
        let together = tag == runs[second].tag && self.rules.pass(tag, state.epoch());
        together.then_some(ended)
    }

    fn trouble(&self, state: &State, actions: &mut Vec<Action>) {
        let faults = &state.faults;
        for (at, worker) in state.workers[..distinct(state)].iter().enumerate() {
            if faults.lost_fetches > 0 && worker.is_waiting() {
                actions.push(Action::LoseReply(at));
            }
            if faults.crashes > 0 {
                actions.push(Action::Crash(at));
            }
            let id = state.id(at);
            let may_be_missed = !worker.stale && state.data.beat(id) != Beat::Dead;
            if faults.silences > 0 && state.reaper == Reaper::Idle && may_be_missed {
                actions.push(Action::Suspect(id));
            }
        }
        if faults.failovers > 0 && state.replica.is_none() {
            actions.push(Action::Cut);
        }
        if faults.flushes > 0 && state.replica.is_none() {
            actions.push(Action::Flush);
        }
    }

    /// Whether the start of a run is a call of the script.
    pub fn asks_to_start(&self, run: &Run) -> bool {
        self.bounds.tracked || run.counters.crashes > 0
    }

    /// Where a settle is queued its permit is free.
    fn has_room(&self, worker: &Worker) -> bool {
        let busy = |run: &&Run| run.n == worker.n && !matches!(run.phase, Phase::Sent(_));
        worker.runs.iter().filter(busy).count() < self.bounds.permits
    }

    /// An entry that is pending for a worker which has room and does not know of it.
    pub fn ghost(&self, state: &State, at: usize) -> Option<Entry> {
        let (worker, id) = (&state.workers[at], state.id(at));
        let unknown =
            |entry: &&Entry| entry.owner == Some(id) && !worker.known.contains(&entry.known());
        let ghost = state.data.stream.iter().find(unknown)?;
        self.has_room(worker).then_some(*ghost)
    }
}

impl Run {
    /// Nothing is left to be run: only its settle. A task that has had its deaths is not started.
    pub fn has_ended(&self) -> bool {
        match self.phase {
            Phase::Arriving => false,
            Phase::Held => self.counters.crashes >= CRASH_LIMIT,
            Phase::Running | Phase::Sent(_) => true,
        }
    }
}

/// What the reaper does of its own. Who falls silent is told in `trouble`.
fn reaping(state: &State, as_a_level: bool, actions: &mut Vec<Action>) {
    match state.reaper {
        Reaper::Suspects(..) => return actions.push(Action::Declare),
        Reaper::Recovers { .. } => return actions.push(Action::Recover),
        Reaper::Idle => {}
    }
    for (at, worker) in state.workers[..distinct(state)].iter().enumerate() {
        for n in 0..=worker.n {
            let id = Id { worker: at as u8, n };
            let holds = state.data.holds(id);
            // Of one that is no more and holds nothing there is nothing to learn.
            let is_silent = if n < worker.n { holds } else { worker.stale };
            match state.data.beat(id) {
                Beat::Dead if holds && as_a_level => actions.push(Action::Look(id)),
                Beat::Missing | Beat::Count(_) if is_silent => actions.push(Action::Suspect(id)),
                _ => {}
            }
        }
    }
}

/// Of how many workers the steps are to be looked at: while nobody could tell the two apart, what
/// one does next stands for what the other could do.
fn distinct(state: &State) -> usize {
    if state.is_symmetric() { 1 } else { WORKERS }
}
