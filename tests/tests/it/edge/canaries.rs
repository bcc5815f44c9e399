//! A canary in every secret, and all that the house writes, sends and keeps while it works and while it
//! fails: none of it sings.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use umbel_tests::{
    eventually::{eventually, within},
    otlp::Collector,
    pages::Pages,
    process::{Launch, Process, api_ready, children, free_port},
    scraperapi::FakeScraperApi,
    services::{PostgresServer, RedisServer},
};

/// In each secret, before the name of its setting.
const CANARY: &str = "canary7f3a";

/// A page that fails has five attempts, with their waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// Services that let nobody in without a canary.
struct Cage {
    redis: RedisServer,
    postgres: PostgresServer,
    api: FakeScraperApi,
    collector: Collector,
    port: u16,
    metrics: u16,
}

impl Cage {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let password = format!(">{CANARY}-redis");
        redis.cli(&["ACL", "SETUSER", "house", "on", &password, "~*", "&*", "+@all"]);
        let postgres = PostgresServer::start();
        postgres.sql(&format!("create role house superuser login password '{CANARY}-postgres'"));
        let rules = postgres.sql("show hba_file");
        postgres.sql(&format!(
            "copy (values ('host all house 127.0.0.1/32 scram-sha-256'),
                          ('host all all 127.0.0.1/32 trust')) to '{rules}'"
        ));
        postgres.restart();
        let api = FakeScraperApi::start(&format!("{CANARY}-scraperapi"), 0).await.unwrap();
        let collector = Collector::start().await.unwrap();
        Self { redis, postgres, api, collector, port: free_port(), metrics: free_port() }
    }

    fn launch(&self, args: &[&str]) -> Launch {
        let database = |password: &str| {
            let place = format!("127.0.0.1:{}/postgres", self.postgres.port());
            format!("postgres://house:{password}@{place}?sslmode=disable")
        };
        Launch::new("umbel", args)
            .env(
                "REDIS_URL",
                format!("redis://house:{CANARY}-redis@127.0.0.1:{}", self.redis.port()),
            )
            .env("DATABASE_URL", database(&format!("{CANARY}-postgres")))
            .env("DATABASE_DIRECT_URL", database(&format!("{CANARY}-postgres")))
            .env("DATABASE_ACQUIRE_TIMEOUT", "2s")
            .env("JWT_SECRET", format!("{CANARY}-jwt-{CANARY}-{CANARY}"))
            .env("SCRAPERAPI_KEY", format!("{CANARY}-scraperapi"))
            .env("SCRAPERAPI_URL", self.api.url())
            .env("SCRAPE_ALLOW_PRIVATE", "127.0.0.1")
            .env("PORT", self.port)
            .env("METRICS_PORT", self.metrics)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", self.collector.url())
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("api-key={CANARY}-otel"))
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            // Of our crates and of all below them, by both names.
            .env("LOG_LEVEL", "trace")
            .env("RUST_LOG", "trace")
    }

    /// All that Postgres has in tables, and what it was asked last.
    fn rows(&self) -> String {
        self.postgres.sql(
            "select string_agg(
                 query_to_xml(format('select * from %I.%I', schemaname, relname), true, true, '')::text,
                 '')
             from pg_stat_user_tables",
        ) + &self.postgres.sql("select string_agg(query, ' ') from pg_stat_activity")
    }

    /// All that was ever written to Redis.
    fn written(&self) -> String {
        let mut all = String::new();
        read_all(&self.redis.dir().join("appendonlydir"), &mut all);
        all
    }
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        into.push_str(&String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap()));
    }
}

/// What a process and its children have on their command lines, where everybody reads it.
fn command_lines(pid: u32) -> String {
    let line = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    children(pid).into_iter().map(line).fold(line(pid), |all, line| all + &line)
}

/// Everything that was heard, and from whom.
#[derive(Default)]
struct Heard(Vec<(String, String)>);

impl Heard {
    fn of(&mut self, whom: impl Into<String>, said: impl Into<String>) {
        self.0.push((whom.into(), said.into()));
    }

    fn is_without_canary(&self) {
        for (whom, said) in &self.0 {
            let line = said.lines().find(|line| line.contains(CANARY));
            assert_eq!(line, None, "in {whom}");
        }
    }
}

/// Asks the API as an admin.
struct Admin<'a> {
    cage: &'a Cage,
    http: reqwest::Client,
    token: String,
}

impl Admin<'_> {
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.cage.port);
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), format!("{:?}", answer.headers()));
        (status, headers + "\n" + &answer.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> String {
        self.ask(Method::GET, path, None).await.1
    }

    /// Enters a site that ScraperAPI is to fetch.
    async fn put(&self, url: &str) {
        let site = json!({"url": url, "source": {"scraperapi": {"render": true}}});
        let (status, said) = self.ask(Method::POST, "/v1/sites", Some(site)).await;
        assert!(status.is_success(), "{said}");
    }

    /// Waits until something is told there.
    async fn told(&self, path: &str, part: &str) {
        within(PATIENCE, &format!("{part} at {path}"), async || {
            self.get(path).await.contains(part).then_some(())
        })
        .await;
    }
}

const ROUTES: [&str; 14] = [
    "/v1/tasks",
    "/v1/queues",
    "/v1/queues/scrape",
    "/v1/dead?queue=scrape",
    "/v1/workers",
    "/v1/schedules",
    "/v1/sites",
    "/v1/pages",
    "/v1/sources",
    "/v1/nowhere",
    "/openapi.json",
    "/docs/",
    "/livez",
    "/readyz",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_or_kept_while_the_house_works_and_while_its_services_fail() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = std::env::temp_dir().join(format!("umbel-cage-{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("index.html"), "<title>the page</title>").unwrap();
    let web = Pages::start(&folder, Duration::ZERO).await.unwrap();
    let cage = Cage::start().await;
    let token = cage.launch(&["token", "--scopes", "admin"]).output();
    let token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    let umbel = cage.launch(&["up"]).start();
    let admin = Admin { cage: &cage, http: reqwest::Client::new(), token };
    api_ready(&admin.http, cage.port).await;
    let mut heard = Heard::default();

    // A page by ScraperAPI, after an error of it; one that it does not get; a dead letter.
    cage.api.refuse_with(&[500]);
    admin.put(&format!("{}index.html", web.url())).await;
    admin.told("/v1/pages?status=succeeded", "the page").await;
    let refused = json!({"args": {"url": "http://10.0.0.1/"}});
    let (_, accepted) = admin.ask(Method::POST, "/v1/tasks/pages.scrape", Some(refused)).await;
    admin.told("/v1/dead?queue=scrape", "pages.scrape").await;
    heard.of("what was accepted", accepted);
    cage.api.refuse_with(&[401]);
    admin.put("http://127.0.0.1:9/").await;
    admin.told("/v1/sources", "SCRAPERAPI_KEY").await;
    for path in ROUTES {
        heard.of(path, admin.get(path).await);
    }
    let metrics = format!("http://127.0.0.1:{}/metrics", cage.metrics);
    let metrics = admin.http.get(metrics).send().await.unwrap().text().await.unwrap();
    for part in ["umbel_http_requests_total", "umbel_task_failures_total", "umbel_postgres"] {
        assert!(metrics.contains(part), "{part}: {metrics}");
    }
    heard.of("metrics", metrics);
    heard.of("the command lines", command_lines(umbel.pid()));

    // What the clients say of services that go away, and come back.
    cage.postgres.stop();
    heard.of("without postgres", admin.get("/v1/sites").await + &admin.get("/readyz").await);
    cage.postgres.restart();
    heard.of("postgres", cage.rows());
    heard.of("redis", cage.written());
    heard.of("who is connected", cage.redis.cli(&["CLIENT", "LIST"]));
    cage.redis.kill9();
    let (status, said) = admin.ask(Method::GET, "/v1/queues", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    heard.of("without redis", said + &admin.get("/readyz").await);

    let log = ended(umbel).await;
    for part in ["TRACE", "hyper", "umbel_worker", "umbel_api", "pages.scrape"] {
        assert!(log.contains(part), "{part}: the log is not that of everybody");
    }
    heard.of("the log", log);
    let traces = cage.collector.heard();
    for part in ["process pages.scrape", "db.transaction", "server.address"] {
        assert!(traces.contains(part), "{part}: the traces are not those of everybody");
    }
    heard.of("traces", traces);
    heard.is_without_canary();
    let kept = &heard.0.iter().find(|(whom, _)| whom == "redis").unwrap().1;
    assert!(kept.contains("pages.scrape"), "what is kept was looked at");
    let kept = &heard.0.iter().find(|(whom, _)| whom == "postgres").unwrap().1;
    assert!(kept.contains("the page") && kept.contains("127.0.0.1:9"), "{kept}");
    fs::remove_dir_all(folder).unwrap();
}

/// What a process has written until its end.
async fn ended(mut process: Process) -> String {
    process.signal(nix::sys::signal::Signal::SIGTERM);
    within(PATIENCE, "its end", async || process.has_ended()).await;
    process.log() + &process.printed()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_at_the_start_tells_a_secret() {
    let cage = Cage::start().await;
    let redis = cage.redis.port();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let wrong_database = format!(
        "postgres://house:{CANARY}-wrong@127.0.0.1:{}/postgres?sslmode=disable",
        cage.postgres.port()
    );
    let untrusted = format!("{wrong_database}&x={CANARY}").replace("=disable", "=require");
    let secret = |text: &str| text.replace("SECRET", CANARY);
    // The name of a setting, a value that is wrong, a command that finds out, and what is said.
    for (name, value, command, said) in [
        ("REDIS_URL", secret("redis://house:SECRET@host:port"), "up", "REDIS_URL"),
        ("REDIS_URL", secret("redis://house:SECRET@host:1/3"), "worker", "REDIS_URL"),
        ("REDIS_URL", secret("http://SECRET"), "beat", "REDIS_URL"),
        ("REDIS_URL", secret(&format!("redis://house:SECRET@127.0.0.1:{redis}")), "up", "denies"),
        ("REDIS_URL", secret(&format!("redis://house:SECRET@127.0.0.1:{redis}")), "api", "denies"),
        ("DATABASE_URL", secret("postgres://u:SECRET@[half/d"), "up", "DATABASE_URL"),
        ("DATABASE_URL", secret("postgres://u:SECRET@h:99999/d"), "worker", "DATABASE_URL"),
        ("DATABASE_URL", secret("postgres://u:SECRET@h/d?sslmode=SECRE"), "api", "DATABASE_URL"),
        ("DATABASE_URL", secret("mysql://u:SECRET@h/d"), "migrate", "DATABASE_URL"),
        (
            "DATABASE_DIRECT_URL",
            secret("postgres://u:SECRET@127.0.0.1:1/d"),
            "migrate",
            "unavailable",
        ),
        ("DATABASE_DIRECT_URL", wrong_database.clone(), "up", "postgres denies access"),
        ("DATABASE_DIRECT_URL", untrusted, "up", "offers no TLS"),
        ("JWT_SECRET", secret("SECRET-short"), "up", "JWT_SECRET"),
        ("JWKS_URL", secret("https://u:SECRET@id.example/keys"), "api", "JWT_ISSUER"),
        ("SCRAPERAPI_URL", secret("http://SECRET.example/"), "worker", "SCRAPERAPI_URL"),
        ("SCRAPERAPI_DAILY_CREDITS", "many".to_owned(), "up", "SCRAPERAPI_DAILY_CREDITS"),
        ("METRICS_PORT", cage.port.to_string(), "up", "METRICS_PORT"),
        ("PORT", taken, "api", "cannot listen"),
        ("LOG_LEVEL", "umbel=loud".to_owned(), "up", "LOG_LEVEL"),
        ("CONCURRENCY", "0".to_owned(), "up", "CONCURRENCY"),
        ("SSL_CERT_FILE", "/nowhere".to_owned(), "up", "SSL_CERT_FILE"),
        ("ENVIRONMENT", "moon".to_owned(), "up", "ENVIRONMENT"),
        ("HOST", "127.0.0.1".to_owned(), "help", "REDIS_URL"),
        ("HOST", "127.0.0.1".to_owned(), "fly", "fly"),
    ] {
        let mut launch = cage.launch(&[command]).env(name, &value);
        if name == "LOG_LEVEL" {
            launch = launch.env("RUST_LOG", &value);
        }
        // All of them end by themselves: none is trouble that passes.
        let output = launch.output();
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8_lossy(&all);
        assert!(command == "help" || !output.status.success(), "{name} {command}");
        assert!(all.contains(said), "{name} {command}: {said} in {all}");
        assert!(!all.contains(CANARY), "{name} {command}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_waited_for_and_what_is_passed_over_is_told_without_its_secret() {
    let cage = Cage::start().await;
    let port = cage.postgres.port();
    for (name, value, said) in [
        ("REDIS_URL", format!("redis://house:{CANARY}@127.0.0.1:1"), "waiting for redis"),
        (
            "DATABASE_DIRECT_URL",
            format!("postgres://u:{CANARY}@127.0.0.1:1/d"),
            "waiting for postgres",
        ),
        (
            "DATABASE_URL",
            format!("postgres://postgres@127.0.0.1:{port}/postgres?pasword={CANARY}&supa={CANARY}"),
            "mean nothing here: `pasword`, `supa`",
        ),
    ] {
        let umbel = cage.launch(&["up"]).env(name, value).start();
        eventually(said, async || umbel.log().contains(said).then_some(())).await;
        let log = ended(umbel).await;
        assert!(!log.contains(CANARY), "{said}: {log}");
    }
}
