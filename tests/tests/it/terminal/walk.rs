//! The ten questions of docs/OPERATIONS.md, as they stand there, put to a house that lives.

use std::{path::Path, process::Command, time::Duration};

use chrono::Utc;
use umbel_beat::{Beat, Timetable, every};
use umbel_broker::{Acquired, LimitRules};
use umbel_tests::{
    eventually::eventually,
    house::House,
    probe::{Act, Probe, shard},
};

const PAGE: &str = "../docs/OPERATIONS.md";

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap()
}

/// The questions put to redis-cli, in their order.
fn questions() -> Vec<String> {
    page().lines().filter_map(|line| line.strip_prefix("$ redis-cli ")).map(str::to_owned).collect()
}

/// What the answer to each has to have in it: what the house was made of.
const ANSWERS: [&[&str]; 10] = [
    &["4"],
    &["probe", "attempt", "enqueued"],
    &["test-", "-0"],
    &["state", "failed", "task", "probe", "finished"],
    &["no route to host"],
    &["default-"],
    &["\"running\":[{", "probe", "\"concurrency\":1"],
    &["at:", "next"],
    &["slot", "fired", "late_ms"],
    &["paused", "by", "ann", "why", "noon", "since"],
];

#[tokio::test(flavor = "multi_thread")]
async fn ten_questions_have_ten_answers() {
    let house = House::start();
    let worker = house.worker(1);
    let lost = Probe::new("lost", Act::Fatal("no route to host".to_owned()));
    let lost = house.client.enqueue(lost).await.unwrap();
    house.ended(lost.id()).await;
    house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    eventually("the worker tells what it runs", async || {
        let workers = house.client.living_workers().await.unwrap();
        workers.first().filter(|worker| worker.info.running_count == 1).map(drop)
    })
    .await;
    for name in ["next", "last"] {
        house.client.enqueue(Probe::new(name, Act::Ok)).await.unwrap();
    }
    let soon = house.client.enqueue(Probe::new("soon", Act::Ok)).delay(Duration::from_secs(50));
    soon.await.unwrap();
    let rules = LimitRules::new().at_once(2).every(Duration::from_millis(500));
    let permit = house.client.acquire("host", "example.com", &rules).await.unwrap();
    assert!(matches!(permit, Acquired::Granted(_)));
    let hourly = every(Duration::from_hours(1));
    let timetable = Timetable::new().entry("sweep-sites", hourly, Probe::new("swept", Act::Ok));
    house.client.pause(shard().queue(), "ann", "noon", Utc::now()).await.unwrap();
    Beat::new(house.client.clone(), timetable.build().unwrap()).step(Utc::now()).await.unwrap();

    let questions = questions();
    assert_eq!(questions.len(), ANSWERS.len(), "{questions:#?}");
    let port = house.redis.port().to_string();
    for (question, parts) in questions.iter().zip(ANSWERS) {
        let command = question.replace("<id>", lost.id().as_str());
        let output = Command::new("sh")
            .args(["-c", &format!("redis-cli -e -p {port} {command}")])
            .output()
            .unwrap();
        let answer = super::text(&output.stdout);
        assert!(output.status.success(), "{question}: {answer}");
        println!("$ redis-cli {question}\n{answer}");
        for part in parts {
            assert!(answer.contains(part), "{question}: `{part}` is not in:\n{answer}");
        }
    }
    drop(permit);
    house.record.open("held");
    worker.stop().await.unwrap();
}

/// The verbs that the page shows are verbs.
#[test]
fn the_commands_of_the_page_are_understood() {
    let page = page();
    let commands: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("$ umbel ")).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        // As far as the words go: what is asked for may need a server.
        let verbs: Vec<&str> = command
            .split_whitespace()
            .take_while(|word| !word.contains(['<', '-', '.']))
            .take(if command.starts_with("inspect") { 2 } else { 1 })
            .collect();
        let help = [&verbs[..], &["--help"]].concat();
        let output = umbel_tests::process::Launch::new("greeter", &help).output();
        let told = super::text(&output.stdout);
        assert!(output.status.success(), "umbel {command}");
        for flag in command.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(told.contains(flag.split('=').next().unwrap()), "umbel {command}: {flag}");
        }
    }
}
