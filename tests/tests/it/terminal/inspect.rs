//! `inspect` answers each question for people and for programs, and `tail` tells what happens.

use std::time::Duration;

use chrono::Utc;
use serde_json::Value;
use umbel_beat::{Beat, Timetable, every};
use umbel_broker::{Acquired, LimitRules};
use umbel_tests::{
    eventually::eventually,
    house::House,
    probe::{Act, Probe},
};

use super::{json, launch, refused, said};

/// A house in which there is something of everything.
async fn lived_in() -> (House, umbel_tests::house::Running) {
    let house = House::start();
    let worker = house.worker(1);
    let lost = house.client.enqueue(Probe::new("lost", Act::Fatal("no such\nshop".to_owned())));
    house.ended(lost.await.unwrap().id()).await;
    house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    eventually("the worker tells what it runs", async || {
        let workers = house.client.living_workers().await.unwrap();
        workers.first().filter(|worker| worker.info.running_count == 1).map(drop)
    })
    .await;
    house.client.enqueue(Probe::new("next", Act::Ok)).await.unwrap();
    let later = house.client.enqueue(Probe::new("later", Act::Ok)).delay(Duration::from_secs(900));
    later.await.unwrap();
    let hourly = every(Duration::from_hours(1));
    let timetable = Timetable::new().entry("sweep", hourly, Probe::new("swept", Act::Ok));
    Beat::new(house.client.clone(), timetable.build().unwrap()).step(Utc::now()).await.unwrap();
    (house, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_has_an_answer_for_people_and_one_for_programs() {
    let (house, worker) = lived_in().await;
    let rules = LimitRules::new().at_once(1);
    let Acquired::Granted(permit) =
        house.client.acquire("host", "example.com", &rules).await.unwrap()
    else {
        panic!("nobody else asks")
    };
    for (question, part, at, expected) in [
        ("queues", "QUEUED", "/0/delayed", Value::from(1)),
        ("tasks", "running", "/0/place", "held".into()),
        ("workers", "1 of 1", "/0/running/0/task", "probe".into()),
        ("schedules", "every 1h", "/0/fires/0/outcome", "fired".into()),
        ("dead", "no such shop", "/0/why", "fatal".into()),
        ("limits", "example.com", "/0/held", 1.into()),
        ("redis", "noeviction", "/maxmemory_policy", "noeviction".into()),
    ] {
        let told = said(&house, &["inspect", question]);
        assert!(told.contains(part), "{question}: `{part}` is missing:\n{told}");
        let value = json(&house, &["inspect", question]);
        assert_eq!(value.pointer(at), Some(&expected), "{question}: {value:#}");
    }
    let standings: Vec<Value> = json(&house, &["inspect", "tasks"])
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["place"].clone())
        .collect();
    assert_eq!(standings, ["held", "ready", "ready", "delayed"]);
    let only = json(&house, &["inspect", "tasks", "--state", "delayed", "--queue", "default"]);
    assert_eq!(only.as_array().unwrap().len(), 1);
    let id = only[0]["id"].as_str().unwrap();
    let task = json(&house, &["inspect", "task", id]);
    assert_eq!((&task["state"], &task["task"]), (&"scheduled".into(), &"probe".into()));
    assert!(said(&house, &["inspect", "task", id]).contains("attempt      1 of 3"));
    permit.release().await;
    house.record.open("held");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dead_letter_is_shown_with_its_arguments_and_a_slip_is_told() {
    let (house, worker) = lived_in().await;
    let letters = json(&house, &["inspect", "dead", "--queue", "default", "--task", "probe"]);
    let letter = letters[0]["letter"].as_str().unwrap();
    let one = ["inspect", "dead", "--queue", "default", "--letter", letter];
    assert_eq!(json(&house, &one)["args"]["name"], "lost");
    assert!(said(&house, &one).contains("no such shop"));
    let none = json(&house, &["inspect", "dead", "--why", "crash"]);
    assert_eq!(none, Value::Array(Vec::new()));
    assert!(
        refused(&house, &["inspect", "dead", "--why", "crsh"], 2).contains("none of: attempts")
    );
    assert!(refused(&house, &["inspect", "tasks", "--queue", "x"], 1).contains("no queue `x`"));
    house.record.open("held");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_tells_what_happens_as_it_does() {
    let house = House::start();
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let tail = launch(&house, &["tail", "--json"]).start();
    let mut pauses = 0;
    let told = |event: &str| {
        tail.printed()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|told| told["event"] == event)
    };
    // It tells of changes since its first look, which nobody outside sees.
    eventually("it looks", async || {
        let queue = umbel_tests::probe::shard().queue().clone();
        house.client.pause(&queue, "ann", &format!("pause {pauses}"), Utc::now()).await.unwrap();
        pauses += 1;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        house.client.resume(&queue).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        told("paused").zip(told("resumed"))
    })
    .await;
    let worker = house.worker(1);
    let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    let seen = eventually("it runs", async || told("running")).await;
    assert_eq!(seen["id"], held.id().as_str());
    assert_eq!(seen["of"], worker.id.as_str());
    house.record.open("held");
    let end = eventually("it has ended", async || told("done")).await;
    assert!(end["text"].as_str().unwrap().contains("succeeded"), "{end}");
    house.client.enqueue(Probe::new("lost", Act::Fatal("no".to_owned()))).await.unwrap();
    let dead = eventually("it failed", async || told("dead")).await;
    assert_eq!((&dead["of"], &dead["text"]), (&"default".into(), &"probe, fatal: no".into()));
    worker.stop().await.unwrap();
    eventually("the worker has left", async || told("left")).await;
    assert_eq!(tail.stop().await.code(), None, "ended by the signal");
}
