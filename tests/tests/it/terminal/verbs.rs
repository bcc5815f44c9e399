//! What is done by hand does it, says what it did, and asks before it destroys.

use std::time::Duration;

use serde_json::{Value, json};
use umbel_broker::NewTask;
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::eventually,
    house::House,
    probe::{Act, LATER, Probe, shard},
    process::Process,
    services::PostgresServer,
};

use super::{json as done, launch, refused, said};

/// Which may do what no operator may.
fn worker(house: &House) -> Process {
    launch(house, &["worker"]).env("REDIS_URL", house.redis.url_as("worker")).start()
}

async fn lost(house: &House, count: usize) -> Vec<umbel_proto::TaskId> {
    let worker = house.worker(4);
    let mut ids = Vec::new();
    for n in 0..count {
        let probe = Probe::new(&format!("lost{n}"), Act::Fatal("no such shop".to_owned()));
        ids.push(house.client.enqueue(probe).await.unwrap().id().clone());
    }
    for id in &ids {
        house.ended(id).await;
    }
    worker.stop().await.unwrap();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_paused_and_resumed_by_somebody_with_a_reason() {
    let house = House::start();
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let pause = ["pause", "default", "--why", "the host is down", "--by", "ann"];
    assert_eq!(done(&house, &pause), json!({"queue": "default", "paused": true, "changed": true}));
    let status = house.queue().await.paused.unwrap();
    assert_eq!((&*status.by, &*status.why), ("ann", "the host is down"));
    assert!(said(&house, &pause).contains("was paused already"));
    assert!(said(&house, &["resume", "default"]).contains("goes on"));
    assert!(house.queue().await.paused.is_none());
    assert!(said(&house, &["resume", "default"]).contains("was not paused"));
    let unknown = refused(&house, &["pause", "defualt", "--why", "x"], 1);
    assert!(unknown.contains("there is no queue `defualt`; there are: default"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled_wherever_it_is() {
    let house = House::start();
    let waits = house.client.enqueue(Probe::new("waits", Act::Ok)).await.unwrap();
    let cancel = done(&house, &["cancel", waits.id().as_str(), "--by", "ann"]);
    assert_eq!(cancel["met"], "waiting");
    let worker = house.worker(1);
    let record = house.ended(waits.id()).await;
    assert_eq!((record.state, record.cancelled_by.as_deref()), (TaskState::Cancelled, Some("ann")));
    let runs = house.client.enqueue(Probe::new("runs", Act::UntilCancelled)).await.unwrap();
    eventually("it runs", async || {
        let record = runs.record().await.unwrap().unwrap();
        (record.state == TaskState::Running).then_some(())
    })
    .await;
    assert_eq!(done(&house, &["cancel", runs.id().as_str()])["met"], "running");
    assert_eq!(house.ended(runs.id()).await.state, TaskState::Cancelled);
    assert!(said(&house, &["cancel", runs.id().as_str()]).contains("had ended before: cancelled"));
    let never = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    assert!(refused(&house, &["cancel", never], 1).contains("nothing is known"));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_run_again_one_by_its_task_or_all_of_a_queue() {
    let house = House::start();
    let ids = lost(&house, 3).await;
    assert_eq!(done(&house, &["redrive", ids[1].as_str()])["id"], ids[1].as_str());
    assert_eq!((house.queue().await.dead, house.queue().await.queued), (2, 1));
    let none = refused(&house, &["redrive", ids[1].as_str()], 1);
    assert!(none.contains("no dead letter"), "{none}");
    let none = done(&house, &["redrive", "default", "--why", "crash"]);
    assert_eq!(none, json!({"queue": "default", "done": 0, "refused": 0}));
    let all = done(&house, &["redrive", "default", "--why", "fatal", "--task", "probe"]);
    assert_eq!(all, json!({"queue": "default", "done": 2, "refused": 0}));
    assert_eq!((house.queue().await.dead, house.queue().await.queued), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_thrown_away_without_a_word_and_then_what_was_meant_is() {
    let house = House::start();
    lost(&house, 2).await;
    let probes = (0..300).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).await.unwrap();
    let later = house.client.enqueue(Probe::new("later", Act::Ok)).delay(Duration::from_secs(900));
    let later = later.await.unwrap();
    let tracked = house.client.enqueue(Probe::new("tracked", Act::Ok)).await.unwrap();
    let refusal = refused(&house, &["purge", "default"], 1);
    assert!(refusal.contains("301 tasks that are ready") && refusal.contains("--yes"), "{refusal}");
    assert_eq!(house.queue().await.queued, 301);

    let gone = done(&house, &["purge", "default", "--yes"]);
    assert_eq!(gone, json!({"queue": "default", "purged": {"queued": 301}}));
    let record = tracked.record().await.unwrap().unwrap();
    assert_eq!(record.state, TaskState::Cancelled);
    assert!(record.error.unwrap().starts_with("purged by "));
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.delayed, queue.dead), (0, 1, 2), "nothing else is gone");

    let both = done(&house, &["purge", "default", "--what", "delayed,dead", "--yes"]);
    assert_eq!(both["purged"], json!({"delayed": 1, "dead": 2}));
    assert_eq!(later.record().await.unwrap().unwrap().state, TaskState::Cancelled);
    let left = house.redis.cli(&["HLEN", "umbel:{default}:waiting"]);
    assert!(left.ends_with('0'), "no body is left behind: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_workers_hands_is_not_thrown_away() {
    let house = House::start();
    let worker = house.worker(1);
    let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    eventually("it runs", async || (house.record.order() == ["held"]).then_some(())).await;
    house.client.enqueue(Probe::new("waits", Act::Ok)).await.unwrap();
    let gone = done(&house, &["purge", "default", "--yes"]);
    assert_eq!(gone["purged"]["queued"], 1);
    house.record.open("held");
    assert_eq!(house.ended(held.id()).await.state, TaskState::Succeeded);
    assert_eq!(house.record.order(), ["held"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_thrown_away_with_its_place() {
    let house = House::start();
    let worker = house.worker(1);
    let mut new = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    new.task = LATER.parse().unwrap();
    house.client.submit(new).await.unwrap();
    eventually("it is parked", async || (house.queue().await.parked == 1).then_some(())).await;
    worker.stop().await.unwrap();
    let gone = done(&house, &["purge", "default", "--what", "parked", "--yes"]);
    assert_eq!(gone["purged"]["parked"], 1);
    assert_eq!(house.queue().await.parked, 0);
    assert_eq!(house.redis.cli(&["EXISTS", &shard().parked(), &shard().waiting()]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_enqueued_for_a_moment_into_a_queue_and_its_result_waited_for() {
    let house = House::start();
    let later = ["enqueue", "trial", r#"{"act": "go"}"#, "--queue", "upkeep", "--at"];
    let id = said(&house, &[&later[..], &["2100-01-01T00:00:00Z"]].concat());
    let record = house.client.task(&id.trim().parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((record.state, record.queue.as_str()), (TaskState::Scheduled, "upkeep"));

    let worker = worker(&house);
    let wait = ["enqueue", "trial", r#"{"act": "go"}"#, "--wait", "20s"];
    let printed = said(&house, &wait);
    let (_, result) = printed.trim().split_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<Value>(result).unwrap(), json!(1), "{printed}");
    let expired = ["enqueue", "trial", r#"{"act": "go"}"#, "--expires", "0s", "--wait", "20s"];
    assert!(refused(&house, &expired, 1).contains("expired"));
    assert_eq!(worker.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_by_hand_is_told_to_programs_too() {
    let house = House::start();
    let enqueued = done(&house, &["enqueue", "trial", r#"{"act": "go"}"#, "--queue", "upkeep"]);
    let id = enqueued["id"].as_str().unwrap();
    assert!(id.starts_with("upkeep-"), "{enqueued}");
    assert_eq!(done(&house, &["status", id])["state"], "queued");
    let worker = worker(&house);
    let ran = done(&house, &["enqueue", "trial", r#"{"act": "go"}"#, "--wait", "20s"]);
    assert_eq!(ran["result"], 1, "{ran}");
    let well = done(&house, &["health", "worker"]);
    assert_eq!(well["role"], "worker", "{well}");
    assert_eq!(worker.stop().await.code(), Some(0));
    let database = PostgresServer::shared().database();
    let with = |args: &[&str]| {
        let launch = launch(&house, args).env("DATABASE_URL", database.url());
        let output = launch.env("JWT_SECRET", "0123456789abcdef0123456789abcdef").output();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert!(with(&["migrate", "--json"])["applied"].as_u64() > Some(0));
    assert_eq!(with(&["migrate", "--json"]), json!({"applied": 0}));
    assert!(with(&["token", "--json"])["token"].as_str().unwrap().starts_with("ey"));
}
