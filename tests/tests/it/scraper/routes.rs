//! The endpoints, over a socket.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use umbel::Env;
use umbel_api::{Api, ApiSettings, JwtSettings, issue_token, serve};
use umbel_store::{Db, StoreSettings};
use umbel_tasks::App;
use umbel_tests::pages::Pages;

use super::{Folder, House};

/// The API of the scraper, and somebody who may use it.
struct Served {
    url: String,
    token: String,
    browser: reqwest::Client,
    _stop: DropGuard,
}

impl Served {
    async fn start(house: &House) -> Self {
        Self::with(house, house.app.clone()).await
    }

    async fn with(house: &House, app: App) -> Self {
        let jwt = JwtSettings::new("a secret that is long enough for it".into());
        let token = issue_token(&jwt, "ann", Duration::from_secs(600), Utc::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let settings = ApiSettings::new("scraper", addr, jwt);
        let catalog = Arc::new(umbel_tasks::registry().unwrap().catalog());
        let routes = umbel_tasks::routes(app);
        let api = Api::new(&settings, house.client.clone(), catalog, routes).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, api.router(), stop.clone()));
        let browser = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url: format!("http://{addr}"), token, browser, _stop: stop.drop_guard() }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, String) {
        let request = self.browser.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(&self.token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn post(&self, body: Value) -> (StatusCode, Value) {
        let (status, body) = self.ask(Method::POST, "/v1/sites", Some(body)).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_posted_is_scraped_without_waiting_for_the_next_sweep() {
    let folder = Folder::new().page("index", &["a.html"]).page("a", &[]);
    let web = Pages::start(&folder.0, Duration::ZERO).await.unwrap();
    let house = House::start().await;
    let served = Served::start(&house).await;
    let url = format!("{}index.html", web.url());

    let (status, site) = served.post(json!({"url": url})).await;
    assert_eq!(status, StatusCode::CREATED);
    let options = ["max_depth", "max_pages", "every_s"].map(|option| site[option].clone());
    assert_eq!(options, [json!(3), json!(100), json!(3600)]);
    assert_eq!((&site["url"], &site["status"]), (&json!(url), &json!("pending")));
    let counts =
        json!({"pending": 1, "queued": 0, "running": 0, "succeeded": 0, "failed": 0, "skipped": 0});
    assert_eq!(site["pages"], counts);
    // As a script reads it: one line, the counts a flat object at the end.
    let (_, text) = served.ask(Method::GET, "/v1/sites", None).await;
    assert!(text.contains(&format!("\"url\":\"{url}\"")), "{text}");
    let flat = "\"pages\":{\"pending\":1,\"queued\":0,\"running\":0,\"succeeded\":0,\"failed\":0,\"skipped\":0}}]}";
    assert!(text.ends_with(flat), "{text}");

    let worker = house.worker(2);
    house.scraped(site["id"].as_i64().unwrap()).await;
    let known = served.get("/v1/sites").await["sites"][0].clone();
    assert_eq!((&known["status"], &known["error"]), (&json!("succeeded"), &Value::Null));
    assert_eq!(known["pages"]["succeeded"], 2);
    worker.stop().await;

    // Known by now: what is given changes, what is not stays.
    let (status, site) = served.post(json!({"url": format!("{url}#top"), "max_pages": 1})).await;
    assert_eq!((status, &site["id"]), (StatusCode::OK, &known["id"]));
    assert_eq!((&site["max_depth"], &site["max_pages"]), (&json!(3), &json!(1)));
    assert_eq!((&site["status"], &site["pages"]["pending"]), (&json!("pending"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_site_cannot_be_is_named_and_nothing_is_entered() {
    let house = House::start().await;
    let served = Served::start(&house).await;
    for (body, field) in [
        (json!({}), "body"),
        (json!({"url": "example.com"}), "url"),
        (json!({"url": "ftp://example.com/"}), "url"),
        (json!({"url": "https://ann:secret@example.com/"}), "url"),
        (json!({"url": format!("https://example.com/{}", "a".repeat(2048))}), "url"),
        (json!({"url": "https://example.com/", "max_depth": 21}), "max_depth"),
        (json!({"url": "https://example.com/", "max_depth": -1}), "max_depth"),
        (json!({"url": "https://example.com/", "max_pages": 0}), "max_pages"),
        (json!({"url": "https://example.com/", "max_pages": 10_001}), "max_pages"),
        (json!({"url": "https://example.com/", "every_s": 59}), "every_s"),
        (json!({"url": "https://example.com/", "every": 3600}), "every"),
    ] {
        let (status, problem) = served.post(body.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
    }
    assert_eq!(served.get("/v1/sites").await, json!({"sites": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_in_parts_by_site_and_by_state() {
    let folder = Folder::new()
        .page("index", &["a.html", "gone.html", "b.html"])
        .page("a", &[])
        .page("b", &[]);
    let web = Pages::start(&folder.0, Duration::ZERO).await.unwrap();
    let house = House::start().await;
    let served = Served::start(&house).await;
    let first = house.put(&format!("{}index.html", web.url()), 1, 100).await;
    let second = house.put(&format!("{}a.html", web.url()), 0, 1).await;
    let worker = house.worker(2);
    house.client.enqueue(umbel_tasks::SweepSites {}).await.unwrap();
    house.scraped(first.id).await;
    house.scraped(second.id).await;
    worker.stop().await;

    let ids = |list: &Value, of: &str| -> Vec<i64> {
        list[of].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
    };
    let all = ids(&served.get("/v1/pages").await, "pages");
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted());
    let (mut parts, mut after) = (Vec::new(), 0);
    loop {
        let part = ids(&served.get(&format!("/v1/pages?limit=2&after={after}")).await, "pages");
        let Some(last) = part.last() else { break };
        (after, parts) = (*last, [parts, part].concat());
    }
    assert_eq!(parts, all);
    let count = async |query: String| {
        served.get(&format!("/v1/pages?{query}")).await["pages"].as_array().unwrap().len()
    };
    assert_eq!(count(format!("site_id={}", second.id)).await, 1);
    assert_eq!(count("status=failed".to_owned()).await, 1);
    assert_eq!(count(format!("site_id={}&status=succeeded", first.id)).await, 3);
    assert_eq!(count(format!("site_id={}&status=running", first.id)).await, 0);
    let sites = served.get(&format!("/v1/sites?limit=1&after={}", first.id)).await;
    assert_eq!(ids(&sites, "sites"), [second.id]);

    let gone = &served.get("/v1/pages?status=failed").await["pages"][0];
    assert_eq!(gone["error"], "the host answers with status 404");
    for wrong in ["/v1/pages?limit=501", "/v1/sites?limit=0"] {
        let (status, _) = served.ask(Method::GET, wrong, None).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    let (status, _) = served.ask(Method::GET, "/v1/pages?status=lost", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let description: Value = served.get("/openapi.json").await;
    assert!(description["paths"]["/v1/pages"]["get"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_lets_nobody_in_is_no_fault_of_the_caller() {
    let house = House::start().await;
    let url = house.database.url().replace("postgres@", "nobody@");
    let db = Db::open(&StoreSettings::new(url)).unwrap();
    let app = App::new(&Env::default(), house.client.clone(), db).unwrap();
    let served = Served::with(&house, app).await;
    let (status, body) = served.ask(Method::GET, "/v1/sites", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("the database is not available") && !body.contains("nobody"), "{body}");
}
