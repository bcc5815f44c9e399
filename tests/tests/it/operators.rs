//! What an operator does over HTTP: pause and resume, dead letters, workers, schedules.

use chrono::Utc;
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use umbel_beat::{Beat, Timetable, every};
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::House,
    probe::{Act, Probe},
};

use super::api::served::Served;

async fn json(response: Response) -> Value {
    let status = response.status();
    let value: Value = response.json().await.unwrap();
    assert!(status.is_success(), "{status}: {value}");
    value
}

async fn refused(response: Response, status: StatusCode) -> Value {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(response.status(), status);
    response.json().await.unwrap()
}

async fn post(api: &Served, path: &str, body: Value) -> Response {
    api.ask_as_admin(Method::POST, path).json(&body).send().await.unwrap()
}

async fn get(api: &Served, path: &str) -> Response {
    api.ask_as_admin(Method::GET, path).send().await.unwrap()
}

async fn delete(api: &Served, path: &str) -> Response {
    api.ask_as_admin(Method::DELETE, path).send().await.unwrap()
}

/// Buries so many tasks, and returns their letters, the newest first.
async fn buried(house: &House, api: &Served, count: usize) -> Vec<Value> {
    let worker = house.worker(4);
    for n in 0..count {
        let probe = Probe::new(&format!("n{n}"), Act::Fatal("no such host".to_owned()));
        let handle = house.client.enqueue(probe).await.unwrap();
        house.ended(handle.id()).await;
    }
    worker.stop().await.unwrap();
    let page = json(get(api, "/v1/dead?queue=default&limit=100").await).await;
    page["letters"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_paused_by_the_tokens_subject_and_goes_on() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    // A queue that nobody ever used cannot be paused by a slip of the pen.
    let body = json!({"why": "the shop is closed"});
    for path in ["/v1/queues/defualt/pause", "/v1/queues/No%20Name/pause"] {
        refused(post(&api, path, body.clone()).await, StatusCode::NOT_FOUND).await;
    }
    refused(get(&api, "/v1/queues/default").await, StatusCode::NOT_FOUND).await;
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let before = json(get(&api, "/v1/queues/default").await).await;
    assert_eq!((&before["queued"], &before["paused"]), (&json!(1), &Value::Null));

    let paused = json(post(&api, "/v1/queues/default/pause", body).await).await;
    let by = &paused["paused"];
    assert_eq!((&by["why"], &by["by"]), (&json!("the shop is closed"), &json!("ann")));
    let since = by["since"].as_str().unwrap().parse::<chrono::DateTime<Utc>>().unwrap();
    assert!(Utc::now() - since < chrono::TimeDelta::minutes(5));
    // The first word stands.
    let again = json(post(&api, "/v1/queues/default/pause", json!({"why": "other"})).await).await;
    assert_eq!(again["paused"], paused["paused"]);
    let list = json(get(&api, "/v1/queues").await).await;
    assert_eq!(list["queues"][0]["paused"], paused["paused"]);
    for wrong in
        [json!({}), json!({"why": "  "}), json!({"why": "x".repeat(201)}), json!({"why": "a\nb"})]
    {
        let path = "/v1/queues/default/pause";
        refused(post(&api, path, wrong).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    }

    let worker = house.worker(1);
    let resumed =
        json(api.ask_as_admin(Method::POST, "/v1/queues/default/resume").send().await.unwrap());
    assert_eq!(resumed.await["paused"], Value::Null);
    assert_eq!(handle.wait(std::time::Duration::from_secs(20)).await.unwrap(), 1);
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_read_run_again_and_deleted() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let letters = buried(&house, &api, 3).await;
    assert_eq!(letters.len(), 3);
    assert_eq!(
        (&letters[0]["why"], &letters[0]["error"]),
        (&json!("fatal"), &json!("no such host"))
    );
    let at = |n: usize| format!("/v1/dead/default/{}", letters[n]["letter"].as_str().unwrap());

    let opened = json(get(&api, &at(0)).await).await;
    assert_eq!(opened["args"], json!({"name": "n2", "act": {"fatal": "no such host"}}));
    assert_eq!((&opened["task"], &opened["attempt"]), (&json!("probe"), &json!(1)));
    assert_eq!(opened["id"], letters[0]["id"]);

    let waits = json(post(&api, &format!("{}/redrive", at(0)), json!({})).await).await;
    assert_eq!(waits["id"], letters[0]["id"]);
    let record =
        json(get(&api, &format!("/v1/tasks/{}", waits["id"].as_str().unwrap())).await).await;
    assert_eq!((&record["state"], &record["error"]), (&json!("queued"), &Value::Null));
    for path in [at(0), format!("/v1/dead/default/{}", "7-7"), "/v1/dead/default/x".to_owned()] {
        refused(get(&api, &path).await, StatusCode::NOT_FOUND).await;
    }
    let twice = post(&api, &format!("{}/redrive", at(0)), json!({})).await;
    refused(twice, StatusCode::NOT_FOUND).await;

    assert_eq!(delete(&api, &at(1)).await.status(), StatusCode::NO_CONTENT);
    refused(delete(&api, &at(1)).await, StatusCode::NOT_FOUND).await;
    assert_eq!(house.queue().await.dead, 1);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_paged_and_those_that_are_meant_run_again_or_go() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let letters = buried(&house, &api, 5).await;
    let first = json(get(&api, "/v1/dead?queue=default&limit=2").await).await;
    assert_eq!(first["letters"].as_array().unwrap()[..], letters[..2]);
    let next = format!("/v1/dead?queue=default&limit=4&before={}", first["next"].as_str().unwrap());
    let rest = json(get(&api, &next).await).await;
    assert_eq!(rest["letters"].as_array().unwrap()[..], letters[2..]);
    assert_eq!(rest["next"], Value::Null);

    // A word that is misspelt does not mean "all".
    for wrong in [
        "",
        "?queue=default&whi=fatal",
        "?queue=default&why=fatl",
        "?queue=default&task=A%20b",
        "?queue=default&limit=0",
        "?queue=default&limit=101",
        "?queue=default&before=x",
    ] {
        refused(get(&api, &format!("/v1/dead{wrong}")).await, StatusCode::BAD_REQUEST).await;
    }
    for wrong in
        ["", "?queue=default&whi=fatal", "?queue=default&why=fatl", "?queue=default&after=x"]
    {
        refused(delete(&api, &format!("/v1/dead{wrong}")).await, StatusCode::BAD_REQUEST).await;
    }
    let wrong = post(&api, "/v1/dead/redrive", json!({"queue": "default", "taks": "probe"})).await;
    refused(wrong, StatusCode::UNPROCESSABLE_ENTITY).await;
    refused(get(&api, "/v1/dead?queue=other").await, StatusCode::NOT_FOUND).await;
    assert_eq!(house.queue().await.dead, 5, "nothing of this changed anything");

    let other = json!({"queue": "default", "task": "other", "why": "fatal"});
    let none = json(post(&api, "/v1/dead/redrive", other).await).await;
    assert_eq!(none, json!({"done": 0, "refused": 0}));
    house.redis.cli(&["XADD", "umbel:{default}:dead", "*", "why", "unreadable", "error", "e"]);
    let all = json(post(&api, "/v1/dead/redrive", json!({"queue": "default"})).await).await;
    assert_eq!(all, json!({"done": 5, "refused": 1}));
    let left = json(get(&api, "/v1/dead?queue=default").await).await;
    let left = &left["letters"][0];
    let path = format!("/v1/dead/default/{}", left["letter"].as_str().unwrap());
    let opened = json(get(&api, &path).await).await;
    assert_eq!((&opened["args"], &opened["id"]), (&Value::Null, &Value::Null));
    assert!(opened["unreadable"].as_str().unwrap().contains("missing"));
    let conflict = post(&api, &format!("{path}/redrive"), json!({})).await;
    let conflict = refused(conflict, StatusCode::CONFLICT).await;
    assert!(conflict["detail"].as_str().unwrap().contains("stays"), "{conflict}");

    let gone = json(delete(&api, "/v1/dead?queue=default&why=unreadable").await).await;
    assert_eq!(gone, json!({"done": 1, "refused": 0}));
    assert_eq!((house.queue().await.dead, house.queue().await.queued), (0, 5));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_schedules_are_seen() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    assert_eq!(json(get(&api, "/v1/workers").await).await, json!({"workers": []}));
    assert_eq!(json(get(&api, "/v1/schedules").await).await, json!({"schedules": []}));
    refused(get(&api, "/v1/schedules/sweep").await, StatusCode::NOT_FOUND).await;

    let worker = house.worker(2);
    let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    let seen = eventually("the worker tells of its task", async || {
        let list = json(get(&api, "/v1/workers").await).await;
        let one = list["workers"][0].clone();
        (one["running_count"] == 1).then_some(one)
    })
    .await;
    assert_eq!((&seen["id"], &seen["silent"]), (&json!(worker.id), &json!(false)));
    assert_eq!((&seen["queues"], &seen["concurrency"]), (&json!(["default"]), &json!(2)));
    assert_eq!(seen["running"][0]["id"], held.id().as_str());
    assert_eq!(seen["running"][0]["task"], "probe");
    house.record.open("held");
    worker.stop().await.unwrap();
    eventually_eq("nobody works", json!({"workers": []}), async || {
        json(get(&api, "/v1/workers").await).await
    })
    .await;

    let probe = Probe::new("swept", Act::Ok);
    let hourly = every(std::time::Duration::from_hours(1));
    let timetable = Timetable::new().entry("sweep", hourly, probe).build().unwrap();
    let fired = Beat::new(house.client.clone(), timetable).step(Utc::now()).await.unwrap();
    let list = json(get(&api, "/v1/schedules").await).await;
    let one = json(get(&api, "/v1/schedules/sweep").await).await;
    assert_eq!(list["schedules"][0], one);
    assert_eq!((&one["schedule"], &one["task"]), (&json!("every 1h"), &json!("probe")));
    assert_eq!((&one["live"], &one["zone"]), (&json!(true), &Value::Null));
    assert_eq!(one["fires"][0]["outcome"], "fired");
    assert_eq!(one["fires"][0]["task"], fired[0].task.as_str());
    let next = one["next"].as_str().unwrap().parse::<chrono::DateTime<Utc>>().unwrap();
    assert!(next > Utc::now());
    api.stop().await;
}

/// All that an operator may ask for.
const ROUTES: [(Method, &str); 12] = [
    (Method::GET, "/v1/queues/default"),
    (Method::POST, "/v1/queues/default/pause"),
    (Method::POST, "/v1/queues/default/resume"),
    (Method::GET, "/v1/dead?queue=default"),
    (Method::DELETE, "/v1/dead?queue=default"),
    (Method::POST, "/v1/dead/redrive"),
    (Method::GET, "/v1/dead/default/1-1"),
    (Method::DELETE, "/v1/dead/default/1-1"),
    (Method::POST, "/v1/dead/default/1-1/redrive"),
    (Method::GET, "/v1/workers"),
    (Method::GET, "/v1/schedules"),
    (Method::GET, "/v1/schedules/sweep"),
];

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_away_all_of_it_says_so_at_once() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    assert_eq!(api.get("/v1/queues/default").await.status(), StatusCode::OK);
    house.redis.kill9();
    for (method, path) in ROUTES {
        let body = json!({"queue": "default"});
        let body = if path.ends_with("pause") { json!({"why": "closed"}) } else { body };
        let asked = std::time::Instant::now();
        let response = api.ask_as_admin(method.clone(), path).json(&body).send().await.unwrap();
        assert!(asked.elapsed() < std::time::Duration::from_secs(1), "{method} {path}");
        assert_eq!(response.headers()[header::RETRY_AFTER], "5", "{method} {path}");
        refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_looks_after_anything_without_a_token() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    for (method, path) in ROUTES {
        let response = api.open(method.clone(), path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    // And each of them is described.
    let description: Value =
        api.open(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    for (path, methods) in [
        ("/v1/queues/{queue}", &["get"][..]),
        ("/v1/queues/{queue}/pause", &["post"]),
        ("/v1/queues/{queue}/resume", &["post"]),
        ("/v1/dead", &["get", "delete"]),
        ("/v1/dead/redrive", &["post"]),
        ("/v1/dead/{queue}/{letter}", &["get", "delete"]),
        ("/v1/dead/{queue}/{letter}/redrive", &["post"]),
        ("/v1/workers", &["get"]),
        ("/v1/schedules", &["get"]),
        ("/v1/schedules/{schedule}", &["get"]),
    ] {
        for method in methods {
            let summary = &description["paths"][path][method]["summary"];
            assert!(summary.as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
        }
    }
    api.stop().await;
}
