//! The API over a socket, on a real Redis: enqueue, look, and be refused.

mod batches;
mod contract;
pub(crate) mod served;
mod tasks;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};
use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use umbel_api::Grant;
use umbel_tests::{eventually::eventually, house::House};

use served::Served;

/// The problem in a response, after its form was checked.
async fn problem(response: Response, status: StatusCode) -> Value {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let path = response.url().path().to_owned();
    assert_eq!(response.status(), status);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16());
    assert_eq!((&problem["request_id"], &problem["instance"]), (&json!(id), &json!(path)));
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_asked_for_over_http_is_run_and_its_result_can_be_read() {
    let house = House::start();
    let api = Served::start(&house.redis).await;

    let response = api.enqueue(json!({"args": {"name": "a", "act": "ok"}})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let accepted: Value = response.json().await.unwrap();
    assert_eq!(location, format!("/v1/tasks/{}", accepted["id"].as_str().unwrap()));
    assert_eq!(accepted["state"], "queued");

    let record: Value = api.get(&location).await.json().await.unwrap();
    assert_eq!((&record["id"], &record["task"]), (&accepted["id"], &json!("probe")));
    assert_eq!((&record["state"], &record["result"]), (&json!("queued"), &Value::Null));
    assert_eq!((&record["attempt"], &record["max_attempts"]), (&json!(1), &json!(3)));
    let queues: Value = api.get("/v1/queues").await.json().await.unwrap();
    let default =
        json!({"name": "default", "queued": 1, "running": 0, "delayed": 0, "parked": 0, "dead": 0});
    assert_eq!(queues, json!({ "queues": [default] }));

    let worker = house.worker(1);
    let record = eventually("the task succeeds", async || {
        let record: Value = api.get(&location).await.json().await.unwrap();
        (record["state"] == "succeeded").then_some(record)
    })
    .await;
    assert_eq!((&record["result"], &record["worker"]), (&json!(1), &json!(worker.id)));
    for time in ["enqueued", "started", "finished"] {
        let time = record[time].as_str().unwrap();
        let age = Utc::now() - chrono::DateTime::parse_from_rfc3339(time).unwrap().to_utc();
        assert!(age >= TimeDelta::zero() && age < TimeDelta::minutes(5), "{time}");
    }
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_wants_otherwise_reaches_the_broker() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let args = json!({"name": "a", "act": "ok"});

    let later = api.enqueue(json!({"args": args, "delay_s": 600, "max_attempts": 9})).await;
    let later: Value = later.json().await.unwrap();
    assert_eq!(later["state"], "scheduled");
    let record: Value = api
        .get(&format!("/v1/tasks/{}", later["id"].as_str().unwrap()))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!((&record["state"], &record["max_attempts"]), (&json!("scheduled"), &json!(9)));

    let at = (Utc::now() + TimeDelta::hours(1)).to_rfc3339();
    let later: Value = api.enqueue(json!({"args": args, "at": at})).await.json().await.unwrap();
    assert_eq!(later["state"], "scheduled");
    let past: Value = api
        .enqueue(json!({"args": args, "at": "2020-01-01T00:00:00Z", "priority": "high"}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(past["state"], "queued");
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.delayed), (1, 2));
    assert_eq!(house.redis.cli(&["XLEN", "umbel:{default}:ready:high"]), "1");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_nothing_in_redis() {
    let house = House::start();
    let api = Served::start(&house.redis).await;

    let refused = problem(
        api.enqueue(json!({"args": {"name": 7, "act": "ok"}})).await,
        StatusCode::UNPROCESSABLE_ENTITY,
    )
    .await;
    assert_eq!(refused["errors"][0]["field"], "args.name");
    let both = json!({"args": {"name": "a", "act": "ok"}, "delay_s": 1, "at": Utc::now()});
    problem(api.enqueue(both).await, StatusCode::UNPROCESSABLE_ENTITY).await;

    let post = |path: &str| api.ask(Method::POST, path).header("content-type", "application/json");
    for name in ["hidden", "never-was"] {
        let response = post(&format!("/v1/tasks/{name}")).body("{}").send().await.unwrap();
        problem(response, StatusCode::NOT_FOUND).await;
    }
    let broken = post("/v1/tasks/probe").body("{\"args\":").send().await.unwrap();
    problem(broken, StatusCode::BAD_REQUEST).await;
    let large = format!("\"{}\"", "x".repeat(1024 * 1024));
    let large = post("/v1/tasks/probe").body(large).send().await.unwrap();
    problem(large, StatusCode::PAYLOAD_TOO_LARGE).await;
    let text = api.ask(Method::POST, "/v1/tasks/probe").body("{}").send().await.unwrap();
    problem(text, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;

    let stranger = api.open(Method::POST, "/v1/tasks/probe");
    let stranger = stranger.json(&json!({"args": {"name": "a", "act": "ok"}}));
    let response = stranger.send().await.unwrap();
    assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    problem(response, StatusCode::UNAUTHORIZED).await;

    let unknown = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    for id in [unknown, "default-1", "..%2f..%2fetc", "probe"] {
        problem(api.get(&format!("/v1/tasks/{id}")).await, StatusCode::NOT_FOUND).await;
    }
    assert_eq!(house.redis.cli(&["KEYS", "*"]), "");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_task_of_one_subject() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let (status, first) = api.enqueue_by_key("ann", "key-1", "a").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(api.enqueue_by_key("ann", "key-1", "a").await, (status, first.clone()));

    let (conflict, refused) = api.enqueue_by_key("ann", "key-1", "b").await;
    assert_eq!(conflict, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused["errors"][0]["field"], "Idempotency-Key");

    let (_, others) = api.enqueue_by_key("bob", "key-1", "a").await;
    assert_ne!(others["id"], first["id"]);
    assert_eq!(house.queue().await.queued, 2);

    // The state is that of the task by now.
    let worker = house.worker(1);
    eventually("the repeated call tells the end", async || {
        let (_, again) = api.enqueue_by_key("ann", "key-1", "a").await;
        assert_eq!(again["id"], first["id"]);
        (again["state"] == "succeeded").then_some(())
    })
    .await;
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_task_whatever_queue_it_is_for() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let ask = async |key: &str, queue: &str| {
        let request = api.ask(Method::POST, "/v1/tasks/probe").header("idempotency-key", key);
        let body = json!({"args": {"name": "a", "act": "ok"}, "queue": queue});
        request.json(&body).send().await.unwrap()
    };
    let first: Value = ask("k1", "default").await.json().await.unwrap();
    let refused = problem(ask("k1", "elsewhere").await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(refused["errors"][0]["field"], "Idempotency-Key");
    let again: Value = ask("k1", "default").await.json().await.unwrap();
    assert_eq!(again["id"], first["id"]);

    // At the same time as well: one queue gets it, and there is one task.
    let queues = ["default", "elsewhere"].into_iter().cycle().take(16);
    let answers = futures::future::join_all(queues.map(|queue| ask("k2", queue))).await;
    let mut ids = std::collections::BTreeSet::new();
    for answer in answers {
        match answer.status() {
            StatusCode::ACCEPTED => {
                let accepted: Value = answer.json().await.unwrap();
                ids.insert(accepted["id"].as_str().unwrap().to_owned());
            }
            status => assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY),
        }
    }
    assert_eq!(ids.len(), 1, "{ids:?}");

    // Who claimed it and was lost before it enqueued: the same call goes on, another one is refused.
    house.redis.cli(&["HSET", "umbel:{elsewhere}:control", "cap", "0"]);
    assert_eq!(ask("k3", "elsewhere").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask("k3", "default").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    house.redis.cli(&["HDEL", "umbel:{elsewhere}:control", "cap"]);
    assert_eq!(ask("k3", "elsewhere").await.status(), StatusCode::ACCEPTED);

    // A claim that Redis has lost leaves what the queue itself remembers.
    let claims = house.redis.cli(&["KEYS", "umbel:{idempotency:*"]);
    let ttl = |key: &str| house.redis.cli(&["TTL", key]).parse::<u64>().unwrap();
    assert!(claims.lines().all(|key| (86_000..=86_400).contains(&ttl(key))), "{claims}");
    house.redis.cli(&[&["DEL"], claims.lines().collect::<Vec<_>>().as_slice()].concat());
    let again: Value = ask("k1", "default").await.json().await.unwrap();
    assert_eq!(again["id"], first["id"]);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_may_go_where_those_wait_that_the_token_may_enqueue_and_nowhere_else() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let ask = async |tasks: Option<&[&str]>, queue: &str| {
        let grant = Grant::new("ann");
        let grant = match tasks {
            Some(tasks) => grant.tasks(tasks.iter().copied()),
            None => grant,
        };
        let body = json!({"args": {"name": "a", "act": "ok"}, "queue": queue});
        let request = api.ask_by(grant, Method::POST, "/v1/tasks/probe").json(&body);
        request.send().await.unwrap()
    };
    for (tasks, queue) in [
        (None, "default"),
        (None, "elsewhere"),
        (Some(["probe"].as_slice()), "default"),
        (Some(&["probe", "other"]), "elsewhere"),
    ] {
        let status = ask(tasks, queue).await.status();
        assert_eq!(status, StatusCode::ACCEPTED, "{tasks:?} {queue}");
    }
    // What waits in `inner` is not for HTTP.
    for (tasks, queue) in [
        (None, "nowhere"),
        (None, "inner"),
        (Some(["probe"].as_slice()), "elsewhere"),
        (Some(&["probe", "hidden"]), "inner"),
    ] {
        let refused = problem(ask(tasks, queue).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], "queue", "{tasks:?} {queue}");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_away_requests_are_told_so_at_once_and_served_again_when_it_is_back() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let good = json!({"args": {"name": "a", "act": "ok"}});
    assert_eq!(api.enqueue(good.clone()).await.status(), StatusCode::ACCEPTED);
    house.redis.kill9();

    let id = "/v1/tasks/default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    for request in [
        api.ask(Method::POST, "/v1/tasks/probe").json(&good),
        api.ask(Method::GET, id),
        api.ask(Method::GET, "/v1/queues"),
    ] {
        let asked = Instant::now();
        let response = request.send().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
    }
    // What needs no Redis goes on.
    assert_eq!(api.get("/v1/tasks").await.status(), StatusCode::OK);
    assert_eq!(api.get("/livez").await.status(), StatusCode::OK);

    house.redis.restart();
    eventually("a task is accepted again", async || {
        (api.enqueue(good.clone()).await.status() == StatusCode::ACCEPTED).then_some(())
    })
    .await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_a_full_redis_ask_to_come_again() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let good = json!({"args": {"name": "a", "act": "ok"}});
    house.redis.cli(&["HSET", "umbel:{default}:control", "cap", "1"]);
    assert_eq!(api.enqueue(good.clone()).await.status(), StatusCode::ACCEPTED);
    let full = api.enqueue(good.clone()).await;
    assert_eq!(full.headers()[header::RETRY_AFTER], "10");
    problem(full, StatusCode::TOO_MANY_REQUESTS).await;

    house.redis.cli(&["HDEL", "umbel:{default}:control", "cap"]);
    house.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = api.enqueue(good).await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "5");
    problem(refused, StatusCode::SERVICE_UNAVAILABLE).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_what_fails_and_only_redis_makes_it_a_failure() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let report = async || {
        let response = api.open(Method::GET, "/readyz").send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    // A report holds for a second; each change is waited for.
    let becomes = async |status: u16, word: &str| {
        eventually(word, async || {
            let (found, report) = report().await;
            (found == status && report["status"] == word).then_some(report)
        })
        .await
    };
    becomes(200, "ready").await;
    api.store_works.store(false, SeqCst);
    let degraded = becomes(200, "degraded").await;
    assert_eq!(
        degraded["checks"],
        json!([{"name": "broker", "ok": true}, {"name": "store", "ok": false}])
    );
    house.redis.kill9();
    becomes(503, "unavailable").await;
    api.store_works.store(true, SeqCst);
    house.redis.restart();
    becomes(200, "ready").await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_the_application_are_served_behind_the_same_door() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let greeting = json!({"text": "hello"});
    let stranger = api.open(Method::POST, "/v1/greetings").json(&greeting).send().await.unwrap();
    problem(stranger, StatusCode::UNAUTHORIZED).await;

    let greet = |body: Value| api.ask(Method::POST, "/v1/greetings").json(&body).send();
    let answer: Value = greet(greeting).await.unwrap().json().await.unwrap();
    assert_eq!(answer, json!({"text": "hello from ann"}));
    let wrong = greet(json!({"text": 7})).await.unwrap();
    let wrong = problem(wrong, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(wrong["errors"][0]["field"], "text");
    let own = problem(greet(json!({"text": ""})).await.unwrap(), StatusCode::CONFLICT).await;
    assert_eq!(own["detail"], "nothing was said");

    let broken = api.get("/v1/broken").await;
    assert_eq!(problem(broken, StatusCode::INTERNAL_SERVER_ERROR).await.get("detail"), None);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself_to_machines_and_people() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let description: Value =
        api.open(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    for path in ["/v1/tasks", "/v1/tasks/{task}", "/v1/queues", "/readyz", "/v1/greetings"] {
        assert!(description["paths"].get(path).is_some(), "{path}");
    }
    let schemas = &description["components"]["schemas"];
    assert!(schemas.get("Greeting").is_some() && schemas.get("task.hidden").is_none());
    assert_eq!(schemas["task.probe"]["required"], json!(["name", "act"]));
    assert_eq!(
        schemas["NewTaskBody"]["properties"]["args"]["anyOf"],
        json!(
            ["other", "probe"]
                .map(|task| json!({"$ref": format!("#/components/schemas/task.{task}")}))
        )
    );

    let list: Value = api.get("/v1/tasks").await.json().await.unwrap();
    let names: Vec<&Value> =
        list["tasks"].as_array().unwrap().iter().map(|task| &task["name"]).collect();
    assert_eq!(names, ["other", "probe"]);

    let page = api.open(Method::GET, "/docs/").send().await.unwrap();
    assert!(page.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    let page = page.text().await.unwrap();
    let assets: Vec<&str> = page
        .split(['"', '\''])
        .filter(|part| part.ends_with(".js") || part.ends_with(".css") || part.ends_with(".png"))
        .collect();
    assert!(assets.len() >= 4, "{page}");
    for asset in assets {
        assert!(!asset.contains("//"), "{asset} comes from elsewhere");
        let path = format!("/docs/{}", asset.trim_start_matches("./"));
        let response = api.open(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(!response.bytes().await.unwrap().is_empty(), "{path}");
    }
    api.stop().await;
}
