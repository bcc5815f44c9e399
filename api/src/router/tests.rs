//! The router as a whole, with Redis away; and what tests of single routes share.

mod access;

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Body,
    extract::Path,
    http::{HeaderValue, Request, header},
    response::Response,
};
use chrono::Utc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower::ServiceExt;
use umbel_broker::BrokerSettings;
use umbel_proto::{CatalogEntry, Task, TaskOptions};
use utoipa::ToSchema;

use super::*;
use crate::{Claims, JwtSettings, issue_token, problem::tests::json_of};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Visit {
    site: String,
    #[serde(default)]
    links: Vec<Link>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Link {
    depth: u32,
    next: Option<Box<Link>>,
}

impl Task for Visit {
    const NAME: &'static str = "sites.visit";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT.queue("visits").over_http();
    type Output = u32;
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Sweep {}

impl Task for Sweep {
    const NAME: &'static str = "sites.sweep";
    type Output = ();
}

pub(crate) fn catalog() -> Arc<Catalog> {
    let mut catalog = Catalog::default();
    for entry in [
        CatalogEntry::of::<Visit>(Visit::NAME.parse().unwrap()),
        CatalogEntry::of::<Sweep>(Sweep::NAME.parse().unwrap()),
    ] {
        assert!(catalog.insert(entry).is_none());
    }
    Arc::new(catalog)
}

fn settings() -> ApiSettings {
    let jwt = JwtSettings::new("0123456789abcdef0123456789abcdef".into());
    ApiSettings::new("Sites", ([127, 0, 0, 1], 0).into(), jwt)
}

/// An API whose Redis is away.
fn api(application: OpenApiRouter) -> Result<Api, ApiError> {
    let away = BrokerSettings::new("unix:/nonexistent/redis.sock");
    Api::new(&settings(), Client::open(&away, "api").unwrap(), catalog(), application)
}

pub(crate) fn token() -> HeaderValue {
    let hour = Duration::from_secs(3600);
    let token = issue_token(&settings().jwt, "ann", hour, Utc::now()).unwrap();
    format!("Bearer {token}").parse().unwrap()
}

/// Asks an API whose Redis is away, with a good token.
pub(crate) async fn ask(request: axum::http::request::Builder, body: impl Into<Body>) -> Response {
    let request = request.header(header::AUTHORIZATION, token()).body(body.into()).unwrap();
    api(application()).unwrap().router().oneshot(request).await.unwrap()
}

async fn ask_without_token(path: &str) -> Response {
    let request = Request::get(path).body(Body::empty()).unwrap();
    api(application()).unwrap().router().oneshot(request).await.unwrap()
}

#[derive(Serialize, ToSchema)]
struct Site {
    id: u32,
    owner: String,
}

#[utoipa::path(get, path = "/sites/{id}", params(("id" = u32, Path)),
    responses((status = 200, body = Site), (status = 404, body = Problem)))]
async fn site(Extension(claims): Extension<Claims>, Path(id): Path<u32>) -> Json<Site> {
    Json(Site { id, owner: claims.sub })
}

#[utoipa::path(delete, path = "/sites/{id}", params(("id" = u32, Path)),
    security(("bearer" = ["sites:write"])), responses((status = 200), (status = 403, body = Problem)))]
async fn remove_site() {}

fn application() -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(site, remove_site))
        .fallback(async || "the application's own")
}

#[tokio::test]
async fn routes_of_an_application_are_under_v1_behind_the_door() {
    assert_eq!(ask_without_token("/v1/sites/7").await.status(), StatusCode::UNAUTHORIZED);
    let response = ask(Request::get("/v1/sites/7"), "").await;
    assert_eq!(json_of(response).await["owner"], "ann");
}

#[tokio::test]
async fn nobody_without_a_token_learns_which_paths_there_are() {
    for path in ["/v1/tasks", "/v1/queues", "/v1/tasks/x/y", "/v1/nowhere", "/v1"] {
        let status = ask_without_token(path).await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(ask_without_token("/nowhere").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn all_mistakes_in_a_path_or_method_are_problems() {
    for (method, path, status) in [
        ("GET", "/v1/nowhere", 404),
        ("DELETE", "/v1/queues", 405),
        ("PUT", "/v1/tasks/sites.visit", 405),
        ("GET", "/v1/sites/seven", 400),
        ("GET", "/v1/tasks/%ff", 400),
        ("GET", "/v1/tasks/default-7", 404),
    ] {
        let response = ask(Request::builder().method(method).uri(path), "").await;
        let kind = response.headers()[header::CONTENT_TYPE].clone();
        let problem = json_of(response).await;
        assert_eq!(
            (kind.to_str().unwrap(), &problem["status"]),
            ("application/problem+json", &status.into()),
            "{method} {path}: {problem}"
        );
        assert_eq!(problem["instance"], path);
    }
}

#[tokio::test]
async fn without_redis_the_process_lives_and_is_not_ready() {
    assert_eq!(ask_without_token("/livez").await.status(), StatusCode::OK);
    let response = ask_without_token("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(json_of(response).await["status"], "unavailable");
}

#[tokio::test]
async fn without_redis_a_request_for_it_is_told_to_come_again() {
    let id = "visits-0191f3c4-7b6a-7c3e-9d4f-0123456789ab";
    for request in [Request::get("/v1/queues"), Request::get(format!("/v1/tasks/{id}"))] {
        let response = ask(request, "").await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(json_of(response).await["status"], 503);
    }
}

#[tokio::test]
async fn a_request_is_one_line_in_the_log_without_what_it_carried() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let request = Request::post("/v1/tasks/sites.visit?key=canary")
        .header("x-request-id", "r-1")
        .header("idempotency-key", "canary")
        .header("cookie", "canary")
        .header(header::CONTENT_TYPE, "application/json");
    ask(request, r#"{"args": {"site": 1, "canary": "canary"}}"#).await;
    ask(Request::get("/v1/tasks/canary"), "").await;
    ask(Request::get("/v1/canary"), "").await;
    ask(Request::get("/canary"), "").await;
    drop(guard);

    let text = log.text();
    assert!(!text.contains("canary") && !text.contains("Bearer"), "{text}");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["level"] == "INFO")
        .map(|line| line["fields"].clone())
        .collect();
    let told: Vec<_> =
        lines.iter().map(|line| (&line["path"], &line["status"], &line["subject"])).collect();
    let (ann, nobody) = (Value::from("ann"), Value::Null);
    assert_eq!(
        told,
        [
            (&"/v1/tasks/{task}".into(), &422.into(), &ann),
            (&"/v1/tasks/{task}".into(), &404.into(), &ann),
            (&"no route".into(), &404.into(), &ann),
            (&"no route".into(), &404.into(), &nobody),
        ]
    );
    assert_eq!((&lines[0]["request_id"], &lines[0]["method"]), (&"r-1".into(), &"POST".into()));
    assert!(lines[0]["ms"].is_u64());
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_docs_are_served_whole_and_without_a_token() {
    let page = ask_without_token("/docs/").await;
    assert!(page.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    for asset in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let status = ask_without_token(&format!("/docs/{asset}")).await.status();
        assert_eq!(status, StatusCode::OK, "{asset}");
    }
    assert_eq!(ask_without_token("/docs").await.headers()[header::LOCATION], "/docs/");
    assert_eq!(json_of(ask_without_token("/docs/none.js").await).await["status"], 404);
}

#[tokio::test]
async fn the_description_shows_our_routes_and_the_applications() {
    let description = json_of(ask_without_token("/openapi.json").await).await;
    assert_eq!(description["info"]["title"], "Sites");
    let paths: Vec<&String> = description["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/livez",
            "/metrics",
            "/readyz",
            "/v1/dead",
            "/v1/dead/redrive",
            "/v1/dead/{queue}/{letter}",
            "/v1/dead/{queue}/{letter}/redrive",
            "/v1/queues",
            "/v1/queues/{queue}",
            "/v1/queues/{queue}/pause",
            "/v1/queues/{queue}/resume",
            "/v1/schedules",
            "/v1/schedules/{schedule}",
            "/v1/sites/{id}",
            "/v1/tasks",
            "/v1/tasks/batch",
            "/v1/tasks/{task}",
            "/v1/tasks/{task}/events",
            "/v1/workers",
        ]
    );
    let schemas = description["components"]["schemas"].as_object().unwrap();
    for name in ["Problem", "FieldError", "NewTaskBody", "Site", "task.sites.visit"] {
        assert!(schemas.contains_key(name), "{name}");
    }
    assert!(!schemas.contains_key("task.sites.sweep"), "not over HTTP");
    assert_eq!(description["security"], serde_json::json!([{"bearer": []}]));
    assert_every_ref_resolves(&description, &description);
}

fn assert_every_ref_resolves(part: &Value, whole: &Value) {
    match part {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                let pointer = to.strip_prefix('#').unwrap();
                assert!(whole.pointer(pointer).is_some(), "{to} leads nowhere");
            }
            map.values().for_each(|part| assert_every_ref_resolves(part, whole));
        }
        Value::Array(list) => {
            list.iter().for_each(|part| assert_every_ref_resolves(part, whole));
        }
        _ => {}
    }
}

#[utoipa::path(get, path = "/tasks/{name}/history", responses((status = 200)))]
async fn history() {}

#[utoipa::path(delete, path = "/queues", responses((status = 200)))]
async fn empty() {}

#[utoipa::path(get, path = "/tasksheets", responses((status = 200)))]
async fn sheets() {}

mod other {
    #[derive(serde::Serialize, utoipa::ToSchema)]
    pub struct Queue {
        cars: u32,
    }

    #[utoipa::path(get, path = "/jams", responses((status = 200, body = Queue)))]
    pub async fn jams() {}

    /// Of what is served without a token and described beside.
    #[derive(serde::Serialize, utoipa::ToSchema)]
    pub struct Report {
        pages: u32,
    }

    #[utoipa::path(get, path = "/reports", responses((status = 200, body = Report)))]
    pub async fn reports() {}
}

// Opening a client needs a runtime.
#[tokio::test]
async fn an_application_cannot_take_what_is_ours() {
    let refusal = |routes| api(OpenApiRouter::new().routes(routes)).unwrap_err().to_string();
    assert!(refusal(routes!(history)).contains("`/v1/tasks/{name}/history`"));
    assert!(refusal(routes!(empty)).contains("`/v1/queues`"));
    assert!(refusal(routes!(other::jams)).contains("`Queue`"));
    assert!(refusal(routes!(other::reports)).contains("`Report`"));
    assert!(api(OpenApiRouter::new().routes(routes!(sheets))).is_ok());
}
