//! The protocol with all its rules kept: nothing that may go wrong breaks an invariant.

use std::collections::HashMap;

use stateright::{HasDiscoveries, Model};

use super::{
    action::Protocol,
    explore,
    rules::{Bounds, Faults, Rules},
    tally::{Event, Tally},
};

/// Looks at every state there is. `at_least`: fewer states mean that the model has lost something.
fn holds(name: &str, rules: Rules, bounds: Bounds, at_least: usize, events: &[Event]) -> Tally {
    let tally = Tally::default();
    let protocol = Protocol { rules, bounds, tally: tally.clone() };
    let explored = explore(name, protocol, HasDiscoveries::AnyFailures);
    if let Some((property, steps)) = explored.found.first_key_value() {
        panic!("{name}: {property} is broken by\n{steps}");
    }
    for event in Event::ALL {
        println!("  {event:?}: {}", tally.of(event));
    }
    assert!(explored.states >= at_least, "{name}: only {} states", explored.states);
    for event in events {
        assert!(tally.of(*event) > 0, "{name}: never came past {event:?}");
    }
    tally
}

#[test]
fn any_two_things_may_go_wrong() {
    let faults = Faults {
        together: 2,
        failures: 2,
        crashes: 2,
        silences: 2,
        lost_fetches: 2,
        lost_settles: 2,
        failovers: 1,
        flushes: 1,
    };
    let bounds = Bounds { faults, permits: 1, tracked: true, max_attempts: 2, lag_max: 3 };
    holds("any two things go wrong", Rules::KEPT, bounds, 250_000, &Event::ALL);
}

#[test]
fn workers_that_run_two_tasks_at_once_may_die_and_wake_up() {
    let faults = Faults {
        together: 2,
        failures: 1,
        crashes: 1,
        silences: 1,
        lost_fetches: 1,
        lost_settles: 1,
        ..Faults::NONE
    };
    let bounds = Bounds { faults, permits: 2, tracked: false, max_attempts: 2, lag_max: 0 };
    let events = [
        Event::StaleRefused,
        Event::GhostAdopted,
        Event::Fenced,
        Event::NotDeclared,
        Event::RecoveredTwice,
        Event::RecoveredAgain,
    ];
    let tally = holds("two tasks at once", Rules::KEPT, bounds, 100_000, &events);
    assert_eq!(tally.of(Event::InHandTwice), 0, "only a loss of data brings an entry twice");
}

#[test]
fn a_batch_may_be_settled_across_a_loss_of_data() {
    let faults = Faults {
        together: 2,
        failures: 1,
        lost_settles: 1,
        failovers: 1,
        flushes: 1,
        ..Faults::NONE
    };
    let bounds = Bounds { faults, permits: 2, tracked: false, max_attempts: 2, lag_max: 2 };
    let events = [
        Event::StaleRefused,
        Event::EpochRefused,
        Event::Kept,
        Event::Dropped,
        Event::IdReused,
        Event::Lost,
        Event::CompletedAgain,
    ];
    holds("batches across a loss of data", Rules::KEPT, bounds, 100_000, &events);
}

#[test]
fn entries_may_be_compared_where_the_run_id_is_hidden() {
    let faults = Faults {
        together: 2,
        failures: 1,
        crashes: 1,
        silences: 1,
        lost_settles: 1,
        failovers: 1,
        flushes: 1,
        ..Faults::NONE
    };
    let bounds = Bounds { faults, permits: 1, tracked: true, max_attempts: 2, lag_max: 2 };
    let events = [
        Event::StaleRefused,
        Event::NotStarted,
        Event::Lost,
        Event::RecoveredUnmarked,
        Event::CompletedAgain,
    ];
    holds("entries are compared", Rules::BY_ENTRY, bounds, 120_000, &events);
}

/// What L1 rests on: a state that is left never comes again.
#[test]
fn no_run_goes_on_for_ever() {
    let faults = Faults {
        together: 1,
        failures: 1,
        crashes: 1,
        silences: 1,
        lost_fetches: 1,
        lost_settles: 1,
        failovers: 1,
        flushes: 1,
    };
    let bounds = Bounds { faults, permits: 2, tracked: false, max_attempts: 2, lag_max: 3 };
    let protocol = Protocol { rules: Rules::KEPT, bounds, tally: Tally::default() };

    let mut states = protocol.init_states();
    let mut places: HashMap<_, _> = states.iter().cloned().zip(0..).collect();
    let mut following: Vec<Vec<usize>> = Vec::new();
    while let Some(state) = states.get(following.len()).cloned() {
        let mut places_of = Vec::new();
        for next in protocol.next_states(&state) {
            let place = *places.entry(next.clone()).or_insert(states.len());
            if place == states.len() {
                states.push(next);
            }
            places_of.push(place);
        }
        following.push(places_of);
    }

    let mut leading = vec![0; states.len()];
    following.iter().flatten().for_each(|place| leading[*place] += 1);
    let mut free = vec![0];
    let mut passed = 0;
    while let Some(place) = free.pop() {
        passed += 1;
        for next in &following[place] {
            leading[*next] -= 1;
            if leading[*next] == 0 {
                free.push(*next);
            }
        }
    }
    println!("no run goes on for ever: {} states", states.len());
    assert_eq!(passed, states.len(), "some states lead back to themselves");
}
