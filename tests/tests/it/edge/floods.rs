//! Too much of anything: bodies, heads, connections, requests, and too little of a reader.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::{Method, StatusCode, header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use umbel_api::{ApiSettings, Grant, JwtSettings};
use umbel_broker::{BrokerSettings, Client};
use umbel_tests::{
    eventually::{LONGEST, eventually},
    house::House,
    process::{Launch, memory},
};

use super::gate::{Gate, LIST, SECRET, problem_of, running, to_the_end};

/// Short, so that its end is soon; what is asserted is that there is one.
const SOON: Duration = Duration::from_millis(300);

fn jwt() -> JwtSettings {
    JwtSettings::new(SECRET.into())
}

fn token() -> String {
    Grant::new("ann").sign(&jwt(), chrono::Utc::now()).unwrap()
}

fn hasty(settings: &mut ApiSettings) {
    (settings.limits.header_timeout, settings.limits.body_timeout) = (SOON, SOON);
}

async fn is_served(gate: &Gate) {
    eventually("a good request is served", async || {
        let url = format!("http://{}{LIST}", gate.addr);
        let asked = gate.browser.get(url).bearer_auth(token()).send().await;
        asked.is_ok_and(|answer| answer.status() == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_mebibytes_are_refused_before_they_are_read_by_whomever_they_come() {
    let gate = Gate::open(jwt(), |_| {}).await;
    const LENGTH: usize = 10 * 1024 * 1024;
    let head = |more: &str| {
        let token = token();
        format!(
            "POST /v1/tasks/probe HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{more}\r\n\r\n"
        )
    };
    let told = head(&format!("content-length: {LENGTH}"));
    let chunked = head("transfer-encoding: chunked");
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, " ".repeat(64 * 1024));
    for (start, part) in [(told, " ".repeat(64 * 1024)), (chunked, chunk)] {
        let mut connection = gate.connect().await;
        connection.write_all(start.as_bytes()).await.unwrap();
        let mut written = 0;
        while written < LENGTH && connection.write_all(part.as_bytes()).await.is_ok() {
            written += 64 * 1024;
        }
        // What came before the reset, if the other side would not read on: asked for anew.
        assert!(written <= LENGTH);
        drop(connection);
        // Only as much as is taken at least until the answer comes.
        let mut connection = gate.connect().await;
        connection.write_all(start.as_bytes()).await.unwrap();
        let (mut reads, mut writes) = connection.split();
        let pour = async {
            for _ in 0..LENGTH / (64 * 1024) {
                if writes.write_all(part.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        let mut answer = vec![0; 16 * 1024];
        let read = async { reads.read(&mut answer).await.unwrap() };
        let (read, ()) = tokio::join!(read, pour);
        let (status, problem) = problem_of(&String::from_utf8_lossy(&answer[..read]));
        assert_eq!((status, &problem["status"]), (413, &413.into()), "{problem}");
    }
    // By somebody without a token as well.
    let bare =
        format!("POST /v1/tasks/probe HTTP/1.1\r\nhost: x\r\ncontent-length: {LENGTH}\r\n\r\n");
    let mut connection = gate.connect().await;
    connection.write_all(bare.as_bytes()).await.unwrap();
    let mut answer = vec![0; 16 * 1024];
    let read = connection.read(&mut answer).await.unwrap();
    assert_eq!(problem_of(&String::from_utf8_lossy(&answer[..read])).0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_a_408_and_the_end_of_its_connection() {
    let gate = Gate::open(jwt(), hasty).await;
    let head = format!(
        "POST /v1/tasks/probe HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"args\"",
        token()
    );
    let (status, problem) = problem_of(&gate.answer_to(head.as_bytes()).await);
    assert_eq!((status, &problem["status"]), (408, &408.into()));
}

/// A proxy keeps it for its next request; one that ended meanwhile would take that with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_served_may_pause_longer_than_a_head_may_take() {
    let gate = Gate::open(jwt(), hasty).await;
    let mut connection = gate.connect().await;
    for _ in 0..2 {
        connection.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 1024];
        let read = connection.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", answer[..read].escape_ascii());
        let nothing = tokio::time::timeout(3 * SOON, connection.read(&mut answer)).await;
        assert!(nothing.is_err(), "it has ended: {nothing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_a_size_and_a_number_of_lines() {
    let gate = Gate::open(jwt(), |_| {}).await;
    let ask =
        |more: String| format!("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
    let lines = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    for (more, status) in [
        (lines(60), "200"),
        (lines(65), "431"),
        (format!("x-long: {}\r\n", "y".repeat(15 * 1024)), "200"),
        (format!("x-long: {}\r\n", "y".repeat(17 * 1024)), "431"),
    ] {
        let answer = gate.answer_to(ask(more).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(70 * 1024));
    let answer = gate.answer_to(path.as_bytes()).await;
    assert!(["HTTP/1.1 414 ", "HTTP/1.1 431 "].iter().any(|a| answer.starts_with(a)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_a_head_drip_by_drip_loses_the_connection() {
    // There is one place: it is free again, or nobody else is served.
    let gate = Gate::open(jwt(), |settings| {
        hasty(settings);
        settings.limits.keep_alive = SOON;
        settings.limits.connections = 1;
    })
    .await;
    for start in ["", "G", "GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut slow = gate.connect().await;
        slow.write_all(start.as_bytes()).await.unwrap();
        // Each drop comes soon enough; the head never does.
        let dripping = async {
            while slow.write_all(b"y").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = dripping => {}
            () = is_served(&gate) => {}
        }
        is_served(&gate).await;
    }
    // Nor does one keep it who had an answer, and asks for nothing more.
    let mut idle = gate.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(to_the_end(&mut idle).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_much_and_reads_nothing_loses_the_connection() {
    let gate = Gate::open(jwt(), |settings| {
        hasty(settings);
        settings.limits.connections = 1;
    })
    .await;
    let mut greedy = gate.connect().await;
    let ask = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    greedy.write_all(ask.as_bytes()).await.unwrap();
    is_served(&gate).await;
    let read = to_the_end(&mut greedy).await;
    assert!(read.starts_with("HTTP/1.1 200"), "it was served for a while");
    assert!(read.matches("HTTP/1.1 200").count() < 50, "and not to the end");
}

/// Far more than there are places.
const CROWD: usize = 10_000;

/// All of the crowd have their turn: ten times as many as there are places.
const CROWD_MAX: Duration = Duration::from_secs(180);

/// Who has not had its turn by then was never let in, and comes again: by itself a kernel tries after
/// twice as long each time, up to minutes. Those before it at the door take a few seconds.
const TURN_MAX: Duration = Duration::from_secs(10);

/// Sends the beginning of a request and waits to be cut off; what it is told.
async fn says_nothing(addr: SocketAddr, head: &str) -> String {
    // Those for whom there is no place wait at the kernel, or are turned away by it.
    let Ok(mut connection) = TcpStream::connect(addr).await else { return String::new() };
    // One that was cut off already has had its time.
    let _ = connection.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_that_say_nothing_cost_little_and_do_not_keep_others_out() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(most > CROWD as u64 + 2_000, "{most} open files are too few for this: ulimit -Hn");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let launch = Launch::new("umbel", &["api"])
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("JWT_SECRET", SECRET)
        .env("HEADER_TIMEOUT", "500ms");
    let api = running(launch).await;
    let before = memory(api.process.pid(), "VmRSS");
    let addr: SocketAddr = api.url.trim_start_matches("http://").parse().unwrap();
    let head = format!("GET / HTTP/1.1\r\nx-long: {}", "y".repeat(8 * 1024));
    let crowd: JoinSet<String> = (0..CROWD)
        .map(|_| {
            let head = head.clone();
            async move {
                loop {
                    // What the kernel has no place for it forgets, and tells nobody.
                    let turn = tokio::time::timeout(TURN_MAX, says_nothing(addr, &head)).await;
                    if let Ok(answer) = turn {
                        return answer;
                    }
                }
            }
        })
        .collect();
    let crowd = tokio::time::timeout(CROWD_MAX, crowd.join_all());
    let answers = crowd.await.expect("each of them loses its connection");
    assert_eq!(answers.len(), CROWD);
    assert!(answers.iter().all(|answer| !answer.contains("200 OK")));
    let livez = format!("{}/livez", api.url);
    let browser = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().unwrap();
    eventually("somebody else is served", async || browser.get(&livez).send().await.ok()).await;
    // Of the worst moment.
    let grown = memory(api.process.pid(), "VmHWM").saturating_sub(before);
    println!("a crowd of {CROWD}: {grown} KiB more at most");
    assert!(grown < 64 * 1024, "{grown} KiB for {CROWD} connections");
    assert_eq!(api.process.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_asks_too_often_is_told_when_to_come_again() {
    let gate = Gate::open(jwt(), |settings| settings.limits.per_peer = NonZeroU32::new(1)).await;
    let ask = async |path: &str| {
        let request = gate.browser.request(Method::GET, format!("http://{}{path}", gate.addr));
        // What a caller says of its address is worth nothing here.
        request.header("x-forwarded-for", "1.2.3.4").send().await.unwrap()
    };
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(ask(LIST).await);
    }
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status() == 429).collect();
    assert!(refused.len() >= 10, "{}", refused.len());
    for answer in refused {
        let wait: u64 = answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
    assert_eq!(answers[0].status(), StatusCode::UNAUTHORIZED);
    for _ in 0..20 {
        assert_eq!(ask("/livez").await.status(), StatusCode::OK, "health is not counted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_with_all_its_requests_leaves_room_for_others() {
    const PLACES: usize = 2;
    let house = House::start();
    let client = Client::open(&BrokerSettings::new(house.redis.url_as("api")), "api").unwrap();
    let gate = Gate::on(client, jwt(), |settings| {
        settings.limits.in_flight = PLACES + 1;
        settings.limits.subject_in_flight = PLACES;
    })
    .await;
    let ask = |subject: &str, method: Method, path: &str| {
        let token = Grant::new(subject).sign(&jwt(), chrono::Utc::now()).unwrap();
        gate.browser.request(method, format!("http://{}{path}", gate.addr)).bearer_auth(token)
    };
    let body = |name: usize| json!({"args": {"name": name.to_string(), "act": "hold"}});
    let waits: JoinSet<_> = (0..PLACES)
        .map(|n| {
            ask("ann", Method::POST, "/v1/tasks/probe").header("prefer", "wait=25").json(&body(n))
        })
        .map(|request| async { request.send().await.unwrap().status() })
        .collect();
    eventually("all of them wait", async || {
        (house.client.queues().await.unwrap().first()?.queued == PLACES as u64).then_some(())
    })
    .await;
    let refused = ask("ann", Method::GET, LIST).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(ask("bob", Method::GET, LIST).send().await.unwrap().status(), StatusCode::OK);

    let worker = house.worker(PLACES);
    (0..PLACES).for_each(|n| house.record.open(&n.to_string()));
    assert!(waits.join_all().await.into_iter().all(|status| status == StatusCode::OK));
    let served = ask("ann", Method::GET, LIST).send().await.unwrap();
    assert_eq!(served.status(), StatusCode::OK, "the places are free again");

    // Followed tasks are held apart, for they last longer.
    let task: serde_json::Value = ask("ann", Method::POST, "/v1/tasks/probe")
        .json(&body(PLACES))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let events = format!("/v1/tasks/{}/events", task["id"].as_str().unwrap());
    let follow = || ask("ann", Method::GET, &events).send();
    let mut followed = Vec::new();
    for _ in 0..PLACES {
        followed.push(follow().await.unwrap());
    }
    assert!(followed.iter().all(|answer| answer.status() == StatusCode::OK));
    let refused = follow().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "5");
    assert_eq!(ask("ann", Method::GET, LIST).send().await.unwrap().status(), StatusCode::OK);
    drop(followed);
    eventually("the place is free again", async || {
        (follow().await.unwrap().status() == StatusCode::OK).then_some(())
    })
    .await;
    house.record.open(&PLACES.to_string());
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_any_kind_are_problems() {
    let gate = Gate::open(jwt(), |_| {}).await;
    let url = |path: &str| format!("http://{}{path}", gate.addr);
    for (method, path, kind, status) in [
        (Method::GET, "/v1/nowhere", "application/json", 404),
        (Method::GET, "/nowhere", "application/json", 404),
        (Method::DELETE, "/v1/tasks", "application/json", 405),
        (Method::TRACE, "/livez", "application/json", 405),
        (Method::from_bytes(b"MADEUP").unwrap(), "/v1/queues", "application/json", 405),
        (Method::POST, "/v1/tasks/probe", "text/plain", 415),
        (Method::POST, "/v1/tasks/probe", "application/json", 400),
    ] {
        let request = gate.browser.request(method.clone(), url(path)).bearer_auth(token());
        let answer = request.header("content-type", kind).body("{").send().await.unwrap();
        let case = format!("{method} {path} {kind}");
        assert_eq!(answer.status(), status, "{case}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json", "{case}");
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["request_id"]), (&status.into(), &id.into()));
    }
    // Packed bodies are not unpacked: what comes is read as it is.
    let packed =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let request = gate.browser.post(url("/v1/tasks/probe")).bearer_auth(token());
    let request =
        request.header("content-type", "application/json").header("content-encoding", "gzip");
    assert_eq!(request.body(packed.to_vec()).send().await.unwrap().status(), 400);
}
