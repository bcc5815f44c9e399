//! The endpoints, over a socket.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use umbel::Env;
use umbel_api::{Api, ApiSettings, Grant, JwtSettings, Scopes, serve};
use umbel_store::{Db, StoreSettings};
use umbel_tasks::App;
use umbel_tests::pages::Pages;

use super::{Folder, House};

/// The API of the scraper, and an admin who uses it.
struct Served {
    url: String,
    jwt: JwtSettings,
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
        let token = Grant::new("root").scopes(Scopes::ADMIN).sign(&jwt, Utc::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let settings = ApiSettings::new("scraper", addr, jwt.clone());
        let catalog = Arc::new(umbel_tasks::registry().unwrap().catalog());
        let routes = umbel_tasks::routes(app);
        let api = Api::new(&settings, house.client.clone(), catalog, routes).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, api.router(), stop.clone()));
        let browser = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{addr}");
        Self { url, jwt, token, browser, _stop: stop.drop_guard() }
    }

    /// A token of somebody who may do so much.
    fn token(&self, subject: &str, scopes: &str) -> String {
        let scopes: Scopes = scopes.parse().unwrap();
        Grant::new(subject).scopes(scopes).sign(&self.jwt, Utc::now()).unwrap()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, String) {
        self.ask_with(&self.token, method, path, body).await
    }

    async fn ask_with(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, String) {
        let request = self.browser.request(method, format!("{}{path}", self.url));
        let request = request.bearer_auth(token);
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

/// What a site costs, nobody spends who may only look, or whose token is for something else.
#[tokio::test(flavor = "multi_thread")]
async fn each_route_asks_for_its_scope_and_says_so() {
    let house = House::start().await;
    let served = Served::start(&house).await;
    let routes = [
        (Method::POST, "/v1/sites", "sites:write"),
        (Method::GET, "/v1/sites", "sites:read"),
        (Method::GET, "/v1/pages", "sites:read"),
        (Method::GET, "/v1/sources", "sites:read"),
    ];
    let description: Value = served.get("/openapi.json").await;
    for (method, path, scope) in routes {
        let operation = &description["paths"][path][method.as_str().to_lowercase()];
        assert_eq!(operation["security"], json!([{"bearer": [scope]}]), "{method} {path}");
        for held in
            ["", "tasks:enqueue tasks:read tasks:cancel", "sites:read", "sites:write", "admin"]
        {
            let body = (method == Method::POST).then(|| {
                let source = json!({"scraperapi": {"render": true, "premium": true}});
                json!({"url": "http://127.0.0.1:9/", "source": source})
            });
            let token = served.token("ann", held);
            let (status, said) = served.ask_with(&token, method.clone(), path, body).await;
            if held == scope || held == "admin" {
                assert!(status.is_success(), "{method} {path} with {held}: {status} {said}");
                continue;
            }
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} with {held}");
            let problem: Value = serde_json::from_str(&said).unwrap();
            assert!(problem["detail"].as_str().unwrap().contains(scope), "{said}");
        }
        let (status, _) = served.ask_with("none", method, path, None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
    // Entered by the two that may.
    assert_eq!(house.sites().await.len(), 1, "both are ann's");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_what_is_their_own_and_an_admin_what_is_everybodys() {
    let folder = Folder::new().page("index", &["a.html"]).page("a", &[]);
    let web = Pages::start(&folder.0, Duration::ZERO).await.unwrap();
    let house = House::start().await;
    let served = Served::start(&house).await;
    let url = format!("{}index.html", web.url());
    let both = "sites:read sites:write tasks:read tasks:enqueue";
    let [ann, bob] = ["ann", "bob"].map(|who| served.token(who, both));
    let post = async |token: &str, site: Value| {
        let (status, said) = served.ask_with(token, Method::POST, "/v1/sites", Some(site)).await;
        (status.as_u16(), serde_json::from_str::<Value>(&said).unwrap())
    };
    let get = async |token: &str, path: &str| {
        let (status, said) = served.ask_with(token, Method::GET, path, None).await;
        (status.as_u16(), serde_json::from_str::<Value>(&said).unwrap())
    };
    let (status, anns) = post(&ann, json!({"url": url, "max_pages": 5})).await;
    assert_eq!((status, &anns["owner"]), (201, &json!("ann")));
    // The same address is another site to another owner, who learns nothing of the first.
    let (status, bobs) = post(&bob, json!({"url": url, "max_pages": 1})).await;
    assert_eq!((status, &bobs["owner"]), (201, &json!("bob")));
    let (status, again) = post(&ann, json!({"url": url, "max_depth": 2})).await;
    assert_eq!((status, &again["id"], &again["max_pages"]), (200, &anns["id"], &json!(5)));
    house.put(&format!("{}a.html", web.url()), 0, 1).await;

    let worker = house.worker(2);
    house.client.enqueue(umbel_tasks::SweepSites {}).await.unwrap();
    for site in house.sites().await {
        house.scraped(site.id).await;
    }
    // A page by itself is who asked for it's, too.
    let alone = json!({"args": {"url": url}});
    for token in [&ann, &bob] {
        let (status, _) = served
            .ask_with(token, Method::POST, "/v1/tasks/pages.scrape", Some(alone.clone()))
            .await;
        assert_eq!(status, StatusCode::ACCEPTED);
    }
    umbel_tests::eventually::within(super::PATIENCE, "they are read", async || {
        let done = house.pages().await.into_iter().filter(|it| it.site_id.is_none());
        (done.filter(|it| it.title.is_some()).count() == 2).then_some(())
    })
    .await;
    worker.stop().await;

    let owners = |list: &Value, of: &str| -> Vec<Option<String>> {
        let rows = list[of].as_array().unwrap().iter();
        rows.map(|row| row["owner"].as_str().map(str::to_owned)).collect()
    };
    for (token, who, pages) in [(&ann, "ann", 3), (&bob, "bob", 2)] {
        let all = vec![Some(who.to_owned()); pages];
        assert_eq!(owners(&get(token, "/v1/sites").await.1, "sites"), all[..1]);
        for (query, count) in [("", pages), ("?status=succeeded", pages), ("?status=failed", 0)] {
            let seen = get(token, &format!("/v1/pages{query}")).await.1;
            assert_eq!(owners(&seen, "pages"), all[..count], "{who} {query}");
        }
        // Whose site it is may follow its tasks, and nobody else.
        let site = if who == "ann" { &anns } else { &bobs };
        let of = |query: &str| format!("/v1/pages?site_id={}{query}", site["id"]);
        for (whose, seen) in [(&ann, who == "ann"), (&bob, who == "bob")] {
            for query in ["", "&status=succeeded"] {
                let found = get(whose, &of(query)).await.1;
                assert_eq!(found["pages"].as_array().unwrap().is_empty(), !seen, "{query}");
            }
            let task = house.site(site["id"].as_i64().unwrap()).await.task_id.unwrap();
            let page = house.pages().await.into_iter().find(|it| it.site_id == site["id"].as_i64());
            for task in [task, page.unwrap().task_id.unwrap()] {
                let (status, _) = get(whose, &format!("/v1/tasks/{task}")).await;
                assert_eq!(status, if seen { 200 } else { 404 }, "{task}");
            }
        }
    }
    let all = get(&served.token, "/v1/sites").await.1;
    assert_eq!(owners(&all, "sites"), [Some("ann".to_owned()), Some("bob".to_owned()), None]);
    assert_eq!(owners(&get(&served.token, "/v1/pages").await.1, "pages").len(), 6);
}

/// A page and its run are numbers that can be guessed.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_page_of_others_by_naming_it() {
    let folder = Folder::new().page("index", &[]);
    let web = Pages::start(&folder.0, Duration::ZERO).await.unwrap();
    let house = House::start().await;
    let served = Served::start(&house).await;
    let url = format!("{}index.html", web.url());
    let bob = served.token("bob", "tasks:enqueue tasks:read tasks:cancel");
    house.put(&url, 0, 1).await;
    house.claim_and_plan().await;
    let wanted = house.app.pages.pending(None, 0, 9).await.unwrap().pop().unwrap();
    let foreign = json!({"args": {"url": url, "page": wanted.page}, "max_attempts": 1});
    let enqueue = async || {
        let path = "/v1/tasks/pages.scrape";
        let (status, said) = served.ask_with(&bob, Method::POST, path, Some(foreign.clone())).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{said}");
        serde_json::from_str::<Value>(&said).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let untouched = async |why: &str| {
        let page = house.page(&url).await;
        let row = (page.status, page.task_id, page.attempt, page.error);
        assert_eq!(row, (umbel_tasks::Status::Pending, None, 0, None), "{why}");
    };
    // Cancelled before it ran, or run: either way the row waits for its own task.
    let (cancelled, run) = (enqueue().await, enqueue().await);
    let path = format!("/v1/tasks/{cancelled}");
    let (status, _) = served.ask_with(&bob, Method::DELETE, &path, None).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let worker = house.worker_for(&["scrape"], 1);
    for (task, state) in [(&cancelled, "cancelled"), (&run, "failed")] {
        let record = umbel_tests::eventually::eventually("it has ended", async || {
            let path = format!("/v1/tasks/{task}");
            let (_, said) = served.ask_with(&bob, Method::GET, &path, None).await;
            let record: Value = serde_json::from_str(&said).unwrap();
            (record["state"] == state).then_some(record)
        })
        .await;
        assert!(state == "cancelled" || record.to_string().contains("no such page"), "{record}");
        untouched(state).await;
    }
    worker.stop().await;
    assert!(web.hits().is_empty(), "nobody has read it");
}
