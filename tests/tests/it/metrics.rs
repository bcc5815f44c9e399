//! Metrics of real processes: what is told, by whom, and that the documents name all of it.

mod documents;
mod rules;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use umbel_broker::{BrokerSettings, Client};
use umbel_tests::{
    chaos::probe::{Act, Trial},
    eventually::{eventually, within},
    process::{Launch, Process, api_ready, free_port},
    services::{PostgresServer, RedisServer, TestDatabase},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

const PATIENCE: Duration = Duration::from_secs(60);

/// What processes need, and where one of them tells its metrics.
struct Town {
    redis: RedisServer,
    database: TestDatabase<'static>,
    port: u16,
    metrics: u16,
    http: reqwest::Client,
}

impl Town {
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            redis: RedisServer::start(),
            database: PostgresServer::shared().database(),
            port: free_port(),
            metrics: free_port(),
            http: reqwest::Client::new(),
        }
    }

    fn launch(&self, args: &[&str]) -> Launch {
        Launch::new("umbel", args)
            .env("REDIS_URL", self.redis.url())
            .env("DATABASE_URL", self.database.url())
            .env("JWT_SECRET", SECRET)
            .env("PORT", self.port)
            .env("METRICS_PORT", self.metrics)
            .env("SCRAPE_ALLOW_PRIVATE", "127.0.0.1")
            .env("SWEEP_EVERY", "1s")
    }

    async fn text(&self) -> Option<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics);
        self.http.get(url).send().await.ok()?.text().await.ok()
    }

    /// The metrics, once all of these stand in them.
    async fn told(&self, parts: &[&str]) -> String {
        within(PATIENCE, &format!("{parts:?}"), async || {
            let text = self.text().await?;
            parts.iter().all(|part| text.contains(part)).then_some(text)
        })
        .await
    }

    async fn ready(&self) {
        api_ready(&self.http, self.port).await;
    }

    async fn post(&self, path: &str, body: Value) {
        let output = self.launch(&["token", "--scopes", "admin"]).output();
        let token = String::from_utf8(output.stdout).unwrap();
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let request = self.http.post(url).bearer_auth(token.trim()).json(&body);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
    }

    /// A whole house that has done a little of everything.
    async fn busy(&self) -> (Process, String) {
        let umbel = self.launch(&["up"]).start();
        self.ready().await;
        // Nobody listens there: it fails, is tried again, and the bytes of it are none.
        self.post("/v1/tasks/pages.scrape", json!({"args": {"url": "http://127.0.0.1:9/"}})).await;
        let text = self
            .told(&[
                "umbel_beat_fired_total{role=\"beat\",entry=\"sweep-sites\"}",
                "umbel_task_failures_total{role=\"worker\",task=\"pages.scrape\"",
                "umbel_beat_lateness_seconds_count{role=\"beat\"}",
                "umbel_workers{role=\"api\"} 1",
                "outcome=\"succeeded\"} 1",
                "umbel_postgres_connections_max{role=\"worker\"}",
                "umbel_queue_depth_tasks{role=\"api\",queue=\"scrape\"}",
                "umbel_settle_batch_tasks_count{role=\"worker\"}",
                "umbel_role_up{role=\"supervisor\",child=\"beat\"} 1",
            ])
            .await;
        (umbel, text)
    }
}

/// The names of all families.
fn families(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_house_tells_in_one_place_what_all_of_its_roles_count() {
    let town = Town::start();
    let (umbel, text) = town.busy().await;
    for role in ["api", "worker", "beat", "supervisor"] {
        let memory = format!("process_resident_memory_bytes{{role=\"{role}\"}} ");
        assert!(text.contains(&memory), "{role}: {text}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(types, families(&text).len(), "each name stands in one place");
    assert!(text.contains("umbel_tasks_enqueued_total{role=\"api\",task=\"pages.scrape\""));

    // What has died is told of as dead, and the others still tell.
    let worker = umbel.role("worker").expect("a worker");
    umbel_tests::process::send(worker, nix::sys::signal::Signal::SIGKILL);
    town.told(&["umbel_role_starts_total{role=\"supervisor\",child=\"worker\"} 2"]).await;
    assert_eq!(umbel.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_read_all_of_it_through_the_api_where_metrics_have_no_port() {
    let town = Town::start();
    let launch = town.launch(&["up"]).env("METRICS_PORT", "");
    let umbel = launch.start();
    town.ready().await;
    let output = town.launch(&["token", "--scopes", "admin"]).output();
    let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let url = format!("http://127.0.0.1:{}/metrics", town.port);
    within(PATIENCE, "the word of all roles", async || {
        let answer = town.http.get(&url).bearer_auth(&token).send().await.ok()?;
        let text = answer.text().await.ok()?;
        ["api", "worker", "beat", "supervisor"]
            .iter()
            .all(|role| text.contains(&format!("process_open_fds{{role=\"{role}\"}}")))
            .then_some(())
    })
    .await;
    assert_eq!(town.http.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(umbel.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_a_beat_alone_tell_of_themselves() {
    let town = Town::start();
    let migrated = town.launch(&["migrate"]).output();
    assert!(migrated.status.success());
    for (role, part) in [
        ("beat", "umbel_beat_lateness_seconds_count{role=\"beat\"}"),
        ("worker", "umbel_task_run_seconds_bucket{role=\"worker\",task=\"sites.sweep\""),
    ] {
        let process = town.launch(&[role]).start();
        let text = town.told(&[part]).await;
        assert!(!text.contains("role=\"api\"") && !text.contains("umbel_role_up"), "{text}");
        assert_eq!(process.stop().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_are_off_count_nothing() {
    let town = Town::start();
    let umbel = town.launch(&["worker"]).env("METRICS", "false").start();
    let text = town.told(&["process_open_fds"]).await;
    assert!(!text.contains("umbel_task") && !text.contains("umbel_redis_call"), "{text}");
    assert_eq!(umbel.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_logged_once_with_its_task_attempt_worker_and_error() {
    let town = Town::start();
    let probe = |args: &[&str]| {
        Launch::new("umbel-probe", args)
            .env("REDIS_URL", town.redis.url())
            .env("JWT_SECRET", SECRET)
            .env("LOG_FORMAT", "json")
    };
    let worker = probe(&["worker"]).start();
    let settings = BrokerSettings::new(town.redis.url());
    let client = Client::open(&settings, "test").unwrap();
    let handle = client.enqueue(Trial::new(Act::Fail(9))).max_attempts(3).await.unwrap();
    let id = handle.id().to_string();
    eventually("its dead letter", async || worker.log().contains("dead letter").then_some(()))
        .await;
    let log = worker.log();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.contains("not yet"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said: Vec<(&Value, &Value, &Value)> = lines
        .iter()
        .map(|line| (&line["level"], &line["span"]["task.attempt"], &line["span"]["task.id"]))
        .collect();
    let id = Value::from(id);
    let (warn, error) = (Value::from("WARN"), Value::from("ERROR"));
    let expected: Vec<_> =
        [&warn, &warn, &error].into_iter().zip([1, 2, 3].map(Value::from)).collect();
    let expected: Vec<_> = expected.iter().map(|(level, n)| (*level, n, &id)).collect();
    assert_eq!(said, expected, "{log}");
    for line in &lines {
        assert_eq!(line["error"], "not yet", "{line}");
        assert_eq!(line["span"]["task.name"], "trial", "{line}");
        assert!(!line["span"]["worker"].as_str().unwrap().is_empty(), "{line}");
    }
    assert_eq!(worker.stop().await.code(), Some(0));
}
