//! Bytes that ask for more memory or depth than they have: in Redis, where somebody has written them, and
//! in bodies of requests. Nothing falls, and nothing grows.

mod pages;

use std::fmt::Write;

use chrono::Utc;
use reqwest::StatusCode;
use umbel_broker::keys::Stream;
use umbel_proto::{Body, Envelope, TaskId, codec};
use umbel_tests::{
    eventually::eventually,
    probe::shard,
    process::{Launch, free_port, is_alive, memory},
    services::RedisServer,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How much a process may grow over all bombs together: far less than one of them asks for.
const GROWTH_KIB: u64 = 64 * 1024;

fn launch(redis: &RedisServer, args: &[&str]) -> Launch {
    Launch::new("greeter", args).env("REDIS_URL", redis.url_as("worker")).env("JWT_SECRET", SECRET)
}

/// msgpack that no task is made of.
fn packed() -> Vec<(&'static str, Vec<u8>)> {
    let claims = |kind: u8| vec![kind, 0xff, 0xff, 0xff, 0xff];
    let wide = |kind: u8, count: u32, element: &[u8]| {
        [&[kind], &count.to_be_bytes()[..], &element.repeat(count as usize)].concat()
    };
    vec![
        ("lists in lists", vec![0x91; 100_000]),
        ("maps in maps", [0x81, 0xa1, b'a'].repeat(80_000)),
        ("maps for keys of maps", vec![0x81; 100_000]),
        ("a list of four thousand million", claims(0xdd)),
        ("a map of four thousand million", claims(0xdf)),
        ("four gigabytes", claims(0xc6)),
        ("a text of four gigabytes", claims(0xdb)),
        ("an extension of four gigabytes", [claims(0xc9), vec![1]].concat()),
        ("a field of four gigabytes", [&[0x81, 0xa4][..], b"args", &claims(0xc6)].concat()),
        ("a field that is a list of them", [&[0x81, 0xa4][..], b"args", &claims(0xdd)].concat()),
        ("a quarter of a million lists", wide(0xdd, 250_000, &[0x90])),
        ("a key, over and over", wide(0xdf, 85_000, &[0xa1, b'a', 0xc0])),
        ("a field, over and over", wide(0xdf, 40_000, &[0xa4, b'n', b'a', b'm', b'e', 0xc0])),
        ("too much of nothing", vec![0xc0; codec::MAX_BYTES + 1]),
        ("far too much of it", vec![0xc0; 8 * 1024 * 1024]),
        ("something behind it", vec![0x80, 0x80]),
        ("a text that is none", vec![0x81, 0xa4, 0xff, 0xfe, 0xfd, 0xfc, 0xc0]),
        ("a byte that means nothing", vec![0xc1]),
        ("nothing", Vec::new()),
    ]
}

/// Writes an entry as no client of ours would.
fn add(redis: &RedisServer, fields: &[(&str, Vec<u8>)]) {
    let mut add = redis::cmd("XADD");
    add.arg(shard().ready(Stream::Normal)).arg("*");
    for (name, value) in fields {
        add.arg(name).arg(value);
    }
    let client = redis::Client::open(redis.url()).unwrap();
    add.query::<String>(&mut client.get_connection().unwrap()).unwrap();
}

/// As the whole of an envelope's body, and as the arguments in a good one.
fn add_bomb(redis: &RedisServer, bomb: &[u8]) -> usize {
    let sealed = |args: Vec<u8>| {
        let id = TaskId::new(&"default".parse().unwrap(), uuid::Uuid::now_v7());
        Envelope::seal(id, "greet".parse().unwrap(), &Body { args, ..Body::default() }, Utc::now())
    };
    let bare = sealed(codec::encode(&"x").unwrap()).unwrap();
    add(redis, &Envelope { env: bomb.to_vec(), ..bare }.fields());
    // A body that is too large to be sealed is none that a client could send.
    let Ok(within) = sealed(bomb.to_vec()) else { return 1 };
    add(redis, &within.fields());
    2
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_in_redis_are_buried_and_shown_and_nobody_grows() {
    let redis = RedisServer::start();
    let port = free_port();
    let worker = launch(&redis, &["worker"]).start();
    let api = launch(&redis, &["api"]).env("PORT", port).start();
    let good = || launch(&redis, &["enqueue", "greet", r#"{"name": "Ann"}"#]).output();
    let waits = || redis.cli(&["XLEN", "umbel:{default}:ready:normal"]);
    assert!(good().status.success());
    eventually("a good task is done", async || (waits() == "0").then_some(())).await;
    let before = [worker.pid(), api.pid()].map(|pid| memory(pid, "VmRSS"));

    let mut added = 0;
    for (_, bomb) in packed() {
        added += add_bomb(&redis, &bomb);
    }
    assert!(added > 30, "{added}");
    let buried = || redis.cli(&["XLEN", "umbel:{default}:dead"]);
    eventually("all are buried", async || (buried() == added.to_string()).then_some(())).await;
    // Of each an operator is shown what can be shown.
    let token = launch(&redis, &["token", "--scopes", "admin"]).output().stdout;
    let token = String::from_utf8(token).unwrap();
    let browser = browser();
    let ask = async |path: String| {
        let request = browser.get(format!("http://127.0.0.1:{port}{path}"));
        let answer = request.bearer_auth(token.trim()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json::<serde_json::Value>().await.unwrap()
    };
    let letters = ask("/v1/dead?queue=default&limit=100".to_owned()).await;
    let letters = letters["letters"].as_array().unwrap().clone();
    assert_eq!(letters.len(), added);
    for letter in &letters {
        ask(format!("/v1/dead/default/{}", letter["letter"].as_str().unwrap())).await;
    }

    assert!(good().status.success());
    eventually("good tasks are done still", async || (waits() == "0").then_some(())).await;
    for (process, before) in [&worker, &api].into_iter().zip(before) {
        assert!(is_alive(process.pid()), "{}", process.log());
        let grown = memory(process.pid(), "VmHWM").saturating_sub(before);
        println!("bombs in Redis: {grown} KiB more at most");
        assert!(grown < GROWTH_KIB, "{grown} KiB");
    }
    assert_eq!(worker.stop().await.code(), Some(0));
    assert_eq!(api.stop().await.code(), Some(0));
}

/// JSON as large as a body may be.
fn bodies() -> Vec<(&'static str, String)> {
    let most = 1024 * 1024;
    let filled = |start: &str, part: &str, end: &str| {
        let count = (most - start.len() - end.len()) / part.len();
        format!("{start}{}{end}", part.repeat(count))
    };
    let mut keys = String::from(r#"{"args": {"other": "x""#);
    for key in 0.. {
        if keys.len() > most - 32 {
            break;
        }
        write!(keys, r#","k{key}":{key}"#).unwrap();
    }
    keys.push_str("}}");
    vec![
        ("lists in lists", filled("", "[", "")),
        ("maps in maps", filled("", r#"{"a":"#, "")),
        ("lists in the arguments", filled(r#"{"args":"#, "[", "")),
        ("half a million numbers", filled(r#"{"args":{"name":[0"#, ",0", "]}}")),
        ("a hundred thousand lists", filled(r#"{"args":{"name":[[]"#, ",[[[]]]", "]}}")),
        ("a number of a million digits", filled(r#"{"args":{"name":1"#, "0", "}}")),
        ("a number beyond all numbers", r#"{"args":{"name":1e999999999}}"#.to_owned()),
        ("escapes", filled(r#"{"args":{"name":""#, "\\u0000", r#""},"x":1}"#)),
        ("a name, over and over", filled(r#"{"args":{"name":1"#, r#","name":1"#, "}}")),
        ("names, one after another", keys),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_in_bodies_are_refused_and_the_api_does_not_grow() {
    let redis = RedisServer::start();
    let port = free_port();
    let api = launch(&redis, &["api"]).env("PORT", port).start();
    let token = String::from_utf8(launch(&redis, &["token"]).output().stdout).unwrap();
    let browser = browser();
    let url = format!("http://127.0.0.1:{port}/v1/tasks/greet");
    let post = async |body: String| {
        let request = browser.post(&url).bearer_auth(token.trim());
        request.header("content-type", "application/json").body(body).send().await
    };
    eventually("the API answers", async || post(String::new()).await.ok()).await;
    let before = memory(api.pid(), "VmRSS");
    for (what, body) in bodies() {
        let status = post(body).await.unwrap().status();
        assert!([400, 413, 422].contains(&status.as_u16()), "{what}: {status}");
    }
    let grown = memory(api.pid(), "VmHWM").saturating_sub(before);
    println!("bombs in bodies: {grown} KiB more at most");
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    assert_eq!(redis.cli(&["XLEN", "umbel:{default}:ready:normal"]), "0");
    let good = post(r#"{"args": {"name": "Ann"}}"#.to_owned()).await.unwrap();
    assert_eq!(good.status(), StatusCode::ACCEPTED);
    assert_eq!(api.stop().await.code(), Some(0));
}

fn browser() -> reqwest::Client {
    // Another test of this process may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}
