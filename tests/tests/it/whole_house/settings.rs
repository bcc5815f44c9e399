//! Settings that no restart would mend end the process, with a sentence.

use umbel_tests::process::Launch;

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
