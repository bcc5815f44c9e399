//! The auditor sees what it is there to see: each made-up run has one thing wrong with it.

use super::*;
use crate::chaos::{
    aof::{read_from, tests::written},
    history::Moment,
};

const A: &str = "chaos-00000000-0000-7000-8000-00000000000a";
const B: &str = "chaos-00000000-0000-7000-8000-00000000000b";

/// Two workers, of the processes 10 and 20.
const WORKERS: &str = r#"
    HSET umbel:{workers}:info w1 {"pid":10}
    HSET umbel:{workers}:info w2 {"pid":20}"#;

/// Both tasks are enqueued as the entries 1-0 and 2-0.
const ENQUEUED: &str = "
    MULTI
    XADD umbel:{chaos}:ready:normal 1-0 id A attempt 1 crashes 0
    HSET umbel:{chaos}:task:A state queued max 3
    XADD umbel:{chaos}:ready:normal 2-0 id B attempt 1 crashes 0
    HSET umbel:{chaos}:task:B state queued max 3
    EXEC";

const READ: &str = "
    XCLAIM umbel:{chaos}:ready:normal workers w1 0 1-0 TIME 1000 RETRYCOUNT 1 FORCE JUSTID LASTID 1-0
    XCLAIM umbel:{chaos}:ready:normal workers w1 0 2-0 TIME 1000 RETRYCOUNT 1 FORCE JUSTID LASTID 2-0";

/// w1 dies; w2 runs A again, which is the entry 3-0 now.
const RECOVERED: &str = "
    MULTI
    XADD umbel:{chaos}:ready:recovered 3-0 id A attempt 1 crashes 1
    XACK umbel:{chaos}:ready:normal workers 1-0
    XDEL umbel:{chaos}:ready:normal 1-0
    EXEC
    XCLAIM umbel:{chaos}:ready:recovered workers w2 0 3-0 TIME 9000 RETRYCOUNT 1 FORCE JUSTID LASTID 3-0";

fn settled(stream: &str, entry: &str, id: &str) -> String {
    format!(
        "MULTI
         XACK umbel:{{chaos}}:ready:{stream} workers {entry}
         XDEL umbel:{{chaos}}:ready:{stream} {entry}
         HSET umbel:{{chaos}}:task:{id} state succeeded max 3 finished 9500
         EXEC\n"
    )
}

fn ledger(commands: &[&str]) -> Ledger {
    let text = commands
        .join("\n")
        .replace("id A", &format!("id {A}"))
        .replace("task:A", &format!("task:{A}"));
    let text = text.replace("id B", &format!("id {B}")).replace("task:B", &format!("task:{B}"));
    let mut ledger = Ledger::default();
    read_from(&mut written(&text).as_slice(), &mut |commands: &[_]| ledger.apply(commands))
        .unwrap();
    ledger
}

pub(in crate::chaos) fn history(text: &str) -> History {
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.trim().replace(" A ", &format!(" {A} ")).replace(" B ", &format!(" {B} ")))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("\n").parse().unwrap()
}

/// Both tasks were run to their ends by process 10, and everything is as it should be.
pub(in crate::chaos) fn sound() -> Evidence {
    Evidence {
        accepted: [A, B].map(|id| id.parse().unwrap()).to_vec(),
        history: history(
            "start 100 100 10 1 A -
             effect 110 110 10 1 A aa
             end 120 120 10 1 A done
             start 100 100 10 1 B -
             effect 110 110 10 1 B bb
             end 120 120 10 1 B done",
        ),
        ledger: ledger(&[
            WORKERS,
            ENQUEUED,
            READ,
            &settled("normal", "1-0", "A"),
            &settled("normal", "2-0", "B"),
        ]),
        effects: Some(vec![(A.to_owned(), "a-a".to_owned()), (B.to_owned(), "b-b".to_owned())]),
        living: BTreeSet::from([10]),
        ..Evidence::default()
    }
}

fn kill(pid: u32, monotonic: i64) -> Fault {
    Fault::kill(pid, Moment { wall: 0, monotonic })
}

/// The laws that were broken.
fn laws(audit: &Audit) -> Vec<&'static str> {
    audit.wrongs.iter().map(|wrong| wrong.law).collect()
}

#[test]
fn a_sound_run_has_nothing_wrong() {
    let audit = Audit::of(&sound());
    assert_eq!(audit.wrongs, []);
    assert_eq!((audit.tasks, audit.succeeded, audit.executions), (2, 2, 2));
    assert!(audit.lost.is_empty() && audit.unexplained.is_empty());
    assert_eq!((audit.repeated, audit.double_effects), (0, 0));
}

#[test]
fn a_task_that_was_accepted_and_never_written_is_lost() {
    let mut evidence = sound();
    evidence.ledger = ledger(&[WORKERS]);
    let audit = Audit::of(&evidence);
    assert_eq!(audit.lost, [A, B]);
    assert!(audit.unwritten.is_empty());
}

#[test]
fn how_long_before_a_fault_redis_held_back_what_is_lost_is_told() {
    let mut evidence = sound();
    evidence.ledger = ledger(&[WORKERS]);
    // Both ids say that they were made when the clock began.
    evidence.faults =
        [900, 700].map(|wall| Fault::kill(10, Moment { wall, monotonic: 0 })).to_vec();
    let audit = Audit::of(&evidence);
    assert_eq!(audit.unwritten, BTreeMap::from([A, B].map(|id| (id.to_owned(), 700))));
}

#[test]
fn a_task_that_was_deleted_without_an_end_is_lost() {
    let mut evidence = sound();
    let lost = "
        MULTI
        XACK umbel:{chaos}:ready:normal workers 1-0
        XDEL umbel:{chaos}:ready:normal 1-0
        EXEC";
    evidence.ledger = ledger(&[WORKERS, ENQUEUED, READ, lost, &settled("normal", "2-0", "B")]);
    let audit = Audit::of(&evidence);
    assert_eq!(audit.lost, [A]);
    assert_eq!(laws(&audit), ["I1"]);
}

#[test]
fn a_task_that_ends_twice_is_seen() {
    let mut evidence = sound();
    let again = "HSET umbel:{chaos}:task:A state succeeded max 3 finished 9900";
    evidence.ledger = ledger(&[
        WORKERS,
        ENQUEUED,
        READ,
        &settled("normal", "1-0", "A"),
        &settled("normal", "2-0", "B"),
        again,
    ]);
    let audit = Audit::of(&evidence);
    assert_eq!(laws(&audit), ["I2"]);
    assert_eq!(audit.succeeded, 2);
}

#[test]
fn a_task_that_succeeded_without_a_run_is_seen() {
    let mut evidence = sound();
    evidence.history.lines.retain(|line| line.task.as_str() != B);
    evidence.effects = None;
    assert_eq!(laws(&Audit::of(&evidence)), ["I2"]);
}

#[test]
fn an_entry_that_was_handed_out_and_is_held_by_nobody_is_an_orphan() {
    let mut evidence = sound();
    evidence.ledger = ledger(&[WORKERS, ENQUEUED, READ, &settled("normal", "1-0", "A")]);
    let key = "umbel:{chaos}:ready:normal".to_owned();
    evidence.walk.entries.insert(key.clone(), BTreeMap::from([((2, 0), B.to_owned())]));
    evidence.walk.held.insert(key.clone(), BTreeMap::new());
    evidence.walk.handed_out.insert(key.clone(), (2, 0));
    let audit = Audit::of(&evidence);
    assert_eq!(laws(&audit), ["I10", "L1"]);
    // While somebody holds it, it only has not ended yet.
    evidence.walk.held.insert(key, BTreeMap::from([((2, 0), "w1".to_owned())]));
    assert_eq!(laws(&Audit::of(&evidence)), ["L1"]);
}

#[test]
fn a_held_entry_without_its_body_is_seen() {
    let mut evidence = sound();
    let key = "umbel:{chaos}:ready:normal".to_owned();
    evidence.walk.entries.insert(key.clone(), BTreeMap::new());
    evidence.walk.held.insert(key, BTreeMap::from([((2, 0), "w1".to_owned())]));
    assert_eq!(laws(&Audit::of(&evidence)), ["I6"]);
}

#[test]
fn an_entry_with_two_owners_is_seen() {
    let mut evidence = sound();
    let stolen = "XCLAIM umbel:{chaos}:ready:normal workers w2 0 1-0 TIME 1000";
    evidence.ledger = ledger(&[
        WORKERS,
        ENQUEUED,
        READ,
        stolen,
        &settled("normal", "1-0", "A"),
        &settled("normal", "2-0", "B"),
    ]);
    assert_eq!(laws(&Audit::of(&evidence)), ["I3"]);
}

#[test]
fn a_consumer_that_is_deleted_with_what_it_holds_is_seen() {
    let mut evidence = sound();
    let deleted = "XGROUP DELCONSUMER umbel:{chaos}:ready:normal workers w1";
    evidence.ledger = ledger(&[
        WORKERS,
        ENQUEUED,
        READ,
        &settled("normal", "1-0", "A"),
        deleted,
        &settled("normal", "2-0", "B"),
    ]);
    assert_eq!(laws(&Audit::of(&evidence)), ["I10"]);
}

#[test]
fn counters_that_go_back_are_seen() {
    let mut evidence = sound();
    let earlier = RECOVERED.replace("attempt 1 crashes 1", "attempt 0 crashes 1");
    evidence.ledger = ledger(&[
        WORKERS,
        ENQUEUED,
        READ,
        &earlier,
        &settled("recovered", "3-0", "A"),
        &settled("normal", "2-0", "B"),
    ]);
    assert_eq!(laws(&Audit::of(&evidence)), ["I5"]);
}

#[test]
fn a_worker_that_beats_after_its_death_is_seen() {
    let mut evidence = sound();
    let commands = "
        HSET umbel:{workers}:heartbeat w1 dead-1
        HINCRBY umbel:{workers}:heartbeat w1 1";
    let rest = [settled("normal", "1-0", "A"), settled("normal", "2-0", "B")];
    evidence.ledger = ledger(&[WORKERS, ENQUEUED, READ, commands, &rest[0], &rest[1]]);
    assert_eq!(laws(&Audit::of(&evidence)), ["I11"]);
}

#[test]
fn what_a_flush_took_is_told_and_is_not_lost() {
    let mut evidence = sound();
    evidence.ledger =
        ledger(&[WORKERS, ENQUEUED, READ, &settled("normal", "1-0", "A"), "flushall", WORKERS]);
    let audit = Audit::of(&evidence);
    assert_eq!((audit.taken.as_slice(), audit.succeeded), ([B.to_owned()].as_slice(), 1));
    assert!(audit.lost.is_empty());
    assert_eq!(audit.wrongs, []);
}

#[test]
fn what_a_deleted_stream_took_is_told_and_what_waits_elsewhere_is_not_in_it() {
    let mut evidence = sound();
    let rest = "DEL umbel:{chaos}:ready:normal";
    evidence.ledger =
        ledger(&[WORKERS, ENQUEUED, READ, RECOVERED, rest, &settled("recovered", "3-0", "A")]);
    let audit = Audit::of(&evidence);
    assert_eq!(audit.taken, [B]);
    assert_eq!((audit.lost.len(), audit.succeeded), (0, 1));
}

#[test]
fn what_was_wiped_out_must_not_return() {
    let mut evidence = sound();
    let back = "XADD umbel:{chaos}:ready:normal 9-0 id B attempt 1 crashes 0";
    evidence.ledger = ledger(&[WORKERS, ENQUEUED, "FLUSHALL", back]);
    assert!(laws(&Audit::of(&evidence)).contains(&"I16"));
}

#[test]
fn a_second_start_is_explained_by_the_death_of_the_first_and_by_nothing_else() {
    let mut evidence = sound();
    let again = "start 9000 9000 20 1 A -\nend 9100 9100 20 1 A done\nstart 9200 9200 20 2 A -";
    evidence.history.lines.extend(history(again).lines);
    let audit = Audit::of(&evidence);
    assert_eq!((audit.executions, audit.repeated, audit.retries), (4, 1, 1));
    assert_eq!(audit.unexplained.len(), 1);
    // The death of another, one before the first start, one after the second.
    for (pid, at, unexplained) in [(20, 500, 1), (10, 50, 1), (10, 9_050, 1), (10, 500, 0)] {
        evidence.faults = vec![kill(pid, at)];
        assert_eq!(Audit::of(&evidence).unexplained.len(), unexplained, "{pid} at {at}");
    }
}

#[test]
fn a_recovery_lasts_from_the_death_to_the_new_start_of_what_was_held() {
    let mut evidence = sound();
    evidence.ledger = ledger(&[
        WORKERS,
        ENQUEUED,
        READ,
        RECOVERED,
        &settled("recovered", "3-0", "A"),
        &settled("normal", "2-0", "B"),
    ]);
    // B had ended before the death, and A had only been handed out.
    evidence.history = history(
        "start 100 100 10 1 B -
         effect 110 110 10 1 B bb
         end 120 120 10 1 B done
         start 9000 9000 20 1 A -
         effect 9010 9010 20 1 A aa
         end 9100 9100 20 1 A done",
    );
    evidence.faults = vec![kill(10, 400)];
    let audit = Audit::of(&evidence);
    assert_eq!(audit.wrongs, []);
    assert_eq!(audit.recoveries, [8_600]);
    // Held, too, is what was started and did not end, whatever Redis says of it.
    evidence.ledger = ledger(&[WORKERS, ENQUEUED]);
    evidence.history.lines.extend(history("start 300 300 10 1 A -").lines);
    evidence.history.lines.sort_by_key(|line| line.at.monotonic);
    assert_eq!(Audit::of(&evidence).recoveries, [8_600]);
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let of = |recoveries: &[i64], percent| {
        Audit { recoveries: recoveries.to_vec(), ..Audit::default() }.recovery(percent)
    };
    assert_eq!(of(&[], 99), None);
    assert_eq!((of(&[7], 50), of(&[7], 99)), (Some(7), Some(7)));
    let hundred: Vec<i64> = (1..=100).collect();
    assert_eq!((of(&hundred, 50), of(&hundred, 99)), (Some(50), Some(99)));
}

#[test]
fn an_effect_that_is_missing_doubled_or_changed_is_seen() {
    let effect = |id: &str, token: &str| (id.to_owned(), token.to_owned());
    let mut evidence = sound();
    evidence.effects = Some(vec![effect(A, "aa")]);
    evidence.history.lines.retain(|line| line.note != "bb");
    assert_eq!(laws(&Audit::of(&evidence)), ["I13"]);

    let mut evidence = sound();
    evidence.effects = Some(vec![effect(A, "aa"), effect(B, "bb"), effect(B, "bb")]);
    let audit = Audit::of(&evidence);
    assert_eq!((audit.double_effects, laws(&audit)), (1, vec!["I13"]));

    let mut evidence = sound();
    evidence.effects = Some(vec![effect(A, "cc"), effect(B, "bb")]);
    assert_eq!(laws(&Audit::of(&evidence)), ["I14"]);
}

#[test]
fn a_body_that_is_never_due_and_a_due_id_without_a_body_are_seen() {
    let mut evidence = sound();
    evidence.walk.waiting.insert(A.to_owned());
    assert_eq!(laws(&Audit::of(&evidence)), ["I1"]);
    evidence.walk.due.insert(A.to_owned());
    assert_eq!(laws(&Audit::of(&evidence)), [""; 0]);
    evidence.walk.waiting.clear();
    assert_eq!(laws(&Audit::of(&evidence)), ["I1"]);
}

#[test]
fn a_reader_that_lives_no_more_is_seen() {
    let mut evidence = sound();
    evidence.walk.consumers.insert("w1".to_owned());
    assert_eq!(Audit::of(&evidence).wrongs, []);
    evidence.walk.consumers.insert("w2".to_owned());
    assert_eq!(laws(&Audit::of(&evidence)), ["L5"]);
}

#[test]
fn keys_that_the_file_does_not_lead_to_are_seen() {
    let mut evidence = sound();
    let key = "umbel:{chaos}:ready:low".to_owned();
    evidence.walk.entries.insert(key, BTreeMap::from([((1, 0), A.to_owned())]));
    assert_eq!(laws(&Audit::of(&evidence)), ["I1"]);
}
