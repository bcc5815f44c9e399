//! What every request passes, whichever route it takes: its id, its limits, its log line, and the
//! form of its errors.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};
use tracing::{Instrument, error, info, info_span};
use uuid::Uuid;

use crate::problem::{self, Problem};

/// The id of a request: the caller's X-Request-ID, or a new UUID. Handlers take it as
/// `Extension<RequestId>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Who asked, as the door found out; for the log line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject(Arc<OnceLock<String>>);

impl Subject {
    pub fn is(&self, subject: &str) {
        self.0.get_or_init(|| subject.to_owned());
    }
}

/// How long a handler may take. Shorter than the patience of most proxies and clients (60 s), so
/// that they hear from us; far longer than any of our own calls to Redis.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest body. Four times what a task may carry (`codec::MAX_BYTES`), for JSON is wordier.
pub(crate) const BODY_LARGEST: usize = 1024 * 1024;

/// The longest X-Request-ID that is taken over: it stands in each log line of the request.
const REQUEST_ID_LONGEST: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the edge around all of `router`.
pub(crate) fn around(router: Router, timeout: Duration) -> Router {
    router
        .layer(RequestBodyLimitLayer::new(BODY_LARGEST))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(middleware::from_fn_with_state(timeout, pass))
}

async fn pass(State(limit): State<Duration>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = route(&request);
    let path = request.uri().path().to_owned();
    let subject = Subject::default();
    request.extensions_mut().insert(subject.clone());
    request.extensions_mut().insert(RequestId(id.clone()));

    let span = info_span!("request", request_id = id);
    let response = match tokio::time::timeout(limit, next.run(request).instrument(span)).await {
        Ok(response) => response,
        Err(_) => out_of_time().into_response(),
    };
    let mut response = problem::finish(response, &path, &id).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }

    let status = response.status().as_u16();
    let ms = started.elapsed().as_millis();
    info!(
        method = method.as_str(),
        path = route,
        status,
        ms = u64::try_from(ms).unwrap_or(u64::MAX),
        request_id = id,
        subject = subject.0.get().map(String::as_str),
        "{method} {route}: {status} in {ms} ms"
    );
    response
}

/// The caller's id if it can stand in a log line, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=REQUEST_ID_LONGEST).contains(&id.len()))
        .filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// The route as it was declared: a path may carry what is nobody's business, a route cannot.
fn route(request: &Request) -> String {
    match request.extensions().get::<MatchedPath>() {
        Some(matched) => matched.as_str().to_owned(),
        None => "no route".to_owned(),
    }
}

fn out_of_time() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE)
        .detail(
            "the request took too long and was given up; it may have been carried out all the \
             same: repeat it with the same Idempotency-Key",
        )
        .retry_after(Duration::from_secs(5))
}

fn after_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    // Inside the span of the request, which tells its id.
    error!(panic = message, "a handler panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, Bytes},
        routing::{get, post},
    };
    use tower::ServiceExt;

    use super::*;
    use crate::problem::tests::json_of;

    fn router() -> Router {
        let router = Router::new()
            .route("/ok", get(|| async { "ok" }))
            .route("/panic", get(|| async { panic!("at {}", 7) as &'static str }))
            .route("/hang", get(std::future::pending::<&'static str>))
            .route("/read", post(|body: Bytes| async move { body.len().to_string() }));
        around(router, Duration::from_millis(50))
    }

    async fn ask(request: axum::http::request::Builder, body: impl Into<Body>) -> Response {
        router().oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_id_comes_back_if_a_log_line_can_carry_it() {
        let id = async |sent: &[u8]| {
            let response = ask(Request::get("/ok").header(REQUEST_ID, sent), "").await;
            response.headers()[REQUEST_ID].to_str().unwrap().to_owned()
        };
        assert_eq!(id(b"abc-1").await, "abc-1");
        assert_eq!(id(&[b'a'; 128]).await, "a".repeat(128));
        for bad in [b"".as_slice(), &[b'a'; 129], b"a b", b"a\tb", b"\xff"] {
            assert!(Uuid::try_parse(&id(bad).await).is_ok(), "{bad:?}");
        }
        let none = ask(Request::get("/ok"), "").await;
        assert!(Uuid::try_parse(none.headers()[REQUEST_ID].to_str().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_that_tells_nothing() {
        let response = ask(Request::get("/panic").header(REQUEST_ID, "p1"), "").await;
        assert_eq!(response.headers()[REQUEST_ID], "p1");
        let problem = json_of(response).await;
        assert_eq!(problem["status"], 500);
        assert_eq!(problem["request_id"], "p1");
        assert_eq!(problem.get("detail"), None);
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_given_up() {
        let response = ask(Request::get("/hang"), "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "5");
        assert_eq!(json_of(response).await["instance"], "/hang");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_whether_its_length_is_told_or_not() {
        let fits = ask(Request::post("/read"), vec![0; BODY_LARGEST]).await;
        assert_eq!(fits.status(), StatusCode::OK);

        let told = Request::post("/read").header("content-length", BODY_LARGEST + 1);
        let large = vec![0_u8; BODY_LARGEST + 1];
        let response = ask(told, large.clone()).await;
        assert_eq!(json_of(response).await["status"], 413);

        let chunks = futures::stream::iter([Ok::<_, std::io::Error>(large)]);
        let response = ask(Request::post("/read"), Body::from_stream(chunks)).await;
        assert_eq!(json_of(response).await["status"], 413);
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems() {
        let response = ask(Request::get("/nowhere?secret=1"), "").await;
        let problem = json_of(response).await;
        assert_eq!((&problem["status"], &problem["instance"]), (&404.into(), &"/nowhere".into()));

        let response = ask(Request::delete("/ok"), "").await;
        assert_eq!(response.headers()["allow"], "GET,HEAD");
        assert_eq!(json_of(response).await["status"], 405);
    }
}
