//! Settings that no restart would mend end the process, with a sentence.

use serde_json::{Value, json};
use umbel_tests::{eventually::eventually, process::Launch};

use super::{SECRET, Town};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_end_with_2_and_a_sentence_that_names_them() {
    let bare = |args: &[&str]| Launch::new("umbel", args);
    let with_redis = |args: &[&str]| bare(args).env("REDIS_URL", "redis://:s3cret@127.0.0.1:1");
    let with_both =
        |args: &[&str]| with_redis(args).env("DATABASE_URL", "postgres://u:s3cret@127.0.0.1:1/d");
    for (launch, named) in [
        (bare(&["up"]), "REDIS_URL"),
        (bare(&["up"]).env("REDIS_URL", "http://s3cret"), "REDIS_URL"),
        (with_redis(&["up"]).env("JWT_SECRET", SECRET), "DATABASE_URL"),
        (with_redis(&["worker"]), "DATABASE_URL"),
        (with_both(&["up"]), "JWT_SECRET"),
        (with_both(&["up"]).env("JWT_SECRET", "s3cret"), "JWT_SECRET"),
        (with_both(&["worker"]).env("CONCURRENCY", "0"), "CONCURRENCY"),
        (with_both(&["worker"]).env("SCRAPE_TIMEOUT", "soon"), "SCRAPE_TIMEOUT"),
        (with_both(&["worker"]).env("SCRAPE_TIMEOUT", "76s"), "SCRAPE_TIMEOUT"),
        (with_both(&["worker"]).env("SCRAPE_MAX_BYTES", "1"), "SCRAPE_MAX_BYTES"),
        (with_both(&["worker"]).env("SCRAPE_PORTS", "http"), "SCRAPE_PORTS"),
        (with_both(&["worker"]).env("SCRAPERAPI_URL", "http://s3cret.example/"), "SCRAPERAPI_URL"),
        (with_both(&["worker"]).env("SITE_EVERY", "59s"), "SITE_EVERY"),
        (with_both(&["api"]).env("JWT_SECRET", SECRET).env("SITE_EVERY", "59s"), "SITE_EVERY"),
        (with_redis(&["beat"]).env("SWEEP_EVERY", "soon"), "SWEEP_EVERY"),
        (with_redis(&["beat"]).env("SWEEP_EVERY", "0s"), "SWEEP_EVERY"),
        (with_redis(&["beat"]).env("SWEEP_EVERY", "25h"), "SWEEP_EVERY"),
        (bare(&["status", "no-id"]), "task id"),
        (bare(&["fly"]), "fly"),
    ] {
        let output = launch.output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{launch:?}: {said}");
        assert!(said.contains(named) && !said.contains("s3cret"), "{launch:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_refuses_its_settings_is_not_started_again() {
    let town = Town::start();
    for (name, value) in [("SWEEP_EVERY", "0s"), ("SCRAPE_MAX_BYTES", "1")] {
        let mut umbel = town.launch(&["up"]).env(name, value).start();
        assert_eq!(umbel.ended().await.code(), Some(2), "{name}: {}", umbel.log());
        let log = umbel.log();
        assert!(log.contains(name) && !log.contains("starting again"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_is_not_waited_for() {
    let town = Town::start();
    let right = town.database.url();
    for (url, said) in [
        (right.replace("postgres@", "nobody:s3cret@"), "role \"nobody\" does not exist"),
        (format!("{right}_nowhere"), "_nowhere\" does not exist"),
    ] {
        let mut umbel = town.launch(&["up"]).env("DATABASE_URL", url).start();
        assert_eq!(umbel.ended().await.code(), Some(1));
        let log = umbel.log();
        for part in ["postgres denies access", said] {
            assert!(log.contains(part), "{part} in {log}");
        }
        assert!(!log.contains("s3cret") && !log.contains("waiting for postgres"), "{log}");
    }
}

/// Old poolers have one code for all that keeps a client out, so that it is waited for as for a server
/// that starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_lets_nobody_in_is_waited_for_with_a_word_on_the_login() {
    let town = Town::start();
    let nowhere = format!("{}_nowhere", town.pooler.url(&town.database));
    let mut umbel = town.launch(&["up"]).env("DATABASE_URL", nowhere).start();
    let said = eventually("it is told", async || {
        let log = umbel.log();
        let words = ["waiting for postgres", "postgres denies access"];
        log.lines().find(|line| words.iter().any(|said| line.contains(said))).map(str::to_owned)
    })
    .await;
    assert!(said.contains("does not exist"), "{said}");
    if said.contains("08P01") {
        assert!(said.contains("user, password or database of DATABASE_URL are wrong"), "{said}");
        assert_eq!(umbel.stop().await.code(), Some(0));
    } else {
        assert_eq!(umbel.ended().await.code(), Some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn config_tells_each_setting_with_its_source_and_no_secret() {
    let launch = |args: &[&str]| {
        Launch::new("umbel", args)
            .env("REDIS_URL", "redis://u:s3cret@127.0.0.1:7000")
            .env("DATABASE_URL", "postgres://u:s3cret@h:6543/d?password=s3cret")
            .env("DATABASE_MAX_CONNECTIONS", 3)
            .env("JWT_SECRET", "s3cret")
            .env("SCRAPERAPI_KEY", "s3cret")
            .env("SITE_EVERY", "2h")
            .env("LOG_FORMAT", "")
    };
    let json = launch(&["config", "--json", "--port", "9000", "-Q", "a,b"]).output();
    assert!(json.status.success(), "{}", String::from_utf8_lossy(&json.stderr));
    let all: Vec<Value> = serde_json::from_slice(&json.stdout).unwrap();
    for (name, value, source) in [
        ("REDIS_URL", json!("redis://***@127.0.0.1:7000"), "environment"),
        ("DATABASE_URL", json!("postgres://***@h:6543/d?…"), "environment"),
        ("DATABASE_DIRECT_URL", json!(null), "default"),
        ("JWT_SECRET", json!("***"), "environment"),
        ("SCRAPERAPI_KEY", json!("***"), "environment"),
        ("PORT", json!("9000"), "flag"),
        ("QUEUES", json!("a,b"), "flag"),
        ("CONCURRENCY", json!("3"), "quota"),
        ("LOG_FORMAT", json!("text"), "default"),
        ("LEASE", json!("15s"), "default"),
        ("SITE_EVERY", json!("2h"), "environment"),
        ("SWEEP_EVERY", json!("5m"), "default"),
    ] {
        let one = all.iter().find(|one| one["name"] == name).expect(name);
        assert_eq!((&one["value"], &one["source"]), (&value, &json!(source)), "{name}");
    }
    let people = launch(&["config"]).output();
    let (printed, json) =
        [&people.stdout, &json.stdout].map(|bytes| String::from_utf8_lossy(bytes)).into();
    assert_eq!(printed.lines().count(), all.len());
    assert!(printed.contains("redis://***@127.0.0.1:7000") && printed.contains("quota"));
    assert!(!printed.contains("s3cret") && !json.contains("s3cret"), "{printed}{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_misspelt_is_told_at_start_once() {
    let town = Town::start();
    let up =
        town.launch(&["up"]).env("CONCURENCY", "s3cret").env("UMBEL_SERVICE_HOST", "h").start();
    town.ready().await;
    let log = up.log();
    let said = "CONCURENCY is set, and no setting: CONCURRENCY may be meant";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    assert!(!log.contains("s3cret") && !log.contains("UMBEL_SERVICE_HOST"), "{log}");
    assert_eq!(up.stop().await.code(), Some(0));
}
