//! Many tasks in one request: a verdict for each, whatever becomes of Redis meanwhile.

use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use umbel_broker::{BrokerSettings, Client, Scripts};
use umbel_proto::{TaskId, codec, envelope::ARGS_LARGEST};
use umbel_tests::{
    eventually::eventually,
    house::House,
    proxy::{Proxy, Way},
};

use super::{
    problem,
    served::Served,
    tasks::{act, reaches},
};

fn probe(name: &str) -> Value {
    json!({"task": "probe", "args": act(name, json!("ok"))})
}

async fn send(api: &Served, tasks: Value) -> Response {
    let request = api.ask(Method::POST, "/v1/tasks/batch").json(&json!({ "tasks": tasks }));
    request.send().await.unwrap()
}

/// The ids that were accepted, in front, after it was checked that all others are unknown.
async fn accepted_before(answer: Response, sent: usize) -> Vec<TaskId> {
    assert_eq!(answer.status(), StatusCode::OK);
    let answer: Value = answer.json().await.unwrap();
    let verdicts = answer["verdicts"].as_array().unwrap();
    let (accepted, unknown): (Vec<_>, Vec<_>) =
        verdicts.iter().partition(|verdict| verdict["id"].is_string());
    assert_eq!((verdicts.len(), accepted.len() + unknown.len()), (sent, sent));
    assert_eq!(answer["accepted"], accepted.len());
    assert!(verdicts[..accepted.len()].iter().all(|verdict| verdict["id"].is_string()));
    for verdict in unknown {
        assert_eq!(verdict["status"], 503, "{verdict}");
        let detail = verdict["detail"].as_str().unwrap();
        assert!(detail.contains("idempotency key"), "{detail}");
    }
    accepted.iter().map(|verdict| verdict["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_a_verdict_for_each_task() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let mut keyed = probe("keyed");
    keyed["idempotency_key"] = json!("order-7");
    let mut expires = probe("late");
    expires["expires_s"] = json!(0);
    let mut elsewhere = probe("elsewhere");
    elsewhere["queue"] = json!("nowhere");
    let tasks = json!([
        probe("a"),
        {"task": "hidden"},
        {"task": "probe", "args": {"name": 7}},
        keyed.clone(),
        elsewhere,
        expires,
    ]);
    let answer: Value = send(&api, tasks).await.json().await.unwrap();
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(3), &json!(3)));
    let verdicts = answer["verdicts"].as_array().unwrap();
    let status = |n: usize| verdicts[n]["status"].as_u64();
    assert_eq!([0, 1, 2, 3, 4, 5].map(status), [None, Some(404), Some(422), None, Some(422), None]);
    assert_eq!(verdicts[2]["errors"][0]["field"], "args.name");
    assert_eq!(verdicts[4]["errors"][0]["field"], "queue");
    let again: Value = send(&api, json!([keyed])).await.json().await.unwrap();
    assert_eq!(again["verdicts"][0], json!({"id": verdicts[3]["id"], "existing": true}));

    let many = vec![probe("n"); 1_001];
    problem(send(&api, json!(many)).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    let worker = house.worker(4);
    let at = |n: usize| format!("/v1/tasks/{}", verdicts[n]["id"].as_str().unwrap());
    reaches(&api, &at(0), "succeeded").await;
    reaches(&api, &at(5), "expired").await;
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_redis_refused_is_told() {
    let house = House::start();
    // From its second call on it is full.
    let start = "local room = room_for_more(KEYS[6])";
    let full = "if redis.call('XLEN', KEYS[4]) > 0 then return redis.error_reply('OOM full') end";
    let scripts = Scripts::broken("enqueue", start, &format!("{full}\n{start}"));
    let client = Client::open(&BrokerSettings::new(house.redis.url_as("api")), "api").unwrap();
    let api = Served::with(client.with_scripts(scripts)).await;
    let tasks = json!(vec![probe("a"); 300]);
    let accepted = accepted_before(send(&api, tasks.clone()).await, 300).await;
    assert_eq!(accepted.len() as u64, house.queue().await.queued);
    assert!(house.client.task(&accepted[0]).await.unwrap().is_some());
    // Where nothing was accepted there is nothing to tell.
    problem(send(&api, tasks).await, StatusCode::SERVICE_UNAVAILABLE).await;
    api.stop().await;
}

/// Slow enough that a test can step in between two calls.
const SLOW: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_redis_fell_silent_is_told_within_a_second() {
    let house = House::start();
    let proxy = Proxy::start(house.redis.port(), 7).await;
    let (direct, through) = (house.redis.port(), proxy.port());
    let url = house.redis.url_as("api").replace(&format!(":{direct}"), &format!(":{through}"));
    let api = Served::with(Client::open(&BrokerSettings::new(url), "api").unwrap()).await;
    // The queue is known, the script is loaded.
    assert_eq!(send(&api, json!([probe("first")])).await.status(), StatusCode::OK);
    proxy.delay(Way::ToClient, SLOW);
    let silence = async {
        // The second call has begun, so the answer to the first has come; there are eight in all.
        eventually("the second call", async || (house.queue().await.queued > 129).then_some(()))
            .await;
        proxy.half_open();
        Instant::now()
    };
    let (answer, silent) = tokio::join!(send(&api, json!(vec![probe("a"); 1_000])), silence);
    // An answer that was on its way may have come, and another call gone.
    assert!(silent.elapsed() < Duration::from_secs(1) + SLOW, "{:?}", silent.elapsed());
    let accepted = accepted_before(answer, 1_000).await.len();
    assert!((128..1_000).contains(&accepted), "{accepted}");
    proxy.heal();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_leave_no_room_for_the_rest_are_413_each() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let around = codec::encode(&act("", json!("ok"))).unwrap().len() + 4;
    let sized = |bytes: usize| act(&"x".repeat(bytes - around), json!("ok"));
    let post = async |bytes: usize| {
        // The longest that is packed beside them.
        let subject = "\u{1f600}".repeat(255);
        let request = api.ask_as(&subject, Method::POST, "/v1/tasks/probe");
        let request = request.header("idempotency-key", "k".repeat(255)).json(&json!({
            "args": sized(bytes), "expires_s": 31_622_400, "delay_s": 31_622_400,
            "priority": "normal", "max_attempts": 65_535, "queue": "elsewhere",
        }));
        request.send().await.unwrap()
    };
    assert_eq!(post(ARGS_LARGEST).await.status(), StatusCode::ACCEPTED);
    for bytes in [ARGS_LARGEST + 1, codec::MAX_BYTES, codec::MAX_BYTES + 1] {
        let refused = problem(post(bytes).await, StatusCode::PAYLOAD_TOO_LARGE).await;
        let detail = refused["detail"].as_str().unwrap();
        let named = [bytes, ARGS_LARGEST].iter().all(|number| detail.contains(&number.to_string()));
        assert!(named, "{detail}");
    }
    let large = json!({"task": "probe", "args": sized(codec::MAX_BYTES)});
    let answer: Value = send(&api, json!([large, probe("a")])).await.json().await.unwrap();
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(1), &json!(1)));
    assert_eq!(answer["verdicts"][0]["status"], 413);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_batch_stands_for_one_task_whatever_its_queue() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let keyed = |key: &str, queue: &str| json!({"task": "probe", "args": act("a", json!("ok")), "idempotency_key": key, "queue": queue});
    let tasks = json!([keyed("k1", "default"), keyed("k1", "elsewhere"), keyed("k1", "default")]);
    let answer: Value = send(&api, tasks).await.json().await.unwrap();
    let verdicts = answer["verdicts"].as_array().unwrap();
    assert_eq!(verdicts[0]["existing"], false);
    assert_eq!((&verdicts[1]["status"], &verdicts[1]["id"]), (&json!(422), &Value::Null));
    assert_eq!(verdicts[1]["errors"][0]["field"], "Idempotency-Key");
    assert_eq!((&verdicts[2]["id"], &verdicts[2]["existing"]), (&verdicts[0]["id"], &json!(true)));
    api.stop().await;
}
