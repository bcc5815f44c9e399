//! What the two scripts do that go through the fence: `start` and `settle`.

use std::collections::BTreeMap;

use umbel_broker::keys::Stream;

use super::{
    dead::Letter,
    hands::Delivery,
    log::Body,
    server::{Server, about},
    words::{End, RESULT_TTL_MS, Stamp, Verdict, Worker},
};

/// What a start comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    Runs,
    Gone,
    Cancelled,
}

/// From which server and which making of the groups something was read.
pub type Epoch = (usize, Option<usize>);

/// The field that keeps a run which failed; no test here has more.
fn past_run(attempt: u32) -> &'static str {
    const PAST: [&str; 12] = [
        "attempt:1",
        "attempt:2",
        "attempt:3",
        "attempt:4",
        "attempt:5",
        "attempt:6",
        "attempt:7",
        "attempt:8",
        "attempt:9",
        "attempt:10",
        "attempt:11",
        "attempt:12",
    ];
    PAST[attempt as usize - 1]
}

impl Server {
    pub fn epoch(&self) -> Epoch {
        (if self.hides_run { 0 } else { self.run }, self.generation)
    }

    /// Where the server hides which start it is, an entry must still be of the same run.
    fn means_the_same(&self, delivery: &Delivery) -> bool {
        let body = self.ready(delivery.stream).entries.get(&delivery.entry);
        !self.hides_run || body.map(Body::run) == Some(delivery.body.run())
    }

    /// `None`: the fence.
    pub fn start(
        &mut self,
        epoch: Epoch,
        worker: Worker,
        batch: &[Delivery],
        now: Stamp,
    ) -> Option<Vec<Started>> {
        if epoch != self.epoch() {
            return None;
        }
        let started = batch.iter().map(|delivery| {
            let Delivery { stream, entry, body, .. } = delivery;
            let mine =
                self.ready(*stream).is_pending_of(worker, *entry) && self.means_the_same(delivery);
            if !mine {
                return Started::Gone;
            }
            if body.call.tracked && self.is_cancelled(body.task) {
                return Started::Cancelled;
            }
            if body.crashes > 0 {
                self.suspects.insert((*stream, *entry), worker);
            }
            if body.call.tracked {
                let fields = [
                    ("state", "running".to_owned()),
                    ("attempt", body.attempt.to_string()),
                    ("started", now.to_string()),
                    ("worker", worker.to_string()),
                    ("entry", format!("#{entry}")),
                ];
                self.note(body.task, fields);
            }
            Started::Runs
        });
        Some(started.collect())
    }

    /// `false`: the fence.
    pub fn settle(
        &mut self,
        epoch: Epoch,
        worker: Worker,
        batch: &[(Delivery, End)],
        now: Stamp,
    ) -> bool {
        if epoch != self.epoch() {
            return false;
        }
        let body = |(delivery, _): &(Delivery, End)| {
            self.ready(delivery.stream).entries.get(&delivery.entry).cloned()
        };
        let bodies: Vec<Option<Body>> = batch.iter().map(body).collect();
        let won = self.gate(batch);
        for (((delivery, end), body), won) in batch.iter().zip(bodies).zip(won) {
            if won {
                self.suspects.remove(&(delivery.stream, delivery.entry));
                self.apply(delivery, end, body, worker, now);
            }
        }
        true
    }

    /// Which entries were still somebody's. An entry is acknowledged and deleted together; where
    /// one of a stream was not pending, that it was there to be deleted is what counts.
    fn gate(&mut self, batch: &[(Delivery, End)]) -> Vec<bool> {
        let same: Vec<bool> = batch.iter().map(|(d, _)| self.means_the_same(d)).collect();
        let mut all_pending: BTreeMap<Stream, bool> = BTreeMap::new();
        for ((delivery, _), _) in batch.iter().zip(&same).filter(|(_, same)| **same) {
            let pending = self.ready_mut(delivery.stream).acknowledge(delivery.entry);
            *all_pending.entry(delivery.stream).or_insert(true) &= pending;
        }
        let won = batch.iter().zip(same).map(|((delivery, _), same)| {
            let deleted = same && self.ready_mut(delivery.stream).delete(delivery.entry);
            same && (all_pending[&delivery.stream] || deleted)
        });
        won.collect()
    }

    fn apply(
        &mut self,
        delivery: &Delivery,
        end: &End,
        body: Option<Body>,
        worker: Worker,
        now: Stamp,
    ) {
        let held = &delivery.body;
        let tracked = held.call.tracked;
        // Written by the entry's last words where it still had some.
        match (end.verdict, body) {
            (Verdict::Complete, _) => {
                self.ended(held, end, worker, now, "succeeded", ("result", "output"));
            }
            (Verdict::Cancel, _) => {
                self.ended(held, end, worker, now, "cancelled", ("error", "somebody"));
            }
            (Verdict::Expire, _) => {
                self.ended(held, end, worker, now, "expired", ("error", "somebody"));
            }
            (_, None) => {
                let lost = ("error", "the entry lost its body");
                self.ended(held, end, worker, now, "failed", lost);
            }
            (Verdict::Retry(delay), Some(body)) => {
                let due = Stamp { later_ms: delay.ms(), ..now };
                self.delayed.insert(held.task, due);
                self.wait(Body { attempt: held.attempt + 1, ..body });
                self.waits(held, tracked, "retrying", Some("broken"));
                if tracked {
                    let started = if end.ran { now.to_string() } else { "never".to_owned() };
                    let past = format!("{started} to {now} by {worker}: broken");
                    self.note(held.task, [(past_run(held.attempt), past)]);
                }
            }
            (Verdict::Defer(delay), Some(body)) => {
                self.delayed.insert(held.task, Stamp { later_ms: delay.ms(), ..now });
                self.wait(body);
                self.waits(held, tracked, "scheduled", Some("not yet"));
            }
            (Verdict::Park(left), Some(body)) => {
                let give_up = Stamp { later_ms: left.ms(), ..now };
                let name = held.call.name;
                self.parked_as(name).insert(held.task, give_up);
                let first = self.parked_names.entry(name).or_insert(give_up);
                *first = give_up.min(*first);
                self.wait(Body { parked: body.parked.or(Some(now)), ..body });
                self.waits(held, tracked, "parked", Some("unknown"));
            }
            (Verdict::Release, Some(body)) => {
                self.ready_mut(Stream::Recovered).add(body);
                self.waits(held, tracked, "queued", None);
            }
            (Verdict::Bury, Some(body)) => {
                self.dead.add(Letter { error: "hopeless".to_owned(), worker, died: now, body });
                self.ended(held, end, worker, now, "failed", ("error", "hopeless"));
            }
        }
    }

    fn wait(&mut self, body: Body) {
        self.waiting.insert(body.task, (Stream::from(body.call.priority), body));
    }

    fn waits(&mut self, held: &Body, tracked: bool, state: &str, error: Option<&str>) {
        if !tracked {
            return;
        }
        self.note(held.task, [("state", state.to_owned())]);
        if let Some(error) = error {
            self.note(held.task, [("error", error.to_owned())]);
        }
    }

    fn ended(
        &mut self,
        held: &Body,
        end: &End,
        worker: Worker,
        now: Stamp,
        state: &str,
        (name, value): (&'static str, &str),
    ) {
        if !end.kept {
            if held.call.tracked {
                self.records.remove(&held.task);
            }
            return;
        }
        let record = self.records.entry(held.task).or_default();
        if held.call.tracked {
            record.fields.retain(|field, _| !["error", "entry", "progress"].contains(field));
        }
        if end.ran {
            record.fields.insert("started", now.to_string());
        }
        record.fields.extend(about(held));
        record.fields.extend([
            ("state", state.to_owned()),
            ("finished", now.to_string()),
            ("worker", worker.to_string()),
            (name, value.to_owned()),
        ]);
        record.expires = Some(Stamp { later_ms: RESULT_TTL_MS, ..now });
    }
}
