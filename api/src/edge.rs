//! What every request passes, whichever route it takes: its id, its limits, its log line, its
//! count, and the form of its errors.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};
use tracing::{Instrument, Span, error, field, info, info_span};
use umbel_proto::trace;
use uuid::Uuid;

use crate::{
    Limits,
    arrival::Arrival,
    metrics::{Metrics, known},
    peer::{Peer, address, network},
    problem::{self, Problem},
    rates::Rates,
};

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
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What is in flight is over in moments.
const RETRY_BUSY: Duration = Duration::from_secs(1);

/// The longest X-Request-ID that is taken over: it stands in each log line of the request.
const REQUEST_ID_LONGEST: usize = 128;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Of W3C: which span of the caller a request belongs to.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Answered however much there is to do: a platform ends a process that does not.
const HEALTH: [&str; 2] = ["/livez", "/readyz"];

/// The edge of one API.
pub(crate) struct Edge {
    limits: Limits,
    request_timeout: Duration,
    metrics: Metrics,
    in_flight: Semaphore,
    peers: Option<Rates>,
}

impl Edge {
    pub fn new(limits: &Limits, metrics: Metrics) -> Self {
        Self {
            request_timeout: REQUEST_TIMEOUT,
            metrics,
            in_flight: Semaphore::new(limits.in_flight),
            peers: limits.per_peer.map(Rates::new),
            limits: limits.clone(),
        }
    }

    /// Puts the edge around all of `router`.
    pub fn around(self, router: Router) -> Router {
        router
            // There is one limit, and it is ours.
            .layer(DefaultBodyLimit::disable())
            .layer(RequestBodyLimitLayer::new(self.limits.body_bytes))
            .layer(CatchPanicLayer::custom(after_panic))
            .layer(middleware::from_fn_with_state(Arc::new(self), pass))
    }

    /// The place of a request among those that are worked on, or why it gets none.
    fn admit(&self, request: &Request) -> Result<Option<SemaphorePermit<'_>>, Problem> {
        if HEALTH.contains(&request.uri().path()) {
            return Ok(None);
        }
        if let Some(peers) = &self.peers {
            let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
            let from = address(peer, request.headers(), self.limits.proxy_hops);
            peers.take(from.map(network)).map_err(too_often)?;
        }
        match self.in_flight.try_acquire() {
            Ok(place) => Ok(Some(place)),
            Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE)
                .detail("more requests are being worked on than there is room for")
                .retry_after(RETRY_BUSY)),
        }
    }

    async fn answer(&self, request: Request, next: Next, id: &str) -> Response {
        let _place = match self.admit(&request) {
            Ok(place) => place,
            Err(refusal) => return refusal.into_response(),
        };
        let arrival = Arrival::of(request.body());
        let mut request = request.map(|body| arrival.within(self.limits.body_timeout, body));
        request.extensions_mut().insert(arrival.clone());
        let span = info_span!("request", request_id = id);
        let answered = next.run(request).instrument(span);
        match tokio::time::timeout(self.request_timeout, answered).await {
            Ok(response) if arrival.was_late() && !response.status().is_success() => too_slow(),
            Ok(response) => response,
            Err(_) => out_of_time().into_response(),
        }
    }
}

async fn pass(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let in_flight = edge.metrics.begin();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = route(&request);
    let path = request.uri().path().to_owned();
    let subject = Subject::default();
    request.extensions_mut().insert(subject.clone());
    request.extensions_mut().insert(RequestId(id.clone()));

    let span = traced(&request, &method, &route);
    let answered = async {
        let response = edge.answer(request, next, &id).await;
        let response = problem::finish(response, &path, &id).await;
        let status = response.status();
        Span::current().record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            trace::failed("server error");
        }
        response
    };
    let mut response = answered.instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }

    drop(in_flight);
    let (status, took) = (response.status(), started.elapsed());
    edge.metrics.count(&route, &method, status, took);
    let (status, ms) = (status.as_u16(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    info!(
        method = method.as_str(),
        path = route,
        status,
        ms,
        request_id = id,
        subject = subject.0.get().map(String::as_str),
        "{method} {route}: {status} in {ms} ms"
    );
    response
}

/// The request as its trace has it: below the caller's span, where it says one.
fn traced(request: &Request, method: &Method, route: &str) -> Span {
    let method = known(method);
    let span = info_span!(
        target: trace::TARGET,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
    );
    if let Some(traces) = trace::traces()
        && let Some(parent) = request.headers().get(TRACEPARENT).and_then(|to| to.to_str().ok())
    {
        traces.follow(&span, parent);
    }
    span
}

pub(crate) fn too_often(wait: Duration) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS)
        .detail("more requests than are taken in this time")
        .retry_after(wait)
}

/// Of one subject, while there may be room for others.
pub(crate) fn too_many_at_once() -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS)
        .detail("as many requests of this subject are being worked on as may be at once")
        .retry_after(RETRY_BUSY)
}

/// The rest of the body may still come: the connection is of no more use.
fn too_slow() -> Response {
    let mut response = Problem::new(StatusCode::REQUEST_TIMEOUT)
        .detail("the body did not come in time")
        .into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
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
    use tokio::sync::Notify;
    use tower::ServiceExt;

    use super::*;
    use crate::problem::tests::json_of;

    const BODY_LARGEST: usize = 1024 * 1024;

    fn limits() -> Limits {
        Limits { per_peer: None, ..Limits::default() }
    }

    fn router() -> Router {
        let router = Router::new()
            .route("/ok", get(|| async { "ok" }))
            .route("/panic", get(|| async { panic!("at {}", 7) as &'static str }))
            .route("/hang", get(std::future::pending::<&'static str>))
            .route("/read", post(|body: Bytes| async move { body.len().to_string() }));
        let mut edge = Edge::new(&limits(), Metrics::new().unwrap());
        edge.request_timeout = Duration::from_millis(50);
        edge.around(router)
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

    #[tokio::test]
    async fn what_is_over_the_cap_is_told_to_come_again_and_health_is_not_counted() {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (at, go) = (reached.clone(), release.clone());
        let hold = get(|| async move {
            at.notify_one();
            go.notified().await;
            "done"
        });
        let router = Router::new().route("/hold", hold).route("/livez", get(|| async { "ok" }));
        let limits = Limits { in_flight: 1, ..limits() };
        let router = Edge::new(&limits, Metrics::new().unwrap()).around(router);
        let ask =
            |path: &str| router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
        let held = tokio::spawn(ask("/hold"));
        reached.notified().await;
        let refused = ask("/hold").await.unwrap();
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(json_of(refused).await["status"], 503);
        assert_eq!(ask("/livez").await.unwrap().status(), StatusCode::OK);
        release.notify_one();
        assert_eq!(held.await.unwrap().unwrap().status(), StatusCode::OK);
        release.notify_one();
        assert_eq!(ask("/hold").await.unwrap().status(), StatusCode::OK, "the place is free again");
    }

    #[tokio::test]
    async fn an_address_may_ask_so_often_and_its_neighbour_as_often() {
        let limits = Limits { per_peer: std::num::NonZeroU32::new(1), ..Limits::default() };
        let router = Router::new().route("/ok", get(|| async { "ok" }));
        let router = Edge::new(&limits, Metrics::new().unwrap()).around(router);
        let ask = async |from: &str| {
            let mut request = Request::get("/ok").body(Body::empty()).unwrap();
            request.extensions_mut().insert(Peer(from.parse().unwrap()));
            router.clone().oneshot(request).await.unwrap()
        };
        for _ in 0..2 {
            assert_eq!(ask("10.0.0.1").await.status(), StatusCode::OK);
            assert_eq!(ask("2001:db8::1").await.status(), StatusCode::OK);
        }
        for spent in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::2"] {
            let refused = ask(spent).await;
            assert_eq!(refused.headers()["retry-after"], "1", "{spent}");
            assert_eq!(json_of(refused).await["status"], 429, "{spent}");
        }
        assert_eq!(ask("10.0.0.2").await.status(), StatusCode::OK);
        assert_eq!(ask("2001:db8:0:1::1").await.status(), StatusCode::OK);
    }
}
