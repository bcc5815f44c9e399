//! The workers' side: what each has in its hand, and how it reads, starts and settles.

use std::collections::BTreeSet;

use umbel_broker::keys::Stream;

use super::{
    log::{Body, Run},
    model::State,
    settle::{Epoch, Started},
    words::{Answer, End, Seen, Stamp, Worker},
};

/// How often in a row a stream may be passed over; the same bound stands in the broker.
const PASSED_OVER_MAX: u8 = 12;

/// A task in a worker's hand.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub stream: Stream,
    pub entry: u32,
    pub epoch: Epoch,
    pub body: Body,
    /// Somebody wanted it ended before it was started.
    pub cancelled: bool,
}

impl Delivery {
    fn known(&self) -> (Stream, u32, Run) {
        (self.stream, self.entry, self.body.run())
    }
}

/// What one worker has.
#[derive(Debug, Clone, Default)]
pub struct Hands {
    pub hand: Vec<Delivery>,
    /// The entries that it knows of, whose settle was not answered, and the run of each: after a
    /// loss of data one entry may mean two.
    pub held: BTreeSet<(Stream, u32, Run)>,
    pub reader: Option<Reading>,
}

/// The worker's reading connection.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub link: Option<Link>,
    /// The last look found more than there was room for.
    pub owed: bool,
    introduced: bool,
    passed_over: [u8; 4],
    /// As it was told when it connected; nobody tells it of changes here.
    paused: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Link {
    epoch: Epoch,
    /// The server at its other end has ended.
    pub broken: bool,
}

impl State {
    /// What was delivered to the worker and never came, in the order in which it is taken in.
    pub fn ghosts(&self, worker: Worker) -> Vec<(u32, Stream)> {
        let pending = Stream::IN_ORDER.into_iter().flat_map(|stream| {
            let pending = self.server.ready(stream).pending_of(worker);
            pending.into_iter().map(move |entry| (entry, stream))
        });
        let held = &self.hands(worker).held;
        let is_known = |(entry, stream): &(u32, Stream)| {
            let body = self.server.ready(*stream).entries.get(entry);
            held.iter().any(|(in_stream, known, run)| {
                (in_stream, known) == (stream, entry) && body.is_none_or(|body| body.run() == *run)
            })
        };
        let mut ghosts: Vec<_> = pending.filter(|ghost| !is_known(ghost)).collect();
        ghosts.sort_unstable();
        ghosts
    }

    pub fn fetch(&mut self, worker: Worker, free: usize, anew: bool) -> Answer {
        let mut reading =
            self.hands_mut(worker).reader.take().filter(|_| !anew).unwrap_or_default();
        let answer = self.read(worker, free, &mut reading);
        let hands = self.hands_mut(worker);
        let answer = match answer {
            Some(new) => {
                hands.held.extend(new.iter().map(Delivery::known));
                hands.hand.extend(new.iter().cloned());
                Answer::Fetched(new.iter().map(Delivery::seen).collect())
            }
            None => {
                reading.link = None;
                Answer::GroupGone
            }
        };
        hands.reader = Some(reading);
        answer
    }

    /// `None`: a group was missing.
    fn read(
        &mut self,
        worker: Worker,
        free: usize,
        reading: &mut Reading,
    ) -> Option<Vec<Delivery>> {
        // Over a paused queue it asks nothing, and notices nothing.
        let asks = !reading.paused || reading.owed;
        if asks && reading.link.is_some_and(|link| link.broken) {
            // The first call over it fails, and the caller calls again.
            if !std::mem::take(&mut reading.owed) {
                let first = order(&reading.passed_over)[0];
                reading.passed_over[first as usize] = 0;
            }
            reading.link = None;
        }
        let connects = reading.link.is_none();
        if connects {
            self.connect(reading);
        }
        if connects || std::mem::take(&mut reading.owed) {
            let ghosts = self.ghosts(worker);
            reading.owed = ghosts.len() > free;
            reading.link = Some(Link { epoch: self.server.epoch(), broken: false });
            let adopted = self.adopt(worker, ghosts, free);
            if !adopted.is_empty() {
                self.adopted = true;
                return Some(adopted);
            }
        }
        if reading.paused {
            reading.passed_over = [0; 4];
            return Some(Vec::new());
        }
        let epoch = reading.link?.epoch;
        let mut found: Vec<Delivery> = Vec::new();
        for stream in order(&reading.passed_over) {
            if found.len() >= free {
                reading.passed_over[stream as usize] += 1;
                continue;
            }
            reading.passed_over[stream as usize] = 0;
            let new = self.server.ready_mut(stream).read(worker, free - found.len())?;
            found.extend(new.into_iter().map(|entry| self.delivery(stream, entry, epoch)));
        }
        Some(found)
    }

    fn connect(&mut self, reading: &mut Reading) {
        self.server.helped |= !reading.introduced;
        self.server.listed = true;
        self.listed = true;
        reading.introduced = true;
        reading.paused = self.server.paused.is_some();
        if self.server.make_groups(self.generations) {
            self.generations += 1;
        }
        reading.link = Some(Link { epoch: self.server.epoch(), broken: false });
    }

    /// Takes entries in hand; one without a body is acknowledged and forgotten.
    fn adopt(&mut self, worker: Worker, ghosts: Vec<(u32, Stream)>, room: usize) -> Vec<Delivery> {
        let epoch = self.server.epoch();
        let mut adopted = Vec::new();
        for (entry, stream) in ghosts.into_iter().take(room) {
            if self.server.ready(stream).entries.contains_key(&entry) {
                adopted.push(self.delivery(stream, entry, epoch));
            } else {
                let log = self.server.ready_mut(stream);
                debug_assert!(log.is_pending_of(worker, entry));
                log.acknowledge(entry);
            }
        }
        adopted
    }

    fn delivery(&self, stream: Stream, entry: u32, epoch: Epoch) -> Delivery {
        let body = self.server.ready(stream).entries[&entry].clone();
        Delivery { stream, entry, epoch, body, cancelled: false }
    }

    /// A second consumer of the same name, which knows of nothing, takes in all.
    pub fn twice(&mut self, worker: Worker) -> Answer {
        let held = std::mem::take(&mut self.hands_mut(worker).held);
        let reader = self.hands_mut(worker).reader.take();
        let answer = self.fetch(worker, usize::MAX, true);
        let hands = self.hands_mut(worker);
        (hands.held, hands.reader) = (held, reader);
        answer
    }

    pub fn start(&mut self, worker: Worker, picks: &[usize], now: Stamp) -> Answer {
        let picked = self.pick(worker, picks);
        let (mut waiting, mut ready): (Vec<Delivery>, Vec<Delivery>) = picked
            .into_iter()
            .partition(|delivery| delivery.body.call.tracked || delivery.body.crashes > 0);
        while let Some(last) = waiting.last() {
            let epoch = last.epoch;
            let (batch, rest): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|delivery| delivery.epoch == epoch);
            waiting = rest;
            match self.server.start(epoch, worker, &batch, now) {
                Some(started) => {
                    for (delivery, started) in batch.into_iter().zip(started) {
                        match started {
                            Started::Gone => self.drop_held(worker, &delivery),
                            Started::Runs => ready.push(delivery),
                            Started::Cancelled => {
                                ready.push(Delivery { cancelled: true, ..delivery })
                            }
                        }
                    }
                }
                None => waiting.extend(self.revalidate(worker, batch, |delivery| delivery)),
            }
        }
        let seen = ready.iter().map(Delivery::seen).collect();
        self.hands_mut(worker).hand.extend(ready);
        Answer::Started(seen)
    }

    pub fn settle(&mut self, worker: Worker, ends: &[End], now: Stamp) -> Answer {
        let picks: Vec<usize> = ends.iter().map(|end| end.pick).collect();
        let picked = self.pick(worker, &picks);
        let mut batch: Vec<(Delivery, End)> =
            picked.into_iter().zip(ends.iter().copied()).collect();
        while let Some((first, _)) = batch.first() {
            let epoch = first.epoch;
            let (group, rest): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|(delivery, _)| delivery.epoch == epoch);
            batch = rest;
            if self.server.settle(epoch, worker, &group, now) {
                group.iter().for_each(|(delivery, _)| self.drop_held(worker, delivery));
            } else {
                batch.extend(self.revalidate(worker, group, |(delivery, _)| delivery));
            }
        }
        Answer::Done
    }

    /// After a change of epoch: keeps what the server still knows as this worker's, same entry
    /// and same run.
    fn revalidate<T>(
        &mut self,
        worker: Worker,
        items: Vec<T>,
        delivery: impl Fn(&mut T) -> &mut Delivery,
    ) -> Vec<T> {
        let epoch = self.server.epoch();
        let mut valid = Vec::new();
        for mut item in items {
            let here = delivery(&mut item);
            let log = self.server.ready(here.stream);
            let there = log.entries.get(&here.entry).map(Body::run);
            if there == Some(here.body.run()) && log.is_pending_of(worker, here.entry) {
                here.epoch = epoch;
                valid.push(item);
            } else {
                let here = here.clone();
                self.drop_held(worker, &here);
            }
        }
        valid
    }

    fn drop_held(&mut self, worker: Worker, delivery: &Delivery) {
        self.hands_mut(worker).held.remove(&delivery.known());
    }

    /// Takes deliveries out of the worker's hand, in the order of `picks`.
    fn pick(&mut self, worker: Worker, picks: &[usize]) -> Vec<Delivery> {
        let mut hand: Vec<Option<Delivery>> =
            std::mem::take(&mut self.hands_mut(worker).hand).into_iter().map(Some).collect();
        let picked = picks.iter().filter_map(|pick| hand[*pick].take()).collect();
        self.hands_mut(worker).hand = hand.into_iter().flatten().collect();
        picked
    }
}

impl Delivery {
    pub fn seen(&self) -> Seen {
        Seen {
            stream: self.stream,
            entry: format!("#{}", self.entry),
            task: format!("t{}", self.body.task),
            attempt: self.body.attempt,
            crashes: self.body.crashes,
            parked: self.body.parked.as_ref().map(Stamp::to_string),
            cancelled: self.cancelled,
        }
    }
}

/// Strict order, but for a stream that was passed over too often.
fn order(passed_over: &[u8; 4]) -> [Stream; 4] {
    let mut order = Stream::IN_ORDER;
    order.sort_by_key(|stream| passed_over[*stream as usize] < PASSED_OVER_MAX);
    order
}
