//! Traces over several processes, as a collector gets them.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use umbel_tests::{
    eventually::{eventually, within},
    otlp::{Collector, Span},
    pages::Pages,
    process::{Launch, Process, api_ready, free_port},
    services::{PostgresServer, RedisServer, TestDatabase},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// In whatever must not be in a trace.
const CANARY: &str = "canary7f3a";

/// A caller's own span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

const PATIENCE: Duration = Duration::from_secs(60);

/// The roles as processes of their own, with a collector beside them.
struct Town {
    redis: RedisServer,
    database: TestDatabase<'static>,
    collector: Collector,
    port: u16,
    http: reqwest::Client,
}

impl Town {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            redis: RedisServer::start(),
            database: PostgresServer::shared().database(),
            collector: Collector::start().await.unwrap(),
            port: free_port(),
            http: reqwest::Client::new(),
        }
    }

    fn launch(&self, args: &[&str]) -> Launch {
        Launch::new("umbel", args)
            .env("REDIS_URL", self.redis.url())
            .env("DATABASE_URL", self.database.url())
            .env("JWT_SECRET", SECRET)
            .env("PORT", self.port)
            .env("SCRAPE_ALLOW_PRIVATE", "127.0.0.1")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", self.collector.url())
            .env("OTEL_SERVICE_NAME", "scraper-of-tests")
            .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=k3y")
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
    }

    fn role(&self, role: &str) -> Process {
        self.launch(&[role]).start()
    }

    /// A role of the probes, which says nothing of its name.
    fn probe(&self, role: &str) -> Process {
        Launch::new("umbel-probe", &[role])
            .env("REDIS_URL", self.redis.url())
            .env("JWT_SECRET", SECRET)
            .env("PORT", self.port)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", self.collector.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .start()
    }

    fn migrate(&self) {
        let output = self.launch(&["migrate"]).output();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn ready(&self) {
        api_ready(&self.http, self.port).await;
    }

    /// Asks the API as somebody who may do this, below the caller's span.
    async fn post(&self, path: &str, scopes: &str, body: &Value, flags: &str) -> Response {
        let output = self.launch(&["token", "--scopes", scopes]).output();
        let token = String::from_utf8(output.stdout).unwrap();
        self.http
            .post(format!("http://127.0.0.1:{}{path}", self.port))
            .bearer_auth(token.trim())
            .header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}"))
            .json(body)
            .send()
            .await
            .unwrap()
    }

    /// Enqueues over HTTP.
    async fn enqueue(&self, task: &str, args: Value, flags: &str) -> String {
        let (path, body) = (format!("/v1/tasks/{task}"), json!({ "args": args }));
        let answer = self.post(&path, "tasks:enqueue", &body, flags).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let accepted: Value = answer.json().await.unwrap();
        accepted["id"].as_str().unwrap().to_owned()
    }

    /// The spans of the caller's trace, once `enough` of them came.
    async fn spans(&self, what: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        within(PATIENCE, what, async || {
            let all = self.collector.spans();
            let spans: Vec<Span> = all.into_iter().filter(|span| span.trace == TRACE).collect();
            enough(&spans).then_some(spans)
        })
        .await
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {:#?}", tree(spans));
    found[0]
}

/// Each span with the names of those above it, and the role that made it.
fn tree(spans: &[Span]) -> Vec<String> {
    let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (&*span.id, span)).collect();
    let path = |span: &Span| {
        let mut names = vec![span.name.clone()];
        let mut parent = &*span.parent;
        while let Some(above) = by_id.get(parent) {
            names.push(above.name.clone());
            parent = &above.parent;
        }
        names.reverse();
        format!("{}: {}", span.resource["umbel.role"], names.join(" > "))
    };
    spans.iter().map(path).collect()
}

/// A site of one page, and the folder that its caller removes.
async fn one_page() -> (PathBuf, Pages) {
    let folder = std::env::temp_dir().join(format!("umbel-site-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("index.html"), "<title>the page</title>").unwrap();
    let web = Pages::start(&folder, Duration::ZERO).await.unwrap();
    (folder, web)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_scrape_leads_from_http_to_sql_over_two_processes() {
    let (folder, web) = one_page().await;
    let town = Town::start().await;
    town.migrate();
    let (api, worker) = (town.role("api"), town.role("worker"));
    town.ready().await;
    let url = format!("{}index.html?key={CANARY}", web.url());
    let id = town.enqueue("pages.scrape", json!({ "url": url }), "01").await;
    let spans = town
        .spans("the trace of the scrape", |spans| {
            let has = |name: &str| spans.iter().any(|span| span.name == name);
            has("process pages.scrape") && has("POST /v1/tasks/{task}")
        })
        .await;

    let tree = tree(&spans);
    let run = "POST /v1/tasks/{task} > send scrape > process pages.scrape";
    let expected = [
        "api: POST /v1/tasks/{task}".to_owned(),
        "api: POST /v1/tasks/{task} > send scrape".to_owned(),
        "worker: POST /v1/tasks/{task} > send scrape > wait pages.scrape".to_owned(),
        format!("worker: {run}"),
        format!("worker: {run} > GET"),
        format!("worker: {run} > db.transaction"),
        format!("worker: {run} > db.transaction > begin"),
        format!("worker: {run} > db.transaction > commit"),
    ];
    for line in &expected {
        assert!(tree.contains(line), "{line} in {tree:#?}");
    }
    // Nothing else but further reads and statements of the run.
    for line in tree.iter().filter(|line| !expected.contains(line)) {
        let last = line.rsplit(" > ").next().unwrap();
        assert!(line.starts_with(&format!("worker: {run} > ")), "{line} in {tree:#?}");
        assert!(
            ["select", "insert", "update", "delete", "GET"].contains(&last),
            "{line} in {tree:#?}"
        );
    }
    let sql = format!("worker: {run} > db.transaction > ");
    assert!(tree.iter().filter(|line| line.starts_with(&sql)).count() >= 3, "{tree:#?}");

    let request = named(&spans, "POST /v1/tasks/{task}");
    assert_eq!((&*request.parent, request.kind), (CALLER, 2));
    assert_eq!(request.attributes["http.response.status_code"], "202");
    let send = named(&spans, "send scrape");
    assert_eq!((send.kind, &*send.attributes["task.name"]), (4, "pages.scrape"));
    let ran = named(&spans, "process pages.scrape");
    assert_eq!((ran.kind, &*ran.attributes["messaging.message.id"]), (5, &*id));
    assert_eq!((&*ran.attributes["task.attempt"], &ran.failed), ("1", &None));
    assert!(ran.links.is_empty());
    let wait = named(&spans, "wait pages.scrape");
    assert!(wait.start <= wait.end && wait.end <= ran.end, "{wait:?}");
    let fetch = spans.iter().find(|span| span.attributes.contains_key("http.response.body.size"));
    let fetch = &fetch.expect("the page").attributes;
    assert_eq!(fetch["server.address"], "127.0.0.1");
    for span in &spans {
        assert_eq!(span.resource["service.name"], "scraper-of-tests");
        assert_eq!(span.resource["deployment.environment.name"], "tests");
        assert_eq!(span.events, 0, "log lines are no part of a trace");
        if span.attributes.contains_key("db.operation.name") {
            assert_eq!(span.attributes["db.system.name"], "postgresql");
        }
    }
    assert_eq!(town.collector.header("x-collector-key").as_deref(), Some("k3y"));
    // Neither addresses nor what stands in statements.
    let heard = town.collector.heard();
    assert!(heard.contains("pages.scrape"));
    for secret in [CANARY, "index.html", "the page", SECRET] {
        assert!(!heard.contains(secret), "{secret}");
    }
    assert_eq!(worker.stop().await.code(), Some(0));
    assert_eq!(api.stop().await.code(), Some(0));
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_of_the_same_trace_and_links_to_the_run_that_failed() {
    let town = Town::start().await;
    let (api, first) = (town.probe("api"), town.probe("worker"));
    town.ready().await;
    let id = town.enqueue("trial", json!({"act": {"fail": 1}}), "01").await;
    let spans = town
        .spans("both runs", |spans| {
            spans.iter().filter(|span| span.name == "process trial").count() == 2
                && spans.iter().any(|span| span.name == "retry")
                && spans.iter().any(|span| span.name.starts_with("POST"))
        })
        .await;
    let run = |attempt: &str| {
        let of = |span: &&Span| {
            span.name == "process trial" && span.attributes["task.attempt"] == attempt
        };
        spans.iter().find(of).unwrap()
    };
    let (one, two, retry) = (run("1"), run("2"), named(&spans, "retry"));
    let send = named(&spans, "send chaos");
    assert_eq!((&one.parent, &two.parent), (&send.id, &send.id), "both are of who enqueued it");
    assert_eq!(one.failed.as_deref(), Some("error"));
    assert_eq!(retry.parent, one.id);
    assert_eq!((&one.links, &two.links), (&vec![], &vec![retry.id.clone()]));
    assert_eq!((&two.failed, &two.attributes["messaging.message.id"]), (&None, &id));
    assert_eq!(spans.iter().filter(|span| span.name == "wait trial").count(), 2);
    assert_eq!(one.resource["service.name"], "probe", "by its own name where none is set");
    assert_eq!(first.stop().await.code(), Some(0));
    assert_eq!(api.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_does_not_trace_is_not_traced_and_costs_no_span() {
    let town = Town::start().await;
    let (api, worker) = (town.probe("api"), town.probe("worker"));
    town.ready().await;
    town.enqueue("trial", json!({"act": "go"}), "00").await;
    eventually("its end", async || worker.log().contains("succeeded").then_some(())).await;
    // What was made is sent at the latest now.
    assert_eq!(worker.stop().await.code(), Some(0));
    assert_eq!(api.stop().await.code(), Some(0));
    let spans = town.collector.spans();
    assert!(spans.iter().all(|span| span.trace != TRACE), "{:#?}", tree(&spans));
    assert!(spans.iter().all(|span| !span.name.contains("trial")), "{:#?}", tree(&spans));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fire_of_the_beat_begins_a_trace_that_goes_on_in_the_worker() {
    let town = Town::start().await;
    town.migrate();
    let (beat, worker) = (town.role("beat"), town.role("worker"));
    let spans = within(PATIENCE, "a sweep", async || {
        let spans = town.collector.spans();
        let ran = spans.iter().find(|span| span.name == "process sites.sweep")?;
        let of_it = spans.iter().filter(|span| span.trace == ran.trace).cloned();
        let spans: Vec<Span> = of_it.collect();
        spans.iter().any(|span| span.name == "fire sweep-sites").then_some(spans)
    })
    .await;
    let tree = tree(&spans);
    for line in [
        "beat: fire sweep-sites",
        "beat: fire sweep-sites > send default",
        "worker: fire sweep-sites > send default > process sites.sweep",
    ] {
        assert!(tree.iter().any(|found| found == line), "{line} in {tree:#?}");
    }
    assert_eq!(named(&spans, "fire sweep-sites").parent, "");
    assert_eq!(worker.stop().await.code(), Some(0));
    assert_eq!(beat.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_enqueues_is_of_its_trace_in_whatever_process_it_runs() {
    let (folder, web) = one_page().await;
    let town = Town::start().await;
    town.migrate();
    let of_queue = |queue: &str| town.launch(&["worker"]).env("QUEUES", queue).start();
    let (api, sweeps, scrapes) = (town.role("api"), of_queue("default"), of_queue("scrape"));
    town.ready().await;
    // Asks for a sweep, which enqueues the site, which enqueues its page.
    let site = json!({"url": format!("{}index.html", web.url())});
    let answer = town.post("/v1/sites", "sites:write", &site, "01").await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{:?}", answer.text().await);
    let spans = town
        .spans("the page of the site", |spans| {
            let has = |name: &str| spans.iter().any(|span| span.name == name);
            has("process pages.scrape") && has("process sites.scrape") && has("POST /v1/sites")
        })
        .await;
    let tree = tree(&spans);
    let (sweep, plan) = ("process sites.sweep", "process sites.scrape");
    for line in [
        format!("worker: POST /v1/sites > send default > {sweep}"),
        format!("worker: POST /v1/sites > send default > {sweep} > send scrape > {plan}"),
        format!(
            "worker: POST /v1/sites > send default > {sweep} > send scrape > {plan} > send scrape > \
             process pages.scrape"
        ),
    ] {
        assert!(tree.contains(&line), "{line} in {tree:#?}");
    }
    let pid = |name: &str| named(&spans, name).resource["process.pid"].clone();
    let of = |process: &Process| process.pid().to_string();
    assert_eq!(pid("POST /v1/sites"), of(&api));
    assert_eq!(pid(sweep), of(&sweeps));
    assert_eq!((pid(plan), pid("process pages.scrape")), (of(&scrapes), of(&scrapes)));
    for process in [scrapes, sweeps, api] {
        assert_eq!(process.stop().await.code(), Some(0));
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_wrong_setting_of_traces_is_named_and_without_an_endpoint_nothing_is_asked_of_them() {
    let launch = |name: &str, value: &str, endpoint: &str| {
        Launch::new("umbel-probe", &["worker"])
            .env("REDIS_URL", "http://wrong")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env(name, value)
            .output()
    };
    for (name, value) in [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ] {
        let output = launch(name, value, "http://127.0.0.1:1");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
        let said = String::from_utf8(launch(name, value, "").stderr).unwrap();
        assert!(said.contains("REDIS_URL") && !said.contains(name), "{name}: {said}");
    }
}
