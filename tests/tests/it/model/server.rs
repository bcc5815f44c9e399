//! The scripts, each one step on the data, as `broker/src/scripts` has them.

use super::{
    rules::{CRASH_LIMIT, Rules},
    state::{Beat, Counters, Data, Entry, Epoch, Id, Request, Run, Settle, TASKS, Verdict},
    tally::{Event, Invariant, Log},
};

impl Data {
    /// `enqueue.lua`, and every other script that adds.
    pub fn add(&mut self, task: u8, counters: Counters) {
        self.last_id += 1;
        let id = self.last_id;
        self.stream.push(Entry { id, task, counters, owner: None, suspect: false });
    }

    /// `XREADGROUP … >` with COUNT 1. `None`: there is nothing new.
    pub fn fetch(&mut self, reader: Id) -> Option<Entry> {
        let delivered = self.delivered;
        let entry = self.stream.iter_mut().find(|entry| entry.id > delivered)?;
        entry.owner = Some(reader);
        self.delivered = entry.id;
        Some(*entry)
    }

    /// `groups.lua`.
    pub fn make_groups(&mut self, random: &mut u8) {
        if self.generation == 0 {
            self.generation = *random;
            *random += 1;
            self.delivered = 0;
        }
    }

    /// `start.lua`, behind its fence: whether the entry is the caller's.
    pub fn start(&mut self, run: &Run, caller: Id, rules: &Rules) -> bool {
        let Some(entry) = self.stream.iter_mut().find(|entry| entry.id == run.entry) else {
            return false;
        };
        let same =
            !rules.entry_compared || rules.same_delivery(entry, run.task, run.counters.attempt);
        let mine = same && entry.owner == Some(caller);
        // The first death charges whatever was held, so only after it is a start written down.
        entry.suspect |= mine && entry.counters.crashes > 0;
        mine
    }

    /// `settle.lua`: `None` is EPOCH, otherwise which settles won the gate.
    pub fn settle(
        &mut self,
        run: u8,
        request: &Request,
        rules: &Rules,
        log: &mut Log,
    ) -> Option<Vec<bool>> {
        if !rules.pass(request.tag, Epoch { run, generation: self.generation }) {
            log.event(Event::EpochRefused);
            return None;
        }
        let traces = [0, 1].map(|task| self.trace(task));
        let bodies: Vec<Option<Entry>> =
            request.settles.iter().map(|settle| self.entry(settle.entry).copied()).collect();
        let won = self.gate(request, rules);
        for ((settle, body), &won) in request.settles.iter().zip(&bodies).zip(&won) {
            if !won {
                log.event(Event::StaleRefused);
                if !rules.gate_heeded {
                    self.write(settle, *body, log);
                }
                continue;
            }
            if body.is_some_and(|body| body.task != settle.task) {
                log.breaks(Invariant::OtherTask);
            }
            self.write(settle, *body, log);
        }
        // I4: what lost the gate and did not win it beside has left no trace.
        for (task, before) in traces.into_iter().enumerate() {
            let of_task = || {
                request.settles.iter().zip(&won).filter(|(settle, _)| settle.task as usize == task)
            };
            let lost_only = of_task().count() > 0 && of_task().all(|(_, won)| !won);
            if lost_only && self.trace(task) != before {
                log.breaks(Invariant::LostGate);
            }
        }
        Some(won)
    }

    /// XACK of all; where it does not answer for all, XDEL's answer tells which are the caller's.
    fn gate(&mut self, request: &Request, rules: &Rules) -> Vec<bool> {
        let is_same = |settle: &Settle| {
            self.entry(settle.entry).is_some_and(|entry| {
                rules.same_delivery(entry, settle.task, settle.counters.attempt)
            })
        };
        let asked: Vec<bool> =
            request.settles.iter().map(|settle| !rules.entry_compared || is_same(settle)).collect();
        let settles = || request.settles.iter().zip(&asked).filter(|(_, asked)| **asked);
        let acked = settles().filter(|(settle, _)| self.acknowledge(settle.entry)).count();
        let all = acked == settles().count();
        request
            .settles
            .iter()
            .zip(&asked)
            .map(|(settle, asked)| {
                let delete = *asked && (!all || rules.deleted_with_ack);
                let deleted = delete && self.delete(settle.entry);
                *asked && (all || deleted)
            })
            .collect()
    }

    fn write(&mut self, settle: &Settle, body: Option<Entry>, log: &mut Log) {
        let task = settle.task as usize;
        match settle.verdict {
            Verdict::Complete => self.done[task] += 1,
            Verdict::Bury => self.dead[task] += 1,
            Verdict::Retry => {
                // All of the body but the attempt, which is the worker's word.
                let body = body.map_or(settle.counters, |body| body.counters);
                let next = Counters { attempt: settle.counters.attempt + 1, ..body };
                if next.attempt <= body.attempt {
                    log.breaks(Invariant::Counters);
                }
                self.delayed[task] = Some(next);
            }
        }
    }

    fn acknowledge(&mut self, id: u8) -> bool {
        self.stream
            .iter_mut()
            .find(|entry| entry.id == id)
            .is_some_and(|entry| entry.owner.take().is_some())
    }

    fn delete(&mut self, id: u8) -> bool {
        let before = self.stream.len();
        self.stream.retain(|entry| entry.id != id);
        self.stream.len() < before
    }

    /// All that a settle could write of a task.
    fn trace(&self, task: usize) -> (Vec<Entry>, Option<Counters>, u8, u8) {
        let entries = self.stream.iter().filter(|entry| entry.task as usize == task);
        (entries.copied().collect(), self.delayed[task], self.dead[task], self.done[task])
    }

    /// `tick.lua`, for one task that is due.
    pub fn promote(&mut self, task: usize) {
        if let Some(counters) = self.delayed[task].take() {
            self.add(task as u8, counters);
        }
    }

    /// `heartbeat.lua`: whether the worker may live on.
    pub fn heartbeat(&mut self, id: Id, rules: &Rules, log: &mut Log) -> bool {
        let beat = self.beat_mut(id);
        *beat = match *beat {
            Beat::Dead if rules.mark_heeded => return false,
            Beat::Dead => {
                log.breaks(Invariant::Marked);
                Beat::Count(0)
            }
            Beat::Missing => Beat::Count(0),
            Beat::Count(count) => Beat::Count(count + 1),
        };
        true
    }

    /// `declare.lua`: only if the beat is still the one that was seen all the while.
    pub fn declare(&mut self, id: Id, observed: Beat) -> bool {
        let beat = self.beat_mut(id);
        let silent = *beat == observed && *beat != Beat::Dead;
        if silent {
            *beat = Beat::Dead;
        }
        silent
    }

    /// `recover.lua`: the two tasks there are make one batch.
    pub fn recover(&mut self, dead: Id, heir: Id, rules: &Rules, log: &mut Log) {
        let held: Vec<Entry> =
            self.stream.iter().filter(|entry| entry.owner == Some(dead)).copied().collect();
        for Entry { id, task, mut counters, suspect, .. } in held {
            if !rules.only_suspects_charged || counters.crashes == 0 || suspect {
                counters.crashes += 1;
            }
            if rules.added_anew {
                self.add(task, counters);
                self.acknowledge(id);
                if rules.deleted_with_ack {
                    self.delete(id);
                }
            } else if let Some(entry) = self.stream.iter_mut().find(|entry| entry.id == id) {
                (entry.owner, entry.counters, entry.suspect) = (Some(heir), counters, false);
            }
            let twice = counters.crashes == CRASH_LIMIT;
            log.event(if twice { Event::RecoveredTwice } else { Event::Recovered });
            if !rules.deleted_when_empty {
                // DELCONSUMER, which forgets what is pending.
                self.stream
                    .iter_mut()
                    .filter(|entry| entry.owner == Some(dead))
                    .for_each(|entry| entry.owner = None);
                break;
            }
        }
    }

    /// A task's counters, wherever they stand.
    pub fn counters(&self) -> impl Iterator<Item = Counters> {
        let delayed = (0..TASKS).filter_map(|task| self.delayed[task]);
        self.stream.iter().map(|entry| entry.counters).chain(delayed)
    }
}
