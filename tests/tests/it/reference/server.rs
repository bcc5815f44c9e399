//! What Redis holds, and what one script does to it: the transitions that belong to nobody's hand.

use std::collections::{BTreeMap, BTreeSet};

use umbel_broker::keys::Stream;

use super::{
    dead::Dead,
    hands::Delivery,
    log::{Body, Log, Reader},
    words::{
        Answer, Boot, Call, Clock, Command, Entry, KEY_TTL_MS, Name, Observed, SOON_MS, Stamp,
        Standing, Worker,
    },
};

/// How many entries one script moves; the same bounds stand in the broker.
const TICK_BATCH: usize = 128;
const RECOVER_BATCH: usize = 64;

#[derive(Debug, Clone, Default)]
pub struct Server {
    /// Which start of the server it is.
    pub run: usize,
    /// It refuses INFO, so that nobody can tell.
    pub hides_run: bool,
    /// Which making of the groups.
    pub generation: Option<usize>,
    pub cap: Option<u32>,
    /// Since when it is paused.
    pub paused: Option<Stamp>,
    ready: [Log; 4],
    pub delayed: BTreeMap<usize, Stamp>,
    /// Parked tasks by name, and the list of the names.
    pub parked: BTreeMap<Name, BTreeMap<usize, Stamp>>,
    pub parked_names: BTreeMap<Name, Stamp>,
    /// What is delayed or parked, with the stream that it goes to.
    pub waiting: BTreeMap<usize, (Stream, Body)>,
    pub dead: Dead,
    pub records: BTreeMap<usize, Record>,
    pub keys: BTreeMap<u8, Key>,
    pub suspects: BTreeMap<(Stream, u32), Worker>,
    pub beats: BTreeMap<Worker, Beat>,
    pub informed: BTreeSet<Worker>,
    /// The tasks that a worker is asked to end, and until when it is told.
    pub asked: BTreeMap<Worker, (BTreeSet<usize>, Stamp)>,
    /// The queue stands in the list of queues.
    pub listed: bool,
    pub helped: bool,
}

/// What a person sees of a task.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub fields: BTreeMap<&'static str, String>,
    pub expires: Option<Stamp>,
}

/// What an idempotency key stands for.
#[derive(Debug, Clone)]
pub struct Key {
    pub task: usize,
    pub call: Call,
    pub expires: Stamp,
}

#[derive(Debug, Clone)]
pub enum Beat {
    Count(u64),
    Dead { at: Stamp, cause: &'static str },
}

impl Server {
    pub fn new(hides_run: bool) -> Self {
        Self { hides_run, ..Self::default() }
    }

    pub fn ready(&self, stream: Stream) -> &Log {
        &self.ready[stream as usize]
    }

    pub fn ready_mut(&mut self, stream: Stream) -> &mut Log {
        &mut self.ready[stream as usize]
    }

    /// Whether a worker holds what it has in its hand, with its body.
    pub fn knows(&self, worker: Worker, delivery: &Delivery) -> bool {
        let log = self.ready(delivery.stream);
        log.is_pending_of(worker, delivery.entry) && log.entries.contains_key(&delivery.entry)
    }

    pub fn enqueue(&mut self, call: Call, task: usize, step: usize) -> Entry {
        if let Some(known) = call.key.and_then(|key| self.keys.get(&key)) {
            let same = known.call == call.unkeyed();
            return if same { Entry::Existing(known.task) } else { Entry::Conflict };
        }
        if self.is_full() {
            return Entry::Full;
        }
        let now = Stamp { later_ms: 0, step };
        if let Some(key) = call.key {
            let expires = Stamp { later_ms: KEY_TTL_MS, step };
            self.keys.insert(key, Key { task, call: call.unkeyed(), expires });
        }
        let body = Body { task, call, attempt: 1, crashes: 0, enqueued: now, parked: None };
        let stream = Stream::from(call.priority);
        if call.tracked {
            let state = if call.delay.is_some() { "scheduled" } else { "queued" };
            self.note(task, [("state", state.to_owned())]);
            self.note(task, about(&body));
        }
        match call.delay {
            None => self.ready_mut(stream).add(body),
            Some(delay) => {
                self.delayed.insert(task, Stamp { later_ms: delay.ms(), step });
                self.waiting.insert(task, (stream, body));
            }
        }
        Entry::Accepted(task)
    }

    pub fn is_full(&self) -> bool {
        let waiting =
            self.delayed.len() + self.ready.iter().map(|log| log.entries.len()).sum::<usize>();
        self.cap.is_some_and(|cap| waiting >= cap as usize)
    }

    /// Makes the groups where they are missing; `fresh` is the generation if so.
    pub fn make_groups(&mut self, fresh: usize) -> bool {
        let made =
            self.ready.iter_mut().filter_map(|log| log.make_group().then_some(())).count() > 0;
        let anew = made || self.generation.is_none();
        if anew {
            self.generation = Some(fresh);
        }
        anew
    }

    pub fn tick(&mut self, clock: Clock) -> Answer {
        if clock != Clock::Right {
            return Answer::Skewed;
        }
        let (mut moved, mut gone) = (0, 0);
        for task in due(&self.delayed, TICK_BATCH) {
            self.delayed.remove(&task);
            self.make_ready(task, &mut moved, &mut gone);
        }
        for name in in_order(&self.parked_names) {
            if self.parked_names[&name].later_ms > SOON_MS {
                continue;
            }
            let left = TICK_BATCH - (moved + gone) as usize;
            for task in due(self.parked_as(name), left) {
                self.parked_as(name).remove(&task);
                self.make_ready(task, &mut moved, &mut gone);
            }
            self.list_parked(name);
        }
        Answer::Moved {
            moved,
            gone,
            next_due: self.delayed.values().min().map(Stamp::to_string),
            parked: in_order(&self.parked_names),
            paused: self.paused.is_some(),
        }
    }

    pub fn unpark(&mut self, name: Name) -> Answer {
        let (mut moved, mut gone) = (0, 0);
        for task in in_order(self.parked_as(name)) {
            self.make_ready(task, &mut moved, &mut gone);
        }
        self.parked.remove(&name);
        self.list_parked(name);
        Answer::Unparked(moved)
    }

    pub fn parked_as(&mut self, name: Name) -> &mut BTreeMap<usize, Stamp> {
        self.parked.entry(name).or_default()
    }

    pub fn make_ready(&mut self, task: usize, moved: &mut u64, gone: &mut u64) {
        let Some((stream, body)) = self.waiting.remove(&task) else {
            *gone += 1;
            return;
        };
        self.ready_mut(stream).add(body);
        self.queued_if_known(task);
        *moved += 1;
    }

    pub fn list_parked(&mut self, name: Name) {
        match self.parked_as(name).values().min().copied() {
            Some(first) => self.parked_names.insert(name, first),
            None => self.parked_names.remove(&name),
        };
    }

    pub fn recover(&mut self, worker: Worker, charged: bool) -> Answer {
        let (mut left, mut added, mut gone, mut more) = (RECOVER_BATCH, 0, 0, false);
        for stream in Stream::IN_ORDER {
            let pending = self.ready(stream).pending_of(worker);
            more |= pending.len() > left;
            for entry in pending.into_iter().take(left) {
                left -= 1;
                let ran = self.suspects.remove(&(stream, entry)).is_some();
                let body = self.ready_mut(stream).entries.remove(&entry);
                self.ready_mut(stream).acknowledge(entry);
                let Some(mut body) = body else {
                    gone += 1;
                    continue;
                };
                if charged && (body.crashes == 0 || ran) {
                    body.crashes += 1;
                }
                self.queued_if_known(body.task);
                self.ready_mut(Stream::Recovered).add(body);
                added += 1;
            }
            let log = self.ready_mut(stream);
            if log.pending_of(worker).is_empty()
                && let Some(group) = &mut log.group
            {
                group.readers.remove(&worker);
            }
        }
        Answer::Recovered { added, gone, more }
    }

    pub fn note<const N: usize>(&mut self, task: usize, fields: [(&'static str, String); N]) {
        self.records.entry(task).or_default().fields.extend(fields);
    }

    fn queued_if_known(&mut self, task: usize) {
        if let Some(record) = self.records.get_mut(&task) {
            record.fields.insert("state", "queued".to_owned());
        }
    }

    pub fn beat(&mut self, worker: Worker) -> Answer {
        let beat = self.beats.entry(worker).or_insert(Beat::Count(0));
        let Beat::Count(count) = beat else { return Answer::Fenced };
        *count += 1;
        self.informed.insert(worker);
        let beats = self.beats.iter().map(|(worker, beat)| (*worker, beat.to_string())).collect();
        let asked = self.asked.get(&worker).into_iter().flat_map(|(tasks, _)| tasks);
        let asked = asked.map(|task| format!("t{task}")).collect();
        Answer::Alive { run: (!self.hides_run).then_some(self.run), beats, asked }
    }

    /// What a caller passes who has seen this of a worker.
    pub fn observed(&self, worker: Worker, observed: Observed) -> String {
        match (observed, self.beats.get(&worker)) {
            (Observed::Last, Some(Beat::Count(count))) => count.to_string(),
            (Observed::Earlier, Some(Beat::Count(count))) => (count - 1).to_string(),
            _ => String::new(),
        }
    }

    pub fn declare(&mut self, worker: Worker, observed: &str, now: Stamp) -> Answer {
        let there = self.beats.get(&worker).map(Beat::to_string).unwrap_or_default();
        if there == observed {
            self.beats.insert(worker, Beat::Dead { at: now, cause: "silent" });
        }
        Answer::Declared(there == observed)
    }

    pub fn sign_off(&mut self, worker: Worker, now: Stamp) {
        self.beats.insert(worker, Beat::Dead { at: now, cause: "drained" });
        self.informed.remove(&worker);
    }

    pub fn boot_ended(&mut self, boot: Boot, now: Stamp) -> Answer {
        let mut buried = BTreeMap::new();
        for (worker, beat) in self.beats.iter_mut().filter(|(worker, _)| worker.boot() == boot) {
            if let Beat::Count(_) = beat {
                *beat = Beat::Dead { at: now, cause: "oom" };
                self.informed.remove(worker);
            }
            if let Beat::Dead { cause, .. } = beat {
                buried.insert(*worker, (*cause).to_owned());
            }
        }
        Answer::Buried(buried)
    }

    /// Whether a worker must be among the readers of a stream.
    pub fn reads_for_certain(&self, worker: Worker) -> bool {
        let groups = self.ready.iter().filter_map(|log| log.group.as_ref());
        groups.map(|group| group.readers.get(&worker)).any(|found| found == Some(&Reader::Certain))
    }

    pub fn stands(&self) -> Answer {
        if !self.listed {
            return Answer::Stands(None);
        }
        let groups = self.ready.iter().filter_map(|log| log.group.as_ref());
        let running = groups.map(|group| group.pending.len()).sum::<usize>();
        let entries = self.ready.iter().map(|log| log.entries.len()).sum::<usize>();
        let readers = Worker::ALL.into_iter().filter(|worker| self.reads_for_certain(*worker));
        Answer::Stands(Some(Standing {
            queued: entries.saturating_sub(running) as u64,
            running: running as u64,
            delayed: self.delayed.len() as u64,
            parked: self.parked.values().map(BTreeMap::len).sum::<usize>() as u64,
            dead: self.dead.letters.len() as u64,
            paused: self.paused.is_some(),
            readers: readers.collect(),
        }))
    }

    /// What goes wrong inside the server.
    pub fn suffer(&mut self, fault: &Command) {
        match *fault {
            Command::Flush => {
                *self = Self { run: self.run, ..Self::new(self.hides_run) };
            }
            Command::DestroyGroup(stream) => self.ready_mut(stream).group = None,
            Command::LoseEntry { stream, entry } => {
                self.ready_mut(stream).delete(entry);
            }
            Command::LoseWaiting { task } => {
                self.waiting.remove(&task);
            }
            Command::Ghost { worker, stream, count } => {
                self.ready_mut(stream).read(worker, count);
            }
            _ => unreachable!("{fault:?} is no fault of the server's own"),
        }
    }
}

/// What is written of a task as soon as anything is.
pub fn about(body: &Body) -> [(&'static str, String); 4] {
    [
        ("task", body.call.name.as_str().to_owned()),
        ("attempt", body.attempt.to_string()),
        ("max", super::words::ATTEMPTS_MAX.to_string()),
        ("enqueued", body.enqueued.to_string()),
    ]
}

/// The members of a sorted set, by score, then by themselves.
fn in_order<T: Copy + Ord>(set: &BTreeMap<T, Stamp>) -> Vec<T> {
    let mut members: Vec<(Stamp, T)> =
        set.iter().map(|(member, score)| (*score, *member)).collect();
    members.sort_unstable();
    members.into_iter().map(|(_, member)| member).collect()
}

fn due(set: &BTreeMap<usize, Stamp>, most: usize) -> Vec<usize> {
    in_order(set).into_iter().filter(|task| set[task].later_ms <= SOON_MS).take(most).collect()
}

impl std::fmt::Display for Beat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Dead { at, cause } => write!(f, "dead {at} {cause}"),
        }
    }
}
