//! `why` explains every way in which a task may not be running.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde_json::json;
use umbel_broker::{Held, NewTask, Settlement, Settler, Verdict, liveness::Cause};
use umbel_proto::TaskId;
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::{House, terms},
    probe::{Act, LATER, Probe, shard},
};

use super::{json as asked, said};
use crate::poison::NewEntry;

const LONG: Duration = Duration::from_secs(3_600);

/// The word and the sentence.
fn why(house: &House, id: &TaskId) -> (String, String) {
    let answer = asked(house, &["why", id.as_str()]);
    assert_eq!(answer["id"], id.as_str());
    let part = |name: &str| answer[name].as_str().unwrap().to_owned();
    assert_eq!(said(house, &["why", id.as_str()]).lines().count(), 1, "one sentence");
    (part("reason"), part("sentence"))
}

fn explained(house: &House, id: &TaskId, reason: &str, parts: &[&str]) {
    let (word, sentence) = why(house, id);
    assert_eq!(word, reason, "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "`{part}` is not told: {sentence}");
    }
}

async fn enqueue(house: &House, name: &str, act: Act) -> TaskId {
    house.client.enqueue(Probe::new(name, act)).await.unwrap().id().clone()
}

async fn runs(house: &House, name: &str) {
    eventually("it runs", async || house.record.order().contains(&name.to_owned()).then_some(()))
        .await;
}

/// Ends a run of what is ready as a worker would.
async fn settle(house: &House, verdict: Verdict) {
    let held = Held::default();
    let delivery = house.consumer("w", &held).fetch(1).await.unwrap().pop().unwrap();
    let (settler, settling) = Settler::start(house.client.clone(), "w".to_owned(), held.clone());
    settler.settle(Settlement { delivery, verdict, terms: terms() }).await;
    drop(settler);
    settling.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_queue_is_paused() {
    let house = House::start();
    let id = enqueue(&house, "a", Act::Ok).await;
    let at = Utc::now() - TimeDelta::minutes(5);
    house.client.pause(shard().queue(), "ann", "the host is down", at).await.unwrap();
    explained(&house, &id, "paused", &["paused by ann, 5 min ago: the host is down"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_held_by_another_task() {
    let house = House::start();
    let worker = house.worker(2);
    enqueue(&house, "first", Act::Room("example.com".to_owned())).await;
    runs(&house, "first").await;
    let second = enqueue(&house, "second", Act::Room("example.com".to_owned())).await;
    // It asks again and again; between two asks it is delayed.
    let sentence = eventually("it waits for room", async || {
        let (word, sentence) = why(&house, &second);
        (word == "limit").then_some(sentence)
    })
    .await;
    assert!(sentence.contains("limit probe:example.com"), "{sentence}");
    assert!(
        sentence.contains("whose place is held by another task, leased until 20"),
        "{sentence}"
    );
    house.record.open("first");
    house.record.open("second");
    house.ended(&second).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_paused_until_its_host_has_patience_again() {
    let house = House::start();
    house.client.pause_limit("probe", "example.com", Duration::from_secs(600)).await.unwrap();
    let id = enqueue(&house, "a", Act::Room("example.com".to_owned())).await;
    let worker = house.worker(1);
    eventually_eq("it is put off", 1, async || house.queue().await.delayed).await;
    explained(&house, &id, "limit", &["limit probe:example.com, which is paused until 20", "UTC"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_time_has_not_come() {
    let house = House::start();
    let probe = house.client.enqueue(Probe::new("a", Act::Ok)).delay(2 * LONG);
    let id = probe.await.unwrap().id().clone();
    explained(&house, &id, "due", &["it is due in 119 min"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_failed_and_is_tried_again_later() {
    let house = House::start();
    let id = enqueue(&house, "a", Act::Ok).await;
    let error = "no route to host".to_owned();
    settle(&house, Verdict::Retry { delay: LONG, error }).await;
    explained(&house, &id, "retrying", &["no route to host", "attempt 2 of 3 comes in 59 min"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_knows_its_name() {
    let house = House::start();
    let worker = house.worker(1);
    let mut new = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    new.task = LATER.parse().unwrap();
    let id = house.client.submit(new).await.unwrap().id;
    eventually_eq("it is parked", 1, async || house.queue().await.parked).await;
    explained(&house, &id, "parked", &["no worker knows `probe.later`", "dead letter in 23 h"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_worker() {
    let house = House::start();
    let id = enqueue(&house, "a", Act::Ok).await;
    explained(&house, &id, "no-worker", &["queue default", "there is none at all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_that_there_are_serve_other_queues() {
    let house = House::start();
    let mut new = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    new.queue = "upkeep".parse().unwrap();
    let id = house.client.submit(new).await.unwrap().id;
    let worker = house.worker(1);
    eventually("the worker tells of itself", async || {
        (house.client.living_workers().await.unwrap().len() == 1).then_some(())
    })
    .await;
    explained(&house, &id, "no-worker", &["queue upkeep", "the 1 there are serve default"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_worker_is_dead() {
    let house = House::start();
    let id = enqueue(&house, "a", Act::Ok).await;
    house.client.heartbeat("w", "{}").await.unwrap();
    let taken = house.consumer("w", &Held::default()).fetch(1).await.unwrap();
    let cause = Cause::Crashed("SIGSEGV".to_owned());
    assert!(house.client.declare_dead("w", "1", &cause, Utc::now()).await.unwrap());
    explained(&house, &id, "worker-lost", &["worker w", "dead", "crashed SIGSEGV", "recovered"]);
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_worker_is_silent_and_nobody_has_declared_it_dead_yet() {
    let house = House::start();
    let id = enqueue(&house, "a", Act::Ok).await;
    let info = json!({"queues": ["default"], "beat": Utc::now() - TimeDelta::seconds(40)});
    house.client.heartbeat("w", &info.to_string()).await.unwrap();
    let taken = house.consumer("w", &Held::default()).fetch(1).await.unwrap();
    explained(&house, &id, "worker-lost", &["worker w", "nothing for 4", "after its lease"]);
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_what_kills_workers_and_waits_to_run_alone() {
    let house = House::start();
    let worker = house.worker(3);
    enqueue(&house, "before", Act::Hold).await;
    runs(&house, "before").await;
    let id = NewEntry::with_crashes("suspect", 2).add(&house);
    let both = async || house.queue().await.running;
    eventually_eq("the suspect is taken", 2, both).await;
    explained(&house, &id, "quarantined", &["2 workers died", "run alone"]);
    house.record.open("before");
    eventually("it has run", async || {
        (house.record.order() == ["before", "suspect"]).then_some(())
    })
    .await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_behind_others() {
    let house = House::start();
    let worker = house.worker(1);
    enqueue(&house, "held", Act::Hold).await;
    runs(&house, "held").await;
    // More than one look shows, and some that come first.
    let probes = (0..150).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).await.unwrap();
    let last = enqueue(&house, "last", Act::Ok).await;
    let urgent = house.client.enqueue(Probe::new("urgent", Act::Ok));
    let urgent = urgent.priority(umbel_proto::Priority::High).await.unwrap();
    explained(&house, &last, "waiting", &["behind 151 others", "of 1 at once"]);
    explained(&house, urgent.id(), "next", &["it is next"]);
    house.record.open("held");
    house.ended(&last).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_running_or_asked_to_end() {
    let house = House::start();
    let worker = house.worker(1);
    let id = enqueue(&house, "held", Act::Hold).await;
    runs(&house, "held").await;
    explained(&house, &id, "running", &["running on test-", "attempt 1"]);
    let waits = enqueue(&house, "waits", Act::Ok).await;
    house.client.cancel(&waits, "ann").await.unwrap();
    explained(&house, &waits, "cancelling", &["ann has asked for its end"]);
    house.record.open("held");
    house.ended(&waits).await;
    explained(&house, &waits, "cancelled", &["by ann"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_ended() {
    let house = House::start();
    let worker = house.worker(1);
    let lost = enqueue(&house, "lost", Act::Fatal("no such shop".to_owned())).await;
    let done = enqueue(&house, "done", Act::Ok).await;
    let late = house.client.enqueue(Probe::new("late", Act::Ok)).expires_in(Duration::ZERO);
    let late = late.await.unwrap().id().clone();
    for id in [&lost, &done, &late] {
        house.ended(id).await;
    }
    let again = format!("`redrive {lost}` runs it again");
    explained(&house, &lost, "failed", &["no such shop", "attempt 1 of 3", &again]);
    explained(&house, &done, "succeeded", &["it has succeeded", "attempt 1"]);
    explained(&house, &late, "expired", &["it has expired"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_knows_of_it() {
    let house = House::start();
    let id = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap();
    explained(&house, &id, "unknown", &["never existed"]);
}
