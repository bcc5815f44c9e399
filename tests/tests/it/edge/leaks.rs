//! The process as it is run: no secret of its settings gets out, and no caller writes its log.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use umbel_tests::{
    process::{Launch, free_port},
    services::RedisServer,
};

use super::{
    gate::running,
    issuer::{AUDIENCE, Answer, ISSUER, Issuer, Signer, claims},
};

/// In each secret, and in all that callers send.
const CANARY: &str = "canary7f3a";

/// What would begin a line of its own, or seem to.
const FORGED: &str = "FORGED-LINE";

fn launch(args: &[&str], redis: &RedisServer, format: &str) -> Launch {
    Launch::new("umbel", args)
        .env("REDIS_URL", format!("redis://{CANARY}:{CANARY}@127.0.0.1:{}", redis.port()))
        .env("DATABASE_URL", format!("postgres://{CANARY}:{CANARY}@127.0.0.1:1/d"))
        .env("DATABASE_DIRECT_URL", format!("postgres://u:{CANARY}@127.0.0.1:1/d"))
        .env("JWT_SECRET", format!("{CANARY}{CANARY}{CANARY}{CANARY}"))
        .env("JWT_ISSUER", ISSUER)
        .env("JWT_AUDIENCE", AUDIENCE)
        .env("LOG_LEVEL", "trace")
        .env("LOG_FORMAT", format)
}

/// Line ends and escapes, as they can stand in a path.
const IN_PATHS: [&str; 7] =
    ["%0d%0a", "%0a", "%1b%5b2J", "%e2%80%a8", "%e2%80%a9", "%c2%85", "%00"];

/// The same as they can stand in a body of JSON.
const IN_BODIES: [&str; 7] =
    ["\\r\\n", "\\n", "\\u001b[2J", "\u{2028}", "\u{2029}", "\u{85}", "\\u0000"];

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_gets_out_and_no_caller_writes_the_log() {
    let signer = Signer::ec("ec-1");
    // One that lets nobody in without the password, and is really asked.
    let redis = RedisServer::start();
    let password = format!(">{CANARY}");
    redis.cli(&["ACL", "SETUSER", CANARY, "on", &password, "~*", "&*", "+@all"]);
    for format in ["text", "json"] {
        let issuer = Issuer::start(Answer::Status(500)).await;
        let launch = launch(&["api"], &redis, format).env("JWKS_URL", &issuer.url);
        let token = launch_token(&redis, format);
        let api = running(launch).await;
        let mut answers = Vec::new();
        let mut requests = Vec::new();
        for bad in IN_PATHS {
            for path in [
                format!("/v1/tasks/a{bad}{FORGED}"),
                format!("/v1/{bad}{FORGED}{CANARY}"),
                format!("/{bad}{FORGED}{CANARY}?{CANARY}={bad}{FORGED}"),
            ] {
                requests.push((Method::GET, path.clone(), String::new()));
                requests.push((Method::POST, path, format!(r#"{{"args": "{CANARY}"}}"#)));
            }
        }
        for bad in IN_BODIES {
            let body =
                format!(r#"{{"args": {{"{bad}{FORGED}": "{bad}{FORGED}"}}, "{bad}{FORGED}": 1}}"#);
            requests.push((Method::POST, "/v1/tasks/pages.scrape".to_owned(), body));
        }
        requests.push((Method::GET, "/v1/queues".to_owned(), String::new()));
        requests.push((Method::GET, "/readyz".to_owned(), String::new()));
        requests.push((Method::GET, "/metrics".to_owned(), String::new()));
        requests.push((Method::GET, "/openapi.json".to_owned(), String::new()));
        for (method, path, body) in requests {
            let sent = body.clone();
            let request = api.browser.request(method, format!("{}{path}", api.url));
            let answer = request
                .bearer_auth(&token)
                .header("content-type", "application/json")
                .header("x-request-id", format!("{FORGED} \t {CANARY}"))
                .header("x-forwarded-for", CANARY)
                .header("cookie", CANARY)
                .header("idempotency-key", CANARY)
                .body(body)
                .send()
                .await
                .unwrap();
            let asked_for_it = path.contains(CANARY) || sent.contains(CANARY);
            let headers = format!("{:?}", answer.headers());
            assert!(!headers.contains(CANARY) && !headers.contains(FORGED), "{headers}");
            let text = answer.text().await.unwrap();
            // What was asked for may be told to who asked.
            answers.push((asked_for_it, text));
        }
        // One that is taken, with what nobody is to read but its worker.
        let url = format!("{}/v1/tasks/pages.scrape", api.url);
        let args = json!({"args": {"url": format!("http://example.com/{CANARY}")}});
        let taken = api.browser.post(url).bearer_auth(&token).json(&args).send().await.unwrap();
        assert_eq!(taken.status(), StatusCode::ACCEPTED);
        // Who asks with a key that nobody has: a warning about the provider, and no token in it.
        let url = format!("{}/v1/tasks", api.url);
        let asked = api.browser.get(url).bearer_auth(signer.token()).send().await.unwrap();
        assert_eq!(asked.status(), StatusCode::SERVICE_UNAVAILABLE);
        for (asked_for_it, answer) in &answers {
            assert!(*asked_for_it || !answer.contains(CANARY), "{answer}");
        }
        let mut process = api.process;
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(process.ended().await.code(), Some(0));
        let log = process.log();
        assert!(!log.contains(CANARY), "{format}: {}", around(&log, CANARY));
        let secret_parts = signer.token();
        for part in secret_parts.split('.').chain(token.split('.')) {
            assert!(!log.contains(part), "{format}: a part of a token");
        }
        assert!(log.contains("GET") && log.contains("POST") && log.contains("TRACE"), "{format}");
        assert!(log.lines().count() > 60, "{format}");
        for line in log.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
            assert!(!line.contains('\u{1b}') && !line.starts_with(FORGED), "{format}: {line:?}");
            if line.is_empty() {
                continue;
            }
            if format == "json" {
                serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
            } else {
                let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
                let level = line.split_whitespace().nth(1).unwrap_or_default();
                assert!(line.starts_with("20") && levels.contains(&level), "{line:?}");
            }
        }
    }
}

/// Of somebody who may do all, as `umbel token` makes it.
fn launch_token(redis: &RedisServer, format: &str) -> String {
    let made = launch(&["token", "--scopes", "admin"], redis, format).output();
    let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert_eq!(token.split('.').count(), 3, "{}", String::from_utf8_lossy(&made.stderr));
    token
}

fn around<'a>(text: &'a str, part: &str) -> &'a str {
    text.lines().find(|line| line.contains(part)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_published_tokens_open_what_the_settings_say() {
    let signer = Signer::ec("ec-1");
    let issuer = Issuer::start(Answer::Keys(vec![signer.jwk()])).await;
    let metrics = free_port();
    let launch = Launch::new("umbel", &["api"])
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("JWKS_URL", &issuer.url)
        .env("JWT_ISSUER", ISSUER)
        .env("JWT_AUDIENCE", AUDIENCE)
        .env("JWT_ROLE_SCOPES", "authenticated=tasks:read,service_role=admin")
        .env("METRICS_PORT", metrics);
    let api = running(launch).await;
    let status = async |role: &str, path: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove("scope");
        claims["role"] = role.into();
        let token = signer.sign(&signer.header(), &claims);
        let request = api.browser.get(format!("{}{path}", api.url)).bearer_auth(token);
        request.send().await.unwrap().status()
    };
    assert_eq!(status("authenticated", "/v1/tasks").await, StatusCode::OK);
    assert_eq!(status("service_role", "/v1/tasks").await, StatusCode::OK);
    assert_eq!(status("anon", "/v1/tasks").await, StatusCode::FORBIDDEN);
    // Metrics have a port of their own, and nothing else is there.
    assert_eq!(status("service_role", "/metrics").await, StatusCode::NOT_FOUND);
    let there = |path: &str| api.browser.get(format!("http://127.0.0.1:{metrics}{path}")).send();
    let text = there("/metrics").await.unwrap().text().await.unwrap();
    let told =
        r#"umbel_http_requests_total{role="api",route="/v1/tasks",method="GET",status="2xx"} 2"#;
    assert!(text.contains(told), "{text}");
    assert_eq!(there("/v1/tasks").await.unwrap().status(), StatusCode::NOT_FOUND);
    assert_eq!(api.process.stop().await.code(), Some(0));
}
