//! An API on a socket whose Redis is away: what is asked for here is decided before it.

use std::net::SocketAddr;

use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use umbel_api::{Api, ApiSettings, JwtSettings, OpenApiRouter, serve_within};
use umbel_broker::{BrokerSettings, Client};
use umbel_tests::{
    eventually::{LONGEST, eventually},
    probe,
    process::{Launch, Process, free_port},
};

pub const SECRET: &str = "a secret that is long enough for it";

/// What answers without Redis, to a token that may read.
pub const LIST: &str = "/v1/tasks";

/// The API, until this is dropped.
pub struct Gate {
    pub addr: SocketAddr,
    pub browser: reqwest::Client,
    _stop: DropGuard,
}

impl Gate {
    /// Without a limit on rates, unless `change` sets one.
    pub async fn open(jwt: JwtSettings, change: impl FnOnce(&mut ApiSettings)) -> Self {
        let away = BrokerSettings::new("unix:/nonexistent/redis.sock");
        Self::on(Client::open(&away, "api").unwrap(), jwt, change).await
    }

    /// With a Redis that is there.
    pub async fn on(
        client: Client,
        jwt: JwtSettings,
        change: impl FnOnce(&mut ApiSettings),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut settings = ApiSettings::new("Gate", addr, jwt);
        (settings.limits.per_peer, settings.limits.per_subject) = (None, None);
        change(&mut settings);
        let catalog = probe::registry().catalog().into();
        let api = Api::new(&settings, client, catalog, OpenApiRouter::new()).unwrap();
        let (stop, limits) = (CancellationToken::new(), settings.limits.clone());
        let shutdown = stop.clone();
        tokio::spawn(async move { serve_within(listener, api.router(), &limits, shutdown).await });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let browser = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().unwrap();
        Self { addr, browser, _stop: stop.drop_guard() }
    }

    pub async fn ask(&self, token: &str) -> Response {
        let url = format!("http://{}{LIST}", self.addr);
        self.browser.get(url).bearer_auth(token).send().await.unwrap()
    }

    pub async fn status(&self, token: &str) -> StatusCode {
        self.ask(token).await.status()
    }

    /// A connection to write what no browser would.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// What is answered to bytes, up to the end of the connection.
    pub async fn answer_to(&self, bytes: &[u8]) -> String {
        let mut connection = self.connect().await;
        // The answer may come, and the connection end, before all is written.
        let _ = connection.write_all(bytes).await;
        to_the_end(&mut connection).await
    }
}

/// Reads until the other side ends the connection, by whatever means.
pub async fn to_the_end(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = connection.read(&mut chunk).await {
            answer.extend_from_slice(&chunk[..read]);
        }
    };
    tokio::time::timeout(LONGEST, reading).await.expect("the other side ends the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status and the problem of an answer as it came.
pub fn problem_of(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.to_lowercase().contains("content-type: application/problem+json"), "{head}");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

/// `umbel api` as it is run, once it answers.
pub struct Running {
    pub process: Process,
    pub url: String,
    pub browser: reqwest::Client,
}

pub async fn running(launch: Launch) -> Running {
    let port = free_port();
    let process = launch.env("PORT", port).start();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let browser = reqwest::Client::builder().no_proxy().timeout(LONGEST).build().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    eventually("the API answers", async || browser.get(format!("{url}/livez")).send().await.ok())
        .await;
    Running { process, url, browser }
}
