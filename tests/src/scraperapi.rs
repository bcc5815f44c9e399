//! A ScraperAPI of the tests and the demo: answers as the documents of the service say, and
//! fetches from this machine.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::pages::{listen, url};

/// What one request asked for, the key left out.
pub type Asked = BTreeMap<String, String>;

/// The service, on a free port of loopback; it ends when this is dropped.
#[derive(Debug)]
pub struct FakeScraperApi {
    addr: SocketAddr,
    state: Fake,
    _stop: DropGuard,
}

#[derive(Debug, Clone)]
struct Fake {
    key: String,
    inner: Arc<Mutex<Inner>>,
    client: reqwest::Client,
}

#[derive(Debug, Default)]
struct Inner {
    credits: Option<u32>,
    statuses: VecDeque<u16>,
    asked: Vec<Asked>,
}

impl FakeScraperApi {
    /// Starts the service for those who have `key`.
    ///
    /// # Errors
    /// When the port is taken; 0 takes a free one.
    pub async fn start(key: &str, port: u16) -> io::Result<Self> {
        // Refused where another one was first, which serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let state = Fake { key: key.to_owned(), inner: Arc::default(), client };
        let listener = listen(port).await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let app = Router::new().route("/", get(answer)).with_state(state.clone());
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, app).with_graceful_shutdown(ended).await });
        Ok(Self { addr, state, _stop: stop.drop_guard() })
    }

    /// Where it listens: what SCRAPERAPI_URL is to be.
    pub fn url(&self) -> String {
        url(self.addr)
    }

    /// How many credits there are from now on; without this call they do not end.
    pub fn credits(&self, credits: u32) {
        self.state.lock().credits = Some(credits);
    }

    /// What the next requests are answered with, one status each, instead of the page.
    pub fn refuse_with(&self, statuses: &[u16]) {
        self.state.lock().statuses.extend(statuses);
    }

    /// All requests so far, in their order.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().asked.clone()
    }
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request; says why it is refused, if it is.
    fn admit(&self, asked: &Asked, key: Option<String>, cost: u32) -> Result<(), StatusCode> {
        let mut inner = self.lock();
        inner.asked.push(asked.clone());
        if key.as_deref() != Some(&self.key) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        if let Some(status) = inner.statuses.pop_front() {
            return Err(StatusCode::from_u16(status).expect("a status"));
        }
        if inner.credits.is_some_and(|credits| credits < cost) {
            return Err(StatusCode::FORBIDDEN);
        }
        Ok(())
    }
}

const CREDIT_COST: HeaderName = HeaderName::from_static("sa-credit-cost");
const FINAL_URL: HeaderName = HeaderName::from_static("sa-final-url");

async fn answer(State(fake): State<Fake>, Query(mut asked): Query<Asked>) -> Response {
    let key = asked.remove("api_key");
    let is = |name: &str| asked.get(name).is_some_and(|value| value == "true");
    let cost = match (is("render"), is("premium")) {
        (false, false) => 1,
        (true, true) => 25,
        _ => 10,
    };
    if let Err(status) = fake.admit(&asked, key, cost) {
        let wait =
            (status == StatusCode::TOO_MANY_REQUESTS).then_some([(header::RETRY_AFTER, "1")]);
        return (status, wait.unwrap_or([(header::RETRY_AFTER, "0")]), "refused").into_response();
    }
    let Some(target) = asked.get("url") else {
        return (StatusCode::BAD_REQUEST, "url is missing").into_response();
    };
    let Ok(page) = fake.client.get(target).send().await else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "no page within 70 seconds").into_response();
    };
    let status = page.status();
    if !status.is_success() && !matches!(status.as_u16(), 404 | 410) {
        return (StatusCode::INTERNAL_SERVER_ERROR, "no page within 70 seconds").into_response();
    }
    // Only pages, and that there is none, are paid for.
    let cost = if status.as_u16() == 410 { 0 } else { cost };
    if let Some(credits) = &mut fake.lock().credits {
        *credits -= cost;
    }
    let kind = page.headers().get(header::CONTENT_TYPE).cloned();
    let said = [(CREDIT_COST, cost.to_string()), (FINAL_URL, page.url().to_string())];
    let mut answer = (status, said, Body::from_stream(page.bytes_stream())).into_response();
    if let Some(kind) = kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}
