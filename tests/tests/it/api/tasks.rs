//! A task over HTTP from its acceptance to its end: waited for, followed, cancelled, and seen by
//! nobody but its owner.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use umbel_api::{Grant, Scopes};
use umbel_tests::{
    eventually::eventually,
    house::House,
    probe::{Act, Probe},
};

use super::{problem, served::Served};

const LONG: Duration = Duration::from_secs(30);

pub(super) fn act(name: &str, act: Value) -> Value {
    json!({"name": name, "act": act})
}

async fn accepted(api: &Served, body: Value) -> String {
    let response = api.enqueue(body).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let accepted: Value = response.json().await.unwrap();
    format!("/v1/tasks/{}", accepted["id"].as_str().unwrap())
}

pub(super) async fn reaches(api: &Served, location: &str, state: &str) -> Value {
    eventually(state, async || {
        let record: Value = api.get(location).await.json().await.unwrap();
        (record["state"] == state).then_some(record)
    })
    .await
}

/// The next event of a stream: its name, id and data.
async fn event(text: &mut String, response: &mut Response) -> Option<(String, String, Value)> {
    let read = async {
        loop {
            if let Some((event, rest)) = text.split_once("\n\n") {
                let field = |name: &str| {
                    let value = event.lines().find_map(|line| line.strip_prefix(name));
                    value.unwrap_or_default().to_owned()
                };
                let found = (field("event: "), field("id: "), field("data: "));
                *text = rest.to_owned();
                // A comment holds the line open.
                if found.0.is_empty() {
                    continue;
                }
                return Some((found.0, found.1, serde_json::from_str(&found.2).unwrap()));
            }
            text.push_str(std::str::from_utf8(&response.chunk().await.unwrap()?).unwrap());
        }
    };
    tokio::time::timeout(LONG, read).await.expect("an event or the end")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_rather_wait_is_answered_with_the_ended_task() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let worker = house.worker(2);
    let ask = |name: &str, what: &str, wait: &str| {
        let request = api.ask(Method::POST, "/v1/tasks/probe").header("prefer", wait.to_owned());
        request.json(&json!({"args": act(name, json!(what))})).send()
    };
    let response = ask("a", "ok", "wait=20").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["preference-applied"], "wait=20");
    assert!(response.headers().contains_key(header::LOCATION));
    let record: Value = response.json().await.unwrap();
    assert_eq!((&record["state"], &record["result"]), (&json!("succeeded"), &json!(1)));
    // What takes longer is accepted as ever.
    let response = ask("held", "hold", "wait=1").await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    house.record.open("held");
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_followed_through_its_states_to_its_result() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let location = accepted(&api, json!({"args": act("a", json!("tell"))})).await;
    let events = format!("{location}/events");
    let mut response = api.get(&events).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut text = String::new();
    let (name, _, data) = event(&mut text, &mut response).await.unwrap();
    assert_eq!((name.as_str(), &data["state"]), ("state", &json!("queued")));

    let worker = house.worker(1);
    let (name, _, data) = event(&mut text, &mut response).await.unwrap();
    assert_eq!((name.as_str(), &data["state"]), ("state", &json!("running")));
    let (name, id, data) = event(&mut text, &mut response).await.unwrap();
    assert_eq!((name.as_str(), &data), ("progress", &json!({"done": 1, "of": 2})));

    // Somebody whose connection broke here misses nothing, and gets nothing twice.
    let again = |id: String| api.ask(Method::GET, &events).header("last-event-id", id).send();
    let mut other = again(id).await.unwrap();
    house.record.open("a");
    let mut end = String::new();
    for (text, response) in [(&mut text, &mut response), (&mut String::new(), &mut other)] {
        let (name, _, data) = event(text, response).await.unwrap();
        assert_eq!((name.as_str(), &data["state"]), ("state", &json!("succeeded")));
        let (name, id, data) = event(text, response).await.unwrap();
        assert_eq!((name.as_str(), &data["result"]), ("result", &json!(1)));
        assert_eq!(event(text, response).await, None, "the end of the stream");
        end = id;
    }
    assert_eq!(again(end).await.unwrap().status(), StatusCode::NO_CONTENT);
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_task_does_not_hold_up_the_stop_of_the_server() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let location = accepted(&api, json!({"args": act("a", json!("ok"))})).await;
    let mut response = api.get(&format!("{location}/events")).await;
    assert!(event(&mut String::new(), &mut response).await.is_some());
    // At once, not after the grace time of 20 s.
    tokio::time::timeout(Duration::from_secs(10), api.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled_whether_it_waits_or_runs() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let delete = |location: &str| api.ask(Method::DELETE, location).send();
    let waits = accepted(&api, json!({"args": act("a", json!("ok")), "delay_s": 3600})).await;
    let answer = delete(&waits).await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.json::<Value>().await.unwrap()["cancelled_by"], "ann");
    let worker = house.worker(2);
    reaches(&api, &waits, "cancelled").await;
    assert_eq!(delete(&waits).await.unwrap().status(), StatusCode::OK, "again");

    let runs = accepted(&api, json!({"args": act("b", json!("untilcancelled"))})).await;
    reaches(&api, &runs, "running").await;
    assert_eq!(delete(&runs).await.unwrap().status(), StatusCode::ACCEPTED);
    let record = reaches(&api, &runs, "cancelled").await;
    assert_eq!(record["attempts"].as_array().unwrap().len(), 1);

    let done = accepted(&api, json!({"args": act("c", json!("ok"))})).await;
    reaches(&api, &done, "succeeded").await;
    problem(delete(&done).await.unwrap(), StatusCode::CONFLICT).await;
    let unknown = "/v1/tasks/default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    problem(delete(unknown).await.unwrap(), StatusCode::NOT_FOUND).await;
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_task_is_as_unknown_as_none() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let location = accepted(&api, json!({"args": act("a", json!("ok")), "delay_s": 600})).await;
    for (method, path) in [
        (Method::GET, location.clone()),
        (Method::GET, format!("{location}/events")),
        (Method::DELETE, location.clone()),
    ] {
        let response = api.ask_as("bob", method, &path).send().await.unwrap();
        problem(response, StatusCode::NOT_FOUND).await;
    }
    let record: Value = api.get(&location).await.json().await.unwrap();
    assert_eq!((&record["state"], &record["cancelled_by"]), (&json!("scheduled"), &Value::Null));
    // What nobody enqueued over HTTP is the system's own. An admin sees all.
    let systems = house.client.enqueue(Probe::new("b", Act::Ok)).await.unwrap();
    let systems = format!("/v1/tasks/{}", systems.id());
    problem(api.get(&systems).await, StatusCode::NOT_FOUND).await;
    for path in [&systems, &location] {
        let response = api.ask_as_admin(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_not_sent_again() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let location = accepted(&api, json!({"args": act("a", json!({"fail": "no luck"}))})).await;
    let etag = api.get(&location).await.headers()[header::ETAG].clone();
    let ask = || api.ask(Method::GET, &location).header(header::IF_NONE_MATCH, etag.clone()).send();
    assert_eq!(ask().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    let worker = house.worker(1);
    let record = reaches(&api, &location, "failed").await;
    assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    let attempts = record["attempts"].as_array().unwrap();
    let numbers: Vec<_> = attempts.iter().filter_map(|run| run["attempt"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(attempts.iter().all(|run| run["error"] == "no luck"), "{attempts:?}");
    worker.stop().await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_tasks_learns_nothing_of_how_they_end() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let worker = house.worker(2);
    let blind =
        || Grant::new("ann").scopes("tasks:enqueue tasks:cancel".parse::<Scopes>().unwrap());
    let ask = |wait: &'static str| {
        let request = api.ask_by(blind(), Method::POST, "/v1/tasks/probe").header("prefer", wait);
        let request = request.header("idempotency-key", "order-7");
        request.json(&json!({"args": act("a", json!("ok"))})).send()
    };
    let first = ask("wait=20").await.unwrap();
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    assert!(!first.headers().contains_key("preference-applied"));
    let location = first.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let first: Value = first.json().await.unwrap();
    assert_eq!(first["state"], "queued");
    reaches(&api, &location, "succeeded").await;
    let again = ask("wait=20").await.unwrap();
    assert_eq!(again.status(), StatusCode::ACCEPTED);
    assert_eq!(again.json::<Value>().await.unwrap(), json!({"id": first["id"]}));

    let told = accepted(&api, json!({"args": act("b", json!("tell"))})).await;
    eventually("it tells how far it is", async || {
        let record: Value = api.get(&told).await.json().await.unwrap();
        record["progress"].is_object().then_some(())
    })
    .await;
    let ended: Value =
        api.ask_by(blind(), Method::DELETE, &told).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&ended["id"].as_str(), &ended["state"]),
        (&told.rsplit('/').next(), &json!("running"))
    );
    assert_eq!((&ended["progress"], &ended["attempts"]), (&Value::Null, &json!([])));
    house.record.open("b");
    worker.stop().await.unwrap();
    api.stop().await;
}

/// A connection that breaks between the last events of a task costs none of them.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_after_any_event_gets_the_result() {
    let house = House::start();
    let api = Served::start(&house.redis).await;
    let worker = house.worker(1);
    let location = accepted(&api, json!({"args": act("a", json!("ok"))})).await;
    reaches(&api, &location, "succeeded").await;
    worker.stop().await.unwrap();
    let events = format!("{location}/events");
    let mut response = api.get(&events).await;
    let mut text = String::new();
    let (state, id, _) = event(&mut text, &mut response).await.unwrap();
    assert_eq!(state, "state");
    let mut again = api.ask(Method::GET, &events).header("last-event-id", id).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::OK);
    let (name, end, data) = event(&mut String::new(), &mut again).await.unwrap();
    assert_eq!((name.as_str(), &data["result"]), ("result", &json!(1)));
    let last = api.ask(Method::GET, &events).header("last-event-id", end).send().await.unwrap();
    assert_eq!(last.status(), StatusCode::NO_CONTENT);
    api.stop().await;
}
