//! A collector of traces: takes OTLP over HTTP in its binary form, and keeps the spans.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs inside the test, on a free port of loopback; ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    kept: Kept,
    _stop: DropGuard,
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    spans: Vec<Span>,
    bytes: Vec<u8>,
    /// Of the last request.
    headers: HeaderMap,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A span as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty where it is the first of its trace.
    pub parent: String,
    pub name: String,
    /// As the protocol counts them: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// The spans that it links to.
    pub links: Vec<String>,
    pub failed: Option<String>,
    pub events: usize,
    /// Of the process that made it.
    pub resource: BTreeMap<String, String>,
}

impl Collector {
    /// # Errors
    /// When no port is free.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, kept) = (listener.local_addr()?, Kept::default());
        let router = Router::new().route("/v1/traces", post(take)).with_state(kept.clone());
        let stop = CancellationToken::new();
        let ends = stop.clone().cancelled_owned();
        tokio::spawn(
            async move { axum::serve(listener, router).with_graceful_shutdown(ends).await },
        );
        Ok(Self { addr, kept, _stop: stop.drop_guard() })
    }

    /// What OTEL_EXPORTER_OTLP_ENDPOINT is to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All spans so far, by their start.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = self.kept.lock().spans.clone();
        spans.sort_by_key(|span| (span.start, span.end));
        spans
    }

    /// A header of the last request.
    pub fn header(&self, name: &str) -> Option<String> {
        let kept = self.kept.lock();
        Some(kept.headers.get(name)?.to_str().ok()?.to_owned())
    }

    /// All bytes so far, for who looks for what must not be in them.
    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.kept.lock().bytes).into_owned()
    }
}

async fn take(State(kept): State<Kept>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body.clone()) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut kept = kept.lock();
    kept.bytes.extend_from_slice(&body);
    kept.headers = headers;
    for of_process in request.resource_spans {
        let resource = of_process.resource.map(|resource| text(resource.attributes));
        for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            kept.spans.push(Span {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: text(span.attributes),
                links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                failed: span.status.filter(|status| status.code == 2).map(|status| status.message),
                events: span.events.len(),
                resource: resource.clone().unwrap_or_default(),
            });
        }
    }
    StatusCode::OK
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let value = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    };
    attributes
        .into_iter()
        .map(|attribute| (attribute.key, attribute.value.map(value).unwrap_or_default()))
        .collect()
}
