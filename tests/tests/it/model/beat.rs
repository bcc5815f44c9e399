//! I12: one task for each slot of a schedule, with two beats and no leader.
//!
//! **What is modelled.** One entry whose slots are the numbers of the clock; `claim_slot`, the
//! enqueue under the slot's idempotency key, `close_slot`, the replay of open intents, keys that are
//! forgotten. A beat may die after any call, before it hears the answer, and may be frozen for as
//! long as the clock goes. **What is assumed**: a claimed slot is enqueued within one tick of the
//! clock or not at all; the last row of the table of broken rules shows what a beat does that is
//! frozen between claim and enqueue until the key is forgotten. **What is left out**: entries beside
//! each other, and loss of data, which takes task, key and claim in the order in which they came.
//! There is no leader, so no epoch of one that could be stale.

use std::collections::BTreeSet;

use stateright::{HasDiscoveries, Model, Property};

use super::explore;

const ONE_TASK: &str = "I12 one task a slot";
const NONE_FORGOTTEN: &str = "I12 no claimed slot is forgotten";

/// How far the clock goes.
const SLOTS: usize = 4;

/// The oldest claimed slot that is still fired, in ticks: older ones are closed as missed.
const GRACE: usize = 1;

/// How long a key is known: longer than an intent is replayed and an enqueue can be on its way.
const KEY_LIFE: usize = 3;

/// What the slots go by. `false` breaks a rule.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// A slot is claimed only if it is later than the last one.
    claim_compared: bool,
    /// The intent is written in the step of the claim, so that others find it.
    intent_with_claim: bool,
    /// The slot is the idempotency key of its task.
    keyed: bool,
    /// The key is known for longer than intents are replayed.
    key_outlives_grace: bool,
    /// A slot is enqueued soon after its claim or not at all.
    fired_in_time: bool,
}

const KEPT: Rules = Rules {
    claim_compared: true,
    intent_with_claim: true,
    keyed: true,
    key_outlives_grace: true,
    fired_in_time: true,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Beat {
    Idle,
    /// About to claim the slot that was due.
    Claims(usize),
    /// About to enqueue; `since` the clock of its step.
    Fires {
        slot: usize,
        since: usize,
    },
    /// About to close.
    Closes {
        slot: usize,
        fired: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Unclaimed,
    /// Claimed, with its intent.
    Open,
    /// Claimed, and nobody else can know of it.
    OpenUnseen,
    Fired,
    Missed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    now: usize,
    /// The last slot that was claimed; slot 0 is before all.
    last: usize,
    slots: [Slot; SLOTS + 1],
    keys: [bool; SLOTS + 1],
    tasks: [u8; SLOTS + 1],
    beats: [Beat; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Tick,
    /// The slot of the clock is due, by what the beat knows.
    Decide(usize),
    /// An open intent was found.
    Replay(usize, usize),
    /// The call that the beat is about to make is carried out.
    Call(usize),
    /// And the beat never hears of it.
    CallUnheard(usize),
    Die(usize),
}

#[derive(Debug, Clone)]
struct Timetable {
    rules: Rules,
}

impl Model for Timetable {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            last: 0,
            slots: [Slot::Unclaimed; SLOTS + 1],
            keys: [false; SLOTS + 1],
            tasks: [0; SLOTS + 1],
            beats: [Beat::Idle; 2],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < SLOTS {
            actions.push(Action::Tick);
        }
        for (at, beat) in state.beats.iter().enumerate() {
            if *beat == Beat::Idle {
                // It may not have heard of a claim yet, so it also tries what it cannot get.
                if state.now > 0 {
                    actions.push(Action::Decide(at));
                }
                let open = (1..=SLOTS).filter(|slot| state.slots[*slot] == Slot::Open);
                actions.extend(open.map(|slot| Action::Replay(at, slot)));
            } else {
                actions.extend([Action::Call(at), Action::CallUnheard(at), Action::Die(at)]);
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => self.tick(&mut next),
            Action::Decide(at) => next.beats[at] = Beat::Claims(state.now),
            Action::Replay(at, slot) => {
                next.beats[at] = if state.now - slot > GRACE {
                    Beat::Closes { slot, fired: false }
                } else {
                    Beat::Fires { slot, since: state.now }
                };
            }
            Action::Call(at) => next.beats[at] = self.call(&mut next, state.beats[at]),
            Action::CallUnheard(at) => {
                self.call(&mut next, state.beats[at]);
                next.beats[at] = Beat::Idle;
            }
            Action::Die(at) => next.beats[at] = Beat::Idle,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_TASK, |_, state: &State| {
                state.tasks.iter().all(|tasks| *tasks <= 1)
            }),
            Property::always(NONE_FORGOTTEN, |_, state: &State| {
                (1..=SLOTS).all(|slot| match state.slots[slot] {
                    Slot::Unclaimed => state.tasks[slot] == 0,
                    Slot::Open | Slot::Missed => true,
                    Slot::OpenUnseen => state.beats.iter().any(|beat| beat.is_at(slot)),
                    Slot::Fired => state.tasks[slot] > 0,
                })
            }),
            Property::sometimes("a slot is missed", |_, state: &State| {
                (1..=SLOTS).any(|slot| state.slots[slot] == Slot::Missed && state.tasks[slot] == 0)
            }),
            Property::sometimes("two beats fire the same slot", |_, state: &State| {
                (1..=SLOTS).any(|slot| {
                    state
                        .beats
                        .iter()
                        .all(|beat| matches!(beat, Beat::Fires { slot: one, .. } if *one == slot))
                })
            }),
            Property::sometimes("a claim comes too late", |_, state: &State| {
                let late = |beat: &Beat| matches!(beat, Beat::Claims(slot) if *slot < state.last);
                state.beats.iter().any(late)
            }),
            Property::sometimes("a fired slot is fired again", |_, state: &State| {
                let again = |beat: &Beat| matches!(beat, Beat::Fires { slot, .. } if state.tasks[*slot] > 0);
                state.beats.iter().any(again)
            }),
        ]
    }
}

impl Beat {
    fn is_at(self, this: usize) -> bool {
        match self {
            Self::Idle | Self::Claims(_) => false,
            Self::Fires { slot, .. } | Self::Closes { slot, .. } => slot == this,
        }
    }
}

impl Timetable {
    fn tick(&self, state: &mut State) {
        state.now += 1;
        let life = if self.rules.key_outlives_grace { KEY_LIFE } else { GRACE };
        for slot in 1..=SLOTS {
            state.keys[slot] &= state.now < slot + life;
        }
        for beat in &mut state.beats {
            match beat {
                Beat::Fires { since, .. } if self.rules.fired_in_time && state.now > *since + 1 => {
                    *beat = Beat::Idle;
                }
                _ => {}
            }
        }
    }

    /// The scripts: what the caller does next, if it hears the answer.
    fn call(&self, state: &mut State, beat: Beat) -> Beat {
        match beat {
            Beat::Idle => Beat::Idle,
            Beat::Claims(slot) => {
                if self.rules.claim_compared && state.last >= slot {
                    return Beat::Idle;
                }
                state.last = slot;
                state.slots[slot] =
                    if self.rules.intent_with_claim { Slot::Open } else { Slot::OpenUnseen };
                Beat::Fires { slot, since: state.now }
            }
            Beat::Fires { slot, .. } => {
                if !(self.rules.keyed && state.keys[slot]) {
                    state.tasks[slot] = 2.min(state.tasks[slot] + 1);
                    state.keys[slot] = state.now < slot + KEY_LIFE;
                }
                Beat::Closes { slot, fired: true }
            }
            Beat::Closes { slot, fired } => {
                // Whoever comes second finds no intent, and notes nothing.
                if matches!(state.slots[slot], Slot::Open | Slot::OpenUnseen) {
                    state.slots[slot] = if fired { Slot::Fired } else { Slot::Missed };
                }
                Beat::Idle
            }
        }
    }
}

#[test]
fn each_slot_gives_one_task_whoever_dies_and_freezes() {
    let explored =
        explore("slots of a schedule", Timetable { rules: KEPT }, HasDiscoveries::AnyFailures);
    for property in (Timetable { rules: KEPT }).properties() {
        let (name, found) = (property.name, explored.found.get(property.name));
        if property.expectation.discovery_is_failure() {
            assert!(found.is_none(), "{name} is broken by\n{}", found.map_or("", String::as_str));
        } else {
            assert!(found.is_some(), "never came past: {name}");
        }
    }
    assert!(explored.states >= 50_000, "only {} states", explored.states);
}

#[test]
fn without_one_of_its_rules_a_slot_gives_two_tasks_or_none() {
    for (rule, rules, breaks) in [
        ("a claim compares", Rules { claim_compared: false, ..KEPT }, ONE_TASK),
        ("the slot is the key", Rules { keyed: false, ..KEPT }, ONE_TASK),
        ("the key outlives the grace", Rules { key_outlives_grace: false, ..KEPT }, ONE_TASK),
        (
            "the intent comes with the claim",
            Rules { intent_with_claim: false, ..KEPT },
            NONE_FORGOTTEN,
        ),
        ("a slot is fired soon or not at all", Rules { fired_in_time: false, ..KEPT }, ONE_TASK),
    ] {
        let found = HasDiscoveries::AllOf(BTreeSet::from([breaks]));
        let explored = explore(&format!("without “{rule}”"), Timetable { rules }, found);
        let steps = explored.found.get(breaks);
        assert!(steps.is_some(), "without “{rule}” it still holds: {breaks}");
        println!("  {breaks} is broken by\n{}", steps.map_or("", String::as_str));
    }
}
