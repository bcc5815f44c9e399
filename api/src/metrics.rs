//! What the API counts of itself, as Prometheus reads it.
//!
//! Labels are route, method and class of status alone, each of which has few values whatever
//! callers send: a path would let them make as many series as they like.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};
use futures::future::BoxFuture;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::ApiError;

/// Requests by route, method and class of status.
const REQUESTS: &str = "umbel_http_requests_total";

/// How long they took, by the same.
const SECONDS: &str = "umbel_http_request_seconds";

/// How many are worked on now.
const IN_FLIGHT: &str = "umbel_http_requests_in_flight";

/// From an answer out of memory to the time limit of a request.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.02, 0.05, 0.2, 0.5, 1.0, 5.0, 30.0];

/// After how many requests the times of single requests are added up. Prometheus' own visits do it
/// too; without them the list would grow for ever.
const ADD_UP_EVERY: u64 = 1024;

/// The counters of one API, cheap to clone. Of this API alone: not the recorder of the process.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    requests: AtomicU64,
}

/// Counts a request as in flight until it is dropped.
pub(crate) struct InFlight(Metrics);

/// What answers for `/metrics`.
pub type Exposition = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// What the API counts of itself, for whoever puts it together with more.
#[derive(Debug, Clone)]
pub struct MetricsText(pub(crate) Metrics);

impl MetricsText {
    /// In the text form of Prometheus.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// What `/metrics` answers with: what somebody puts together, or what the API counts alone.
#[derive(Clone)]
pub(crate) struct Told {
    pub own: Metrics,
    pub more: Option<Exposition>,
}

impl Told {
    pub async fn text(&self) -> String {
        match &self.more {
            Some(more) => more().await,
            None => self.own.render(),
        }
    }
}

impl Metrics {
    pub fn new() -> Result<Self, ApiError> {
        let builder = PrometheusBuilder::new();
        let builder = builder
            .set_buckets_for_metric(Matcher::Full(SECONDS.to_owned()), &BUCKETS)
            .map_err(|error| ApiError::Metrics(error.to_string()))?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!(REQUESTS, "Requests answered");
            describe_histogram!(SECONDS, "How long requests took, in seconds");
            describe_gauge!(IN_FLIGHT, "Requests being worked on");
        });
        Ok(Self(Arc::new(Inner { recorder, handle, requests: AtomicU64::new(0) })))
    }

    pub fn begin(&self) -> InFlight {
        self.with(|| gauge!(IN_FLIGHT).increment(1.0));
        InFlight(self.clone())
    }

    pub fn count(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let labels = [
            ("route", route.to_owned()),
            ("method", known(method).to_owned()),
            ("status", format!("{}xx", status.as_u16() / 100)),
        ];
        self.with(|| {
            counter!(REQUESTS, &labels).increment(1);
            histogram!(SECONDS, &labels).record(took.as_secs_f64());
        });
        if self.0.requests.fetch_add(1, Ordering::Relaxed) % ADD_UP_EVERY == ADD_UP_EVERY - 1 {
            self.0.handle.run_upkeep();
        }
    }

    /// In the text form of Prometheus.
    pub fn render(&self) -> String {
        self.0.handle.render()
    }

    fn with(&self, act: impl FnOnce()) {
        metrics::with_local_recorder(&self.0.recorder, act);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.with(|| gauge!(IN_FLIGHT).decrement(1.0));
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Callers may make methods up.
pub(crate) fn known(method: &Method) -> &str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    if known.contains(method) { method.as_str() } else { "other" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_few_values_whatever_callers_send() {
        let metrics = Metrics::new().unwrap();
        for n in 0..10_000_u32 {
            let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
            metrics.count("no route", &method, StatusCode::NOT_FOUND, Duration::from_millis(3));
        }
        let text = metrics.render();
        let line =
            r#"umbel_http_requests_total{route="no route",method="other",status="4xx"} 10000"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains(r#"status="4xx",le="0.005"} 10000"#), "{text}");
        assert!(text.lines().count() < 30, "{text}");
    }

    #[test]
    fn a_request_is_in_flight_until_it_is_over() {
        let metrics = Metrics::new().unwrap();
        let (first, second) = (metrics.begin(), metrics.begin());
        assert!(metrics.render().contains("umbel_http_requests_in_flight 2"));
        drop(first);
        assert!(metrics.render().contains("umbel_http_requests_in_flight 1"));
        drop(second);
        assert!(metrics.render().contains("umbel_http_requests_in_flight 0"));
    }
}
