//! An API on a socket with an application of its own, and a browser to ask it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Extension, Json};
use chrono::Utc;
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use umbel_api::{
    Api, ApiSettings, Claims, Grant, JsonBody, JwtSettings, OpenApiRouter, Problem, ReadinessCheck,
    Scopes, issue_token, serve,
};
use umbel_broker::{BrokerSettings, Client};
use umbel_proto::{CatalogEntry, Task, TaskOptions};
use umbel_tests::{probe, services::RedisServer};
use utoipa::ToSchema;
use utoipa_axum::routes;

/// A task of the same application that is not for HTTP.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Hidden {}

impl Task for Hidden {
    const NAME: &'static str = "hidden";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT.queue("inner");
    type Output = ();
}

/// One in another queue; nobody runs it here.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Other {}

impl Task for Other {
    const NAME: &'static str = "other";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT.queue("elsewhere").over_http();
    type Output = ();
}

/// What a route of the application takes and gives.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Greeting {
    text: String,
}

#[utoipa::path(post, path = "/greetings", request_body = Greeting,
    responses((status = 200, body = Greeting), (status = "default", body = Problem)))]
async fn greet(
    Extension(claims): Extension<Claims>,
    JsonBody(greeting): JsonBody<Greeting>,
) -> Result<Json<Greeting>, Problem> {
    if greeting.text.is_empty() {
        return Err(Problem::new(StatusCode::CONFLICT).detail("nothing was said"));
    }
    Ok(Json(Greeting { text: format!("{} from {}", greeting.text, claims.sub) }))
}

#[utoipa::path(get, path = "/broken", responses((status = 200)))]
async fn broken() {
    panic!("the application is broken");
}

/// An API on a socket, and a browser to ask it.
pub struct Served {
    url: String,
    jwt: JwtSettings,
    browser: reqwest::Client,
    pub store_works: Arc<AtomicBool>,
    shutdown: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub async fn start(redis: &RedisServer) -> Self {
        Self::with(Client::open(&BrokerSettings::new(redis.url_as("api")), "api").unwrap()).await
    }

    /// With a way of its own to Redis.
    pub async fn with(client: Client) -> Self {
        let mut catalog = probe::registry().catalog();
        catalog.insert(CatalogEntry::of::<Hidden>(Hidden::NAME.parse().unwrap()));
        catalog.insert(CatalogEntry::of::<Other>(Other::NAME.parse().unwrap()));
        let jwt = JwtSettings::new("a secret that is long enough for it".into());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let settings = ApiSettings::new("Probes", addr, jwt.clone());
        let application = OpenApiRouter::new().routes(routes!(greet)).routes(routes!(broken));
        let store_works = Arc::new(AtomicBool::new(true));
        let works = store_works.clone();
        let store = ReadinessCheck {
            name: "store",
            critical: false,
            check: Arc::new(move || {
                let works = works.load(SeqCst);
                Box::pin(async move { if works { Ok(()) } else { Err("no store".into()) } })
            }),
        };
        let api = Api::new(&settings, client, Arc::new(catalog), application).unwrap();
        let shutdown = CancellationToken::new();
        let router = api.readiness([store]).closing(shutdown.clone()).router();
        let server = tokio::spawn(serve(listener, router, shutdown.clone()));
        // Refused where an earlier test installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let browser = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self { url: format!("http://{addr}"), jwt, browser, store_works, shutdown, server }
    }

    /// Without a token.
    pub fn open(&self, method: Method, path: &str) -> RequestBuilder {
        self.browser.request(method, format!("{}{path}", self.url))
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.ask_as("ann", method, path)
    }

    pub fn ask_as(&self, subject: &str, method: Method, path: &str) -> RequestBuilder {
        let token = issue_token(&self.jwt, subject, Duration::from_secs(60), Utc::now()).unwrap();
        self.open(method, path).bearer_auth(token)
    }

    /// As somebody who may do all.
    pub fn ask_as_admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.ask_by(Grant::new("ann").scopes(Scopes::ADMIN), method, path)
    }

    pub fn ask_by(&self, grant: Grant, method: Method, path: &str) -> RequestBuilder {
        self.open(method, path).bearer_auth(grant.sign(&self.jwt, Utc::now()).unwrap())
    }

    pub async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    /// Asks for a probe.
    pub async fn enqueue(&self, body: Value) -> Response {
        self.ask(Method::POST, "/v1/tasks/probe").json(&body).send().await.unwrap()
    }

    pub async fn enqueue_by_key(
        &self,
        subject: &str,
        key: &str,
        name: &str,
    ) -> (StatusCode, Value) {
        let request = self
            .ask_as(subject, Method::POST, "/v1/tasks/probe")
            .header("idempotency-key", key)
            .json(&json!({"args": {"name": name, "act": "ok"}}));
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        drop(self.browser);
        self.server.await.unwrap().unwrap();
    }
}
