//! The delivery protocol as a model, every interleaving of it within bounds, checked by Stateright.
//!
//! **What is modelled.** The scripts of the broker (`enqueue`, `groups`, `start`, `settle` with its
//! batches, `tick`, `heartbeat`, `declare`, `recover`, `held`) and the read, each as one step on the
//! data that they touch: a stream with its group and pending list, entry ids, delayed tasks, dead
//! letters, completions, counters of attempts and crashes, suspects, the heartbeat hash, `run_id` and
//! generation. Two workers with what they hold and what they believe of it, a reaper, a replica that
//! was cut off. A step can come at any time after the one that made it possible; so a worker that
//! does nothing for long is one that was frozen, and one that wakes up is a zombie. What goes wrong:
//! runs fail, workers die, hearts fall silent, replies are lost, settles arrive late and twice, a
//! failover takes back the last writes and its clock gives their ids again, a FLUSHALL likewise.
//!
//! **What is assumed of time**, as the worker's clock sees to it: who was silent for a whole lease
//! starts nothing, and who is declared dead has at most one read on its way.
//!
//! **What is left out.** Priorities: there is one stream, where ids meet most. `release`, `defer`,
//! `park` and cancelling: their way through fence and gate is that of a retry. Unique and idempotency
//! keys, results, pauses, a second reaper, recovery in more than one batch, reads of more than one
//! entry, entries without a body, a former primary that goes on serving, XGROUP DESTROY. Clocks that
//! run ahead: then no id comes again. The tasks are alike, so they are enqueued in their order;
//! the workers are alike, so while nobody could tell them apart only the first one is looked at.
//!
//! `rules` has what the protocol prescribes; `broken` breaks each rule and shows what it is for.
//! `beat` is a second, smaller model: the slots of a schedule.

mod action;
mod beat;
mod broken;
mod check;
mod rules;
mod server;
mod state;
mod step;
mod tally;
mod whole;

use std::{collections::BTreeMap, fmt::Debug, hash::Hash, time::Instant};

use stateright::{Checker, HasDiscoveries, Model};

/// As many as the smallest machine that runs the tests has cores.
const THREADS: usize = 2;

/// What came of looking.
struct Explored {
    states: usize,
    /// What Stateright found of each property: for `always` the steps to a state without it, for
    /// `sometimes` those to a state with it.
    found: BTreeMap<&'static str, String>,
}

/// Looks at every state, or until `finish_when`, and prints how many there were.
fn explore<M>(name: &str, model: M, finish_when: HasDiscoveries) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let began = Instant::now();
    let checker = model.checker().threads(THREADS).finish_when(finish_when).spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps between them, {} deep, in {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    let found = checker.discoveries().into_iter().map(|(property, path)| {
        let end = format!("{:?}", path.last_state());
        let steps: String =
            path.into_actions().iter().map(|step| format!("  {step:?}\n")).collect();
        (property, format!("{steps}  and so: {end}"))
    });
    Explored { states: checker.unique_state_count(), found: found.collect() }
}
