//! How far long work is: shown to whoever sits at a terminal, and to nobody else.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use umbel_tests::{
    house::House,
    probe::{Act, Probe},
    process::{Launch, binary},
    services::PostgresServer,
};

use super::{json, launch, text};

/// Several steps of a purge, so that there is a bar between its beginning and its end.
const MANY: usize = 2_500;

/// All that the command writes to a terminal.
fn at_terminal(variable: (&str, &str), line: &str) -> String {
    let line = format!("{} {line}", binary("umbel-probe").display());
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env(variable.0, variable.1)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script, which Debian always has");
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{line}: {shown}{}", text(&output.stderr));
    shown
}

async fn enqueue(house: &House) {
    let probes = (0..MANY).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_shows_a_bar_at_a_terminal_and_nothing_of_it_elsewhere() {
    let house = House::start();
    let url = house.redis.url_as("operator");
    enqueue(&house).await;
    let shown = at_terminal(("REDIS_URL", &url), "purge default --yes");
    assert!(shown.contains("purging [") && shown.contains("/2500"), "{shown}");
    // The bar is wiped away before the result is told.
    let last = shown.trim_end().rsplit(['\r', '\n']).next().unwrap();
    assert!(last.ends_with("thrown away: 2500 that are ready"), "{shown}");
    assert!(!last.contains("purging"), "{shown}");

    // Where only the result goes elsewhere, it is the result alone.
    enqueue(&house).await;
    let file = std::env::temp_dir().join(format!("umbel-{}", uuid::Uuid::new_v4().simple()));
    let line = format!("purge default --yes --json > {}", file.display());
    let shown = at_terminal(("REDIS_URL", &url), &line);
    assert!(shown.contains("purging [") && !shown.contains('{'), "{shown}");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(kept, json!({"queue": "default", "purged": {"queued": 2500}}));
    std::fs::remove_file(file).unwrap();

    enqueue(&house).await;
    let output = launch(&house, &["purge", "default", "--yes", "--json"]).output();
    assert_eq!(text(&output.stderr), "");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["purged"], json!({"queued": 2500}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_shows_a_bar_at_a_terminal_and_nothing_of_it_elsewhere() {
    let house = House::start();
    let worker = house.worker(4);
    let lost = async |name: &str| {
        let act = Act::Fatal("no route to host".to_owned());
        let handle = house.client.enqueue(Probe::new(name, act)).await.unwrap();
        house.ended(handle.id()).await;
    };
    lost("one").await;
    lost("other").await;
    worker.stop().await.unwrap();
    let url = house.redis.url_as("operator");
    let shown = at_terminal(("REDIS_URL", &url), "redrive default");
    assert!(shown.contains("redriving [") && shown.contains("2/2"), "{shown}");
    assert!(shown.trim_end().ends_with("2 dead letters of queue default run again"), "{shown}");
    let worker = house.worker(4);
    lost("third").await;
    worker.stop().await.unwrap();
    assert_eq!(json(&house, &["redrive", "default"])["refused"], 0);
}

#[test]
fn migrations_turn_a_wheel_at_a_terminal_and_nothing_elsewhere() {
    let database = PostgresServer::shared().database();
    let url = database.url();
    let shown = at_terminal(("DATABASE_URL", &url), "migrate");
    assert!(shown.contains(" migrating") && shown.contains(" migrations applied"), "{shown}");
    // What is logged meanwhile has lines of its own.
    for line in shown.lines().filter(|line| line.contains("applied migration")) {
        let seen = line.rsplit("\u{1b}[2K").next().unwrap();
        assert!(!seen.contains("migrating"), "{shown:?}");
    }
    let again = PostgresServer::shared().database();
    let output = Launch::new("umbel-probe", &["migrate"]).env("DATABASE_URL", again.url()).output();
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(
        printed.ends_with(" migrations applied\n") && printed.lines().count() == 1,
        "{printed}"
    );
    assert!(!said.contains("migrating") && !said.contains(['\r', '\u{1b}']), "{said:?}");
}
