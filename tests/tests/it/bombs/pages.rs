//! Pages that ask for more memory or depth than a visitor has.

use std::{io::Write, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use tokio::net::TcpListener;
use umbel_tests::{
    eventually::within,
    process::{Launch, memory},
    services::{PostgresServer, RedisServer},
};

use super::GROWTH_KIB;

/// Some are tried again, and each may take its time.
const PATIENCE: Duration = Duration::from_secs(120);

const BOMBS: [&str; 12] = [
    "packed",
    "packed-twice",
    "endless",
    "endless-title",
    "endless-attribute",
    "endless-tag",
    "endless-script",
    "nested",
    "nested-tables",
    "nested-json",
    "links",
    "things",
];

/// Of many pages more than anybody reads.
const LARGE: usize = 8 * 1024 * 1024;

fn repeated(start: &str, part: &str) -> Response {
    Html(format!("{start}{}", part.repeat(LARGE / part.len()))).into_response()
}

fn endless(start: &'static str) -> Response {
    let parts = std::iter::once(Bytes::from_static(start.as_bytes()))
        .chain(std::iter::repeat_with(|| Bytes::from(vec![b'a'; 64 * 1024])));
    let parts = futures::stream::iter(parts.map(Ok::<_, std::io::Error>));
    ([(header::CONTENT_TYPE, "text/html")], Body::from_stream(parts)).into_response()
}

/// A hundred megabytes of nothing.
fn packed() -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(b"<title>packed</title>").unwrap();
    for _ in 0..100 {
        packed.write_all(&vec![b' '; 1024 * 1024]).unwrap();
    }
    packed.finish().unwrap()
}

fn unpacked_by(encoding: &str, bytes: Vec<u8>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
    headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
    (headers, bytes).into_response()
}

async fn page(Path(name): Path<String>) -> Response {
    match name.as_str() {
        "good" => Html("<title>good</title>").into_response(),
        "packed" => unpacked_by("gzip", packed()),
        "packed-twice" => {
            let mut again = GzEncoder::new(Vec::new(), Compression::best());
            again.write_all(&packed()).unwrap();
            unpacked_by("gzip, gzip", again.finish().unwrap())
        }
        "endless" => endless("<title>endless</title>"),
        "endless-title" => endless("<title>"),
        "endless-attribute" => endless("<meta name=description content='"),
        "endless-tag" => endless("<"),
        "endless-script" => endless("<script type='application/ld+json'>\""),
        "nested" => repeated("<title>nested</title>", "<div>"),
        "nested-tables" => repeated("", "<table><tr><td><svg><math>"),
        "nested-json" => repeated("<script type='application/ld+json'>", "["),
        "links" => repeated("", "<a href='/links?a'>a</a>"),
        "things" => repeated("", "<p itemscope itemtype='https://schema.org/Product'>"),
        name => panic!("no page {name}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_makes_its_visitor_grow() {
    let redis = RedisServer::start();
    let database = PostgresServer::shared().database();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let web = Router::new().route("/{page}", get(page));
    let web = tokio::spawn(async move { axum::serve(listener, web).await.unwrap() });
    let launch = |args: &[&str]| {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url_as("worker"))
            .env("DATABASE_URL", database.url())
            .env("SCRAPE_ALLOW_PRIVATE", "127.0.0.1")
            .env("SCRAPE_TIMEOUT", "10s")
    };
    assert!(launch(&["migrate"]).output().status.success());
    let worker = launch(&["worker"]).start();
    let state_of = async |page: &str| {
        let args = format!(r#"{{"url": "http://{addr}/{page}"}}"#);
        let id = launch(&["enqueue", "pages.scrape", &args]).output().stdout;
        let id = String::from_utf8(id).unwrap().trim().to_owned();
        within(PATIENCE, page, async || {
            let known: Value =
                serde_json::from_slice(&launch(&["status", &id]).output().stdout).ok()?;
            let state = known["state"].as_str()?.to_owned();
            ["succeeded", "failed"].contains(&state.as_str()).then_some(state)
        })
        .await
    };
    assert_eq!(state_of("good").await, "succeeded");
    let before = memory(worker.pid(), "VmRSS");
    let ends = futures::future::join_all(BOMBS.iter().map(|page| state_of(page))).await;
    println!("{:?}", BOMBS.iter().zip(&ends).collect::<Vec<_>>());
    assert_eq!(state_of("good").await, "succeeded");
    let grown = memory(worker.pid(), "VmHWM").saturating_sub(before);
    println!("pages that are bombs: {grown} KiB more at most");
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    assert_eq!(worker.stop().await.code(), Some(0));
    web.abort();
}
