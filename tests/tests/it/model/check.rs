//! The invariants, by their names in the protocol.

use stateright::Property;

use super::{
    action::Protocol,
    rules::CRASH_LIMIT,
    state::{Id, Run, State, TASKS},
    tally::Invariant,
};

/// What was accepted is in exactly one place: queued, pending, delayed, completed, or a dead letter.
/// What went with lost data is in none, and nobody brings it back.
pub const I1: &str = "I1";
/// At most one completion of a task is accepted on one lineage of the data. A failover that forgets
/// a completion begins another lineage, on which the task may be completed once more.
pub const I2: &str = "I2";
/// Under one epoch, an entry is in the hands of one consumer: the one that it is pending for.
pub const I3: &str = "I3";
/// A settle that loses the gate leaves no trace.
pub const I4: &str = "I4";
/// Attempts and crashes never decrease, each retry counts, and both stay within their limits.
pub const I5: &str = "I5";
/// No entry was delivered and is pending for nobody.
pub const I10: &str = "I10";
/// Only who is marked dead is recovered, and beats no more. A mark that went with lost data after
/// the reaper had seen it counts; nothing can be read with the recovery in one step.
pub const I11: &str = "I11";
/// No settle is applied to another task, lost data included.
pub const I16: &str = "I16";
/// Where nothing can happen any more, all has ended. No run goes on for ever: what is not limited
/// by the faults goes forward. So this is L1, that all drains once the faults stop.
pub const L1: &str = "L1";

pub fn properties() -> Vec<Property<Protocol>> {
    vec![
        Property::always(I1, |_, state: &State| {
            (0..TASKS).all(|task| is_in_its_place(state, task))
        }),
        Property::always(I2, |_, state: &State| state.data.done.iter().all(|done| *done <= 1)),
        Property::always(I3, |_, state: &State| has_one_owner_each(state)),
        Property::always(I4, |_, state: &State| !has_broken(state, Invariant::LostGate)),
        Property::always(I5, |protocol: &Protocol, state: &State| {
            let max_attempts = protocol.bounds.max_attempts;
            let mut counters = state.data.counters();
            counters.all(|now| now.attempt <= max_attempts && now.crashes <= CRASH_LIMIT)
                && !has_broken(state, Invariant::Counters)
        }),
        Property::always(I10, |_, state: &State| {
            let delivered = state.data.delivered;
            state.data.stream.iter().all(|entry| entry.owner.is_some() || entry.id > delivered)
        }),
        Property::always(I11, |_, state: &State| !has_broken(state, Invariant::Marked)),
        Property::always(I16, |_, state: &State| !has_broken(state, Invariant::OtherTask)),
        Property::always(L1, |protocol: &Protocol, state: &State| {
            state.is_drained() || protocol.can_go_on(state)
        }),
    ]
}

fn has_broken(state: &State, invariant: Invariant) -> bool {
    state.broken & invariant.bit() != 0
}

fn is_in_its_place(state: &State, task: usize) -> bool {
    let is_somewhere = task < state.accepted as usize && !state.lost[task];
    state.data.places(task) == usize::from(is_somewhere)
}

fn has_one_owner_each(state: &State) -> bool {
    let epoch = state.epoch();
    let in_hand = || {
        state.workers.iter().enumerate().flat_map(move |(at, worker)| {
            let of_now = worker.runs.iter().filter(move |run| run.tag == epoch);
            of_now.map(move |run: &Run| (run.entry, Id { worker: at as u8, n: run.n }))
        })
    };
    in_hand().all(|(entry, holder)| {
        let pending = state.data.entry(entry).is_none_or(|entry| entry.owner == Some(holder));
        pending && in_hand().all(|(other, by)| other != entry || by == holder)
    })
}
