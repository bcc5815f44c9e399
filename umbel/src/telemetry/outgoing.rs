//! What an application says of its own requests to other hosts, for traces and metrics.

use std::future::Future;

use tracing::{Instrument, Span, field, info_span};
use umbel_proto::trace;

/// What came of a request to another host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetch {
    /// The status of its answer, where it is known.
    pub status: Option<u16>,
    /// How many bytes were taken in.
    pub bytes: u64,
    /// Why it failed, in a word or two that no other host chose.
    pub failed: Option<&'static str>,
}

/// Runs a request to `host` in a span of its own, below that of the running task, and counts its bytes
/// for the task. Of the address only the host is written, which must hold no secret.
pub async fn fetch<T>(host: &str, request: impl Future<Output = (T, Fetch)>) -> T {
    let span = info_span!(
        target: trace::TARGET,
        "fetch",
        otel.name = "GET",
        otel.kind = "client",
        http.request.method = "GET",
        server.address = host,
        http.response.status_code = field::Empty,
        http.response.body.size = field::Empty,
    );
    async {
        let (answer, fetch) = request.await;
        let span = Span::current();
        if let Some(status) = fetch.status {
            span.record("http.response.status_code", status);
        }
        span.record("http.response.body.size", fetch.bytes);
        if let Some(why) = fetch.failed {
            trace::failed(why);
        }
        umbel_worker::fetched(fetch.bytes);
        answer
    }
    .instrument(span)
    .await
}

/// The span that runs now, as the `traceparent` header of W3C, for requests to services that are part
/// of the same house. `None` where no trace is written. Strangers are not told.
pub fn traceparent() -> Option<String> {
    trace::current()
}
