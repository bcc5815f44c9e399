//! Each rule is there for something: without it the model finds how an invariant breaks.

use std::collections::BTreeSet;

use stateright::HasDiscoveries;

use super::{
    action::Protocol,
    check::{I1, I2, I3, I4, I5, I10, I11, I16, L1, properties},
    explore,
    rules::{Bounds, Faults, Rules},
    tally::Tally,
};

/// A rule broken, how little must go wrong for it to show, and what it breaks.
struct Row {
    rule: &'static str,
    rules: Rules,
    faults: Faults,
    permits: usize,
    breaks: &'static [&'static str],
}

fn rows() -> Vec<Row> {
    let silence = Faults { together: 1, silences: 1, ..Faults::NONE };
    let failover = Faults { together: 1, failovers: 1, ..Faults::NONE };
    let flush = Faults { together: 1, flushes: 1, ..Faults::NONE };
    let lost_settle = Faults { together: 1, lost_settles: 1, ..Faults::NONE };
    let deaths = Faults { together: 3, crashes: 3, ..Faults::NONE };
    let fails_and_silence = Faults { together: 2, failures: 1, silences: 1, ..Faults::NONE };
    let fails_and_failover =
        Faults { together: 4, failures: 2, silences: 1, failovers: 1, ..Faults::NONE };
    let kept = Rules::KEPT;
    vec![
        Row {
            rule: "the run_id is compared",
            rules: Rules { run_compared: false, ..kept },
            faults: failover,
            permits: 2,
            breaks: &[I16],
        },
        Row {
            rule: "the generation is compared",
            rules: Rules { generation_compared: false, ..kept },
            faults: flush,
            permits: 2,
            breaks: &[I16],
        },
        Row {
            rule: "the run_id is read before the read",
            rules: Rules { tagged_before_read: false, ..kept },
            faults: failover,
            permits: 2,
            breaks: &[I16],
        },
        Row {
            rule: "after an EPOCH the entries are looked at",
            rules: Rules { revalidated: false, ..kept },
            faults: failover,
            permits: 2,
            breaks: &[I16],
        },
        Row {
            rule: "the attempt is compared, not only the task",
            rules: Rules { attempt_compared: false, ..Rules::BY_ENTRY },
            faults: fails_and_failover,
            permits: 1,
            breaks: &[I5],
        },
        Row {
            rule: "the gate is heeded",
            rules: Rules { gate_heeded: false, ..kept },
            faults: fails_and_silence,
            permits: 2,
            breaks: &[I1, I2, I4],
        },
        Row {
            rule: "XDEL comes with XACK",
            rules: Rules { deleted_with_ack: false, ..kept },
            faults: lost_settle,
            permits: 2,
            breaks: &[I2, I10],
        },
        Row {
            rule: "a task is added again, never claimed",
            rules: Rules { added_anew: false, ..kept },
            faults: silence,
            permits: 2,
            breaks: &[I3],
        },
        Row {
            rule: "a consumer is deleted when nothing is pending for it",
            rules: Rules { deleted_when_empty: false, ..kept },
            faults: silence,
            permits: 2,
            breaks: &[I1, I10],
        },
        Row {
            rule: "who is silent is declared dead before it is recovered",
            rules: Rules { declared_first: false, ..kept },
            faults: silence,
            permits: 2,
            breaks: &[I11],
        },
        Row {
            rule: "who is declared dead beats no more",
            rules: Rules { mark_heeded: false, ..kept },
            faults: silence,
            permits: 2,
            breaks: &[I11],
        },
        Row {
            rule: "recovery is a level, not an edge",
            rules: Rules { recovered_as_a_level: false, ..kept },
            faults: silence,
            permits: 2,
            breaks: &[L1],
        },
        Row {
            rule: "from the second death on only what was started is charged",
            rules: Rules { only_suspects_charged: false, ..kept },
            faults: deaths,
            permits: 1,
            breaks: &[I5],
        },
    ]
}

#[test]
fn without_one_of_its_rules_the_protocol_breaks() {
    for Row { rule, rules, faults, permits, breaks } in rows() {
        let bounds = Bounds { faults, permits, tracked: true, max_attempts: 2, lag_max: 3 };
        let protocol = Protocol { rules, bounds, tally: Tally::default() };
        let all = HasDiscoveries::AllOf(breaks.iter().copied().collect::<BTreeSet<_>>());
        let explored = explore(&format!("without “{rule}”"), protocol, all);
        for property in breaks {
            let steps = explored.found.get(property);
            assert!(steps.is_some(), "without “{rule}” {property} still holds");
            println!("  {property} is broken by\n{}", steps.map_or("", String::as_str));
        }
    }
}

#[test]
fn every_invariant_is_broken_by_some_rule() {
    let broken: BTreeSet<_> = rows().iter().flat_map(|row| row.breaks).copied().collect();
    let all: BTreeSet<_> = properties().iter().map(|property| property.name).collect();
    assert_eq!(broken, all);
}
