//! The binary as its users run it: real processes, a real Redis, Postgres behind a real PgBouncer,
//! a real web site. `scripts/test` runs these twice: under one supervisor, and split into services.

mod dev;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use umbel_tests::{
    deployment::Deployment,
    eventually::{eventually, eventually_eq, within},
    pages::Pages,
    process::{Launch, Process, api_ready, free_port, is_alive, send},
    services::{PgBouncer, PostgresServer, RedisServer, TestDatabase},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What `umbel` needs around it.
struct Town {
    redis: RedisServer,
    database: TestDatabase<'static>,
    pooler: PgBouncer,
    port: u16,
    http: reqwest::Client,
}

impl Town {
    fn start() -> Self {
        // Another test of this process may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            redis: RedisServer::start(),
            database: PostgresServer::shared().database(),
            pooler: PgBouncer::start(PostgresServer::shared(), 2),
            port: free_port(),
            http: reqwest::Client::new(),
        }
    }

    fn launch(&self, args: &[&str]) -> Launch {
        Launch::new("umbel", args)
            .env("REDIS_URL", self.redis.url())
            .env("DATABASE_URL", self.pooler.url(&self.database))
            .env("JWT_SECRET", SECRET)
            .env("PORT", self.port)
            .env("LEASE", "12s")
            .env("CONCURRENCY", "4")
    }

    fn token(&self) -> String {
        let output = self.launch(&["token", "--scopes", "admin"]).output();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    async fn ready(&self) {
        api_ready(&self.http, self.port).await;
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = self.http.request(method, url).bearer_auth(self.token());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn pages_by_status(&self) -> Value {
        let (_, sites) = self.ask(Method::GET, "/v1/sites", None).await;
        sites["sites"][0]["pages"].clone()
    }

    fn waiting(&self) -> u64 {
        ["recovered", "high", "normal", "low"]
            .iter()
            .map(|stream| {
                let key = format!("umbel:{{scrape}}:ready:{stream}");
                self.redis.cli(&["XLEN", &key]).trim().parse::<u64>().unwrap()
            })
            .sum()
    }
}

/// A site of `count` pages: the first links to all others.
fn site(count: usize) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("umbel-site-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&folder).unwrap();
    let links: String =
        (1..count).map(|n| format!("<a href=\"page{n}.html\">page {n}</a>")).collect();
    let page = |title: &str, body: &str| {
        format!(
            "<!doctype html><html lang=en><head><title>{title}</title></head><body>{body}</body></html>"
        )
    };
    fs::write(folder.join("index.html"), page("the first", &links)).unwrap();
    for n in 1..count {
        fs::write(folder.join(format!("page{n}.html")), page(&format!("number {n}"), "")).unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_mid_scrape_loses_no_page() {
    const COUNT: usize = 41;
    let town = Town::start();
    let folder = site(COUNT);
    // Long enough for all that is looked at before the kill.
    let pages = Pages::start(&folder, Duration::from_millis(400)).await.unwrap();
    let allowed = pages.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let up = town.launch(&["up"]).env("SWEEP_EVERY", "1s").env("SCRAPE_ALLOW_PRIVATE", allowed);
    let umbel = Deployment::start(&up);
    town.ready().await;
    let url = format!("{}index.html", pages.url());
    let posted =
        town.ask(Method::POST, "/v1/sites", Some(json!({"url": url, "max_pages": 100}))).await;
    assert_eq!(posted.0, StatusCode::CREATED, "{}", posted.1);

    eventually("scraping is under way", async || {
        let pages = town.pages_by_status().await;
        (pages["succeeded"].as_u64()? >= 5 && pages["running"].as_u64()? > 0).then_some(())
    })
    .await;
    // While it runs, redis-cli shows what runs where, by readable names.
    let running = eventually("a task that runs is looked at", async || {
        let ids = town.database.sql("select task_id from pages where status = 'running'");
        ids.lines().find_map(|id| {
            let shown = town.redis.cli(&["HGETALL", &format!("umbel:{{scrape}}:task:{id}")]);
            let lines: Vec<String> = shown.lines().map(str::to_owned).collect();
            let fields: BTreeMap<_, _> =
                lines.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            // It may have ended since it was chosen.
            (fields.get("state")? == "running").then_some(fields)
        })
    })
    .await;
    let expected = [("task", "pages.scrape"), ("attempt", "1"), ("max", "5")];
    for (name, value) in expected {
        assert_eq!(running.get(name).map(String::as_str), Some(value), "{name} in {running:?}");
    }
    for name in ["enqueued", "started"] {
        assert!(running[name].parse::<i64>().is_ok_and(|ms| ms > 0), "{name} in {running:?}");
    }
    assert!(!running.contains_key("finished"), "{running:?}");
    let key = "umbel:{scrape}:ready:normal";
    let pending = town.redis.cli(&["XPENDING", key, "workers", "-", "+", "10"]);
    assert!(pending.contains(&running["worker"]), "{} in {pending}", running["worker"]);
    let next = town.redis.cli(&["XRANGE", key, "-", "+", "COUNT", "1"]);
    for word in ["id", "scrape-", "task", "pages.scrape", "attempt", "crashes", "enqueued"] {
        assert!(next.contains(word), "{word} in {next}");
    }

    let killed = umbel.role("worker").unwrap();
    send(killed, Signal::SIGKILL);
    let successor = eventually("the worker is started again", async || {
        umbel.role("worker").filter(|pid| *pid != killed)
    })
    .await;
    assert!(is_alive(successor));
    within(Duration::from_secs(60), "every page ends", async || {
        let pages = town.pages_by_status().await;
        (pages["succeeded"].as_u64()? == COUNT as u64).then_some(())
    })
    .await;
    let all = json!({"pending": 0, "queued": 0, "running": 0, "succeeded": COUNT, "failed": 0, "skipped": 0});
    assert_eq!(town.pages_by_status().await, all);
    let rows = town.database.sql("select count(*) from pages where status = 'succeeded'");
    assert_eq!(rows.trim(), COUNT.to_string());
    eventually_eq("nothing waits any more", 0, async || town.waiting()).await;

    let status = umbel.stop().await;
    assert_eq!(status.code(), Some(0));
    assert!(!is_alive(successor));
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_is_followed_from_curl_to_its_row() {
    let town = Town::start();
    let folder = site(1);
    let pages = Pages::start(&folder, Duration::from_millis(300)).await.unwrap();
    let allowed = pages.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let umbel = Deployment::start(&town.launch(&["up"]).env("SCRAPE_ALLOW_PRIVATE", allowed));
    town.ready().await;
    let url = format!("{}index.html", pages.url());

    let body = json!({"args": {"url": url}});
    let (status, accepted) = town.ask(Method::POST, "/v1/tasks/pages.scrape", Some(body)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let id = accepted["id"].as_str().unwrap();
    let path = format!("/v1/tasks/{id}");
    let mut seen = vec![accepted["state"].as_str().unwrap().to_owned()];
    eventually("the task succeeds", async || {
        let (_, record) = town.ask(Method::GET, &path, None).await;
        let state = record["state"].as_str()?.to_owned();
        if seen.last() != Some(&state) {
            seen.push(state.clone());
        }
        (state == "succeeded").then_some(())
    })
    .await;
    assert_eq!(seen, ["queued", "running", "succeeded"]);
    let row = town.database.sql("select status || ' ' || title from pages");
    assert_eq!(row.trim(), "succeeded the first");
    // The command line sees the same.
    let shown = town.launch(&["status", id]).output();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("\"state\": \"succeeded\""));
    let enqueued =
        town.launch(&["enqueue", "pages.scrape", &json!({"url": url}).to_string()]).output();
    assert!(enqueued.status.success());
    assert!(String::from_utf8_lossy(&enqueued.stdout).starts_with("scrape-"));

    // What is wrong is told, and told apart.
    let wrong = json!({"args": {"url": 7}});
    let (status, problem) = town.ask(Method::POST, "/v1/tasks/pages.scrape", Some(wrong)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["field"], "args.url");
    let unknown = town.ask(Method::POST, "/v1/tasks/no.such", Some(json!({"args": {}}))).await;
    assert_eq!(unknown.0, StatusCode::NOT_FOUND);
    let never = "/v1/tasks/scrape-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    assert_eq!(town.ask(Method::GET, never, None).await.0, StatusCode::NOT_FOUND);
    let anonymous = format!("http://127.0.0.1:{}{path}", town.port);
    let refused = town.http.get(anonymous).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);

    let log = umbel.log();
    assert!(!log.contains(SECRET), "no secret in the log");
    assert_eq!(umbel.stop().await.code(), Some(0));
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_beats_and_two_workers_enqueue_each_slot_once() {
    let town = Town::start();
    assert!(town.launch(&["migrate"]).output().status.success());
    // A site that only a sweep of beat can find; its address is one that is refused.
    town.database.sql("insert into sites (url) values ('http://127.0.0.1:1/')");
    let processes: Vec<Process> = ["beat", "beat", "worker", "worker"]
        .iter()
        .map(|role| town.launch(&[role]).env("SWEEP_EVERY", "1s").start())
        .collect();
    const SLOTS: usize = 8;
    let fired = || town.redis.cli(&["XRANGE", "umbel:{beat}:fired:sweep-sites", "-", "+"]);
    let values = |name: &str| -> Vec<String> {
        let shown = fired();
        let lines: Vec<&str> = shown.lines().collect();
        lines.windows(2).filter(|two| two[0] == name).map(|two| two[1].to_owned()).collect()
    };
    eventually("slots have been fired", async || (values("slot").len() >= SLOTS).then_some(()))
        .await;
    let slots = values("slot");
    let distinct: BTreeSet<&String> = slots.iter().collect();
    assert_eq!(distinct.len(), slots.len(), "each slot once: {slots:?}");
    let tasks: BTreeSet<String> = values("task").into_iter().collect();
    assert_eq!(tasks.len(), slots.len(), "each slot is a task of its own");
    // None was left out between the first and the last.
    let ms: Vec<i64> = slots.iter().map(|slot| slot.parse().unwrap()).collect();
    assert!(ms.windows(2).all(|two| two[1] - two[0] == 1_000), "{ms:?}");
    eventually_eq("the site was swept and scraped", "failed".to_owned(), async || {
        town.database.sql("select status from sites").trim().to_owned()
    })
    .await;
    for process in processes {
        assert_eq!(process.stop().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_fails_a_task_for_a_retry_and_loses_nothing() {
    let town = Town::start();
    let folder = site(1);
    let pages = Pages::start(&folder, Duration::ZERO).await.unwrap();
    let allowed = pages.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let umbel = Deployment::start(&town.launch(&["up"]).env("SCRAPE_ALLOW_PRIVATE", allowed));
    town.ready().await;
    town.pooler.kill9();
    let body = json!({"args": {"url": format!("{}index.html", pages.url())}});
    let (_, accepted) = town.ask(Method::POST, "/v1/tasks/pages.scrape", Some(body)).await;
    let path = format!("/v1/tasks/{}", accepted["id"].as_str().unwrap());
    let state = async || {
        let (_, record) = town.ask(Method::GET, &path, None).await;
        record["state"].as_str().unwrap().to_owned()
    };
    eventually_eq("it waits for another attempt", "retrying".to_owned(), state).await;
    // The API is of use without its database, and says that something is missing.
    // A report holds for a second; this one may be from before.
    eventually_eq("it says so", "degraded".to_owned(), async || {
        let ready = town.http.get(format!("http://127.0.0.1:{}/readyz", town.port)).send().await;
        let ready = ready.unwrap();
        assert_eq!(ready.status(), StatusCode::OK);
        ready.json::<Value>().await.unwrap()["status"].as_str().unwrap().to_owned()
    })
    .await;
    town.pooler.restart();
    within(Duration::from_secs(60), "it succeeds", async || {
        (state().await == "succeeded").then_some(())
    })
    .await;
    assert_eq!(town.database.sql("select status from pages").trim(), "succeeded");
    assert_eq!(umbel.stop().await.code(), Some(0));
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_at_start_is_waited_for_with_a_line_an_attempt() {
    let town = Town::start();
    town.redis.stop();
    let umbel = Deployment::start(&town.launch(&["up"]));
    eventually("two attempts are told", async || {
        (umbel.log().matches("waiting for redis").count() >= 2).then_some(())
    })
    .await;
    town.redis.restart();
    town.ready().await;
    assert_eq!(umbel.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_application_runs_its_task() {
    let redis = RedisServer::start();
    let greeter = |args: &[&str]| {
        Launch::new("greeter", args)
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", SECRET)
            .env("PORT", free_port())
    };
    let up = greeter(&["up"]).start();
    let enqueued = greeter(&["enqueue", "greet", r#"{"name": "Ada"}"#]).output();
    let id = String::from_utf8(enqueued.stdout).unwrap();
    let record = eventually("the greeting", async || {
        let output = greeter(&["status", id.trim()]).output();
        let record: Value = serde_json::from_slice(&output.stdout).ok()?;
        (record["state"] == "succeeded").then_some(record)
    })
    .await;
    assert_eq!(record["result"], "Hello, Ada!");
    let wrong = greeter(&["enqueue", "greet", "{}"]).output();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("name"));
    assert_eq!(up.stop().await.code(), Some(0));
}
