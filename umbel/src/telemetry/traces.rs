//! Traces: spans under [`trace::TARGET`] go to a collector by OTLP over HTTP, where the variables of
//! OpenTelemetry say so.

use std::{
    cell::Cell,
    env,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
        TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider, SpanData},
};
use tracing::{Span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use umbel_proto::{
    TaskId,
    trace::{self, Run, Traces},
};
use uuid::Uuid;

use crate::{roles::Role, settings::SettingsError};

/// Ends the writing of traces: what was not sent yet is sent.
#[derive(Debug)]
pub(crate) struct Collector(SdkTracerProvider);

/// How long the last spans may take to be sent when the process ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// The samplers of the specification that the library knows; of another one it would take all traces
/// without a word.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The one protocol that is spoken: the others would bring a second HTTP library.
const PROTOCOL: &str = "http/protobuf";

/// Whether anybody wants traces, by the standard variables.
fn wanted() -> Result<bool, SettingsError> {
    let set = |value: Result<String, env::VarError>| value.ok().filter(|text| !text.is_empty());
    let is_off = set(env::var("OTEL_SDK_DISABLED"))
        .is_some_and(|text| text.eq_ignore_ascii_case("true"))
        || set(env::var("OTEL_TRACES_EXPORTER")).is_some_and(|text| text == "none");
    let endpoint = set(env::var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        .or_else(|| set(env::var("OTEL_EXPORTER_OTLP_ENDPOINT")));
    if is_off || endpoint.is_none() {
        return Ok(false);
    }
    let protocol = set(env::var("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"))
        .or_else(|| set(env::var("OTEL_EXPORTER_OTLP_PROTOCOL")));
    if protocol.is_some_and(|protocol| protocol != PROTOCOL) {
        return Err(SettingsError(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be {PROTOCOL}: \
             this program speaks no other"
        )));
    }
    let Some(sampler) = set(env::var("OTEL_TRACES_SAMPLER")) else { return Ok(true) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return Err(SettingsError(format!(
            "OTEL_TRACES_SAMPLER must be one of {}",
            SAMPLERS.join(", ")
        )));
    }
    let ratio = set(env::var("OTEL_TRACES_SAMPLER_ARG")).map(|text| text.parse::<f64>());
    let fits = ratio.is_some_and(|ratio| ratio.is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)));
    if sampler.ends_with("traceidratio") && !fits {
        return Err(SettingsError(
            "OTEL_TRACES_SAMPLER_ARG must be the part of traces that is taken, 0 to 1".to_owned(),
        ));
    }
    Ok(true)
}

/// Starts what sends traces, where anybody wants them. It sends from a thread of its own.
pub(crate) fn start(
    service: &'static str,
    role: Role,
) -> Result<Option<(Collector, SdkTracer)>, SettingsError> {
    if !wanted()? {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_http().build().map_err(|error| {
        SettingsError(format!(
            "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL (http/protobuf) or \
             OTEL_EXPORTER_OTLP_HEADERS cannot be used: {}",
            kind(&error.to_string())
        ))
    })?;
    // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before this.
    let named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty());
    let mut resource = Resource::builder()
        .with_attribute(KeyValue::new("umbel.role", role.as_str()))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())));
    if !named {
        resource = resource.with_service_name(service);
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Told { inner: exporter, silent_until: None })
        .with_id_generator(Ids)
        .with_resource(resource.build())
        .build();
    let tracer = provider.tracer("umbel");
    trace::install(Otel(tracer.clone()));
    Ok(Some((Collector(provider), tracer)))
}

/// An address may hold a secret, and the library repeats it.
fn kind(error: &str) -> &str {
    error.split([':', '(']).next().unwrap_or_default()
}

impl Collector {
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_LIMIT) {
            warn!(error = kind(&error.to_string()), "the last spans could not be sent");
        }
    }
}

/// Sends spans, and says when they cannot be sent: once a minute, since a collector that is away is
/// away for every batch.
#[derive(Debug)]
struct Told {
    inner: SpanExporter,
    silent_until: Option<std::sync::Mutex<SystemTime>>,
}

const TELL_EVERY: Duration = Duration::from_secs(60);

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        if let Err(error) = &sent {
            metrics::counter!(super::names::SPANS_LOST).increment(spans as u64);
            self.tell(error, spans);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.silent_until = Some(std::sync::Mutex::new(SystemTime::UNIX_EPOCH));
        self.inner.set_resource(resource);
    }
}

impl Told {
    fn tell(&self, error: &OTelSdkError, spans: usize) {
        let now = SystemTime::now();
        if let Some(until) = &self.silent_until {
            let mut until = until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if now < *until {
                return;
            }
            *until = now + TELL_EVERY;
        }
        warn!(
            error = kind(&error.to_string()),
            spans, "spans are lost: OTEL_EXPORTER_OTLP_ENDPOINT does not take them"
        );
    }
}

thread_local! {
    /// The id of the span that this thread makes next, where it must be one that another process
    /// can find by itself.
    static NEXT: Cell<Option<SpanId>> = const { Cell::new(None) };
}

#[derive(Debug)]
struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        RandomIdGenerator::default().new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.take().unwrap_or_else(|| RandomIdGenerator::default().new_span_id())
    }
}

/// The span that says of an attempt that another one follows. Both know its id without a word between
/// them: what is sealed into a task never changes.
fn retry_id(id: &TaskId, attempt: u32) -> SpanId {
    let name = format!("retry/{id}/{attempt}");
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
    SpanId::from_bytes(hash.as_u64_pair().0.to_be_bytes())
}

/// Reads a `traceparent` of W3C; of a newer version its known part.
fn parsed(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let known =
        is_hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !known || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & TraceFlags::SAMPLED.to_u8()),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

fn written(context: &SpanContext) -> Option<String> {
    context.is_valid().then(|| {
        let flags = context.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
    })
}

/// What `tracing` alone cannot say of a trace.
struct Otel(SdkTracer);

impl Traces for Otel {
    fn current(&self) -> Option<String> {
        written(Context::current().span().span_context())
    }

    fn follow(&self, span: &Span, parent: &str) {
        if let Some(parent) = parsed(parent) {
            follow(span, parent);
        }
    }

    fn run(&self, span: &Span, run: &Run<'_>) {
        let Some(parent) = run.parent.and_then(parsed) else { return };
        if run.attempt > 1 {
            span.add_link(SpanContext::new(
                parent.trace_id(),
                retry_id(run.id, run.attempt - 1),
                parent.trace_flags(),
                true,
                TraceState::NONE,
            ));
        }
        if parent.is_sampled() {
            let wait = SpanBuilder::from_name(format!("wait {}", run.task))
                .with_kind(SpanKind::Internal)
                .with_start_time(run.queued.min(run.started))
                .with_attributes([
                    KeyValue::new("messaging.message.id", run.id.to_string()),
                    KeyValue::new("task.attempt", i64::from(run.attempt)),
                ]);
            let at = Context::new().with_remote_span_context(parent.clone());
            let mut wait = self.0.build_with_context(wait, &at);
            opentelemetry::trace::Span::end_with_timestamp(&mut wait, run.started);
        }
        follow(span, parent);
    }

    fn retry(&self, id: &TaskId, attempt: u32, delay: Duration) {
        let here = Context::current();
        if !here.span().span_context().is_sampled() {
            return;
        }
        let now = SystemTime::now();
        let retry = SpanBuilder::from_name("retry").with_start_time(now).with_attributes([
            KeyValue::new("messaging.message.id", id.to_string()),
            KeyValue::new("task.attempt", i64::from(attempt)),
        ]);
        NEXT.set(Some(retry_id(id, attempt)));
        let mut retry = self.0.build_with_context(retry, &here);
        opentelemetry::trace::Span::end_with_timestamp(&mut retry, now + delay);
    }

    fn failed(&self, why: &str) {
        Context::current().span().set_status(Status::error(why.to_owned()));
    }
}

fn follow(span: &Span, parent: SpanContext) {
    // It fails where the span is not wanted, and has no parent to get.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_it_is_written_and_nothing_else_is() {
        assert_eq!(written(&parsed(PARENT).unwrap()).unwrap(), PARENT);
        assert!(!parsed(&PARENT.replace("-01", "-00")).unwrap().is_sampled());
        assert!(parsed(&PARENT.replace("-01", "-03")).unwrap().is_sampled());
        // A newer version may have more parts.
        assert!(parsed(&format!("{}-more", PARENT.replacen("00", "01", 1))).is_some());
        for wrong in [
            "",
            "00",
            "00-x",
            &format!("{PARENT}-more"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.to_uppercase(),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace("4bf9", "4b"),
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_processes_find_the_same_id_for_the_retry_of_an_attempt() {
        let id: TaskId = "default-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap();
        assert_eq!(retry_id(&id, 1), retry_id(&id.clone(), 1));
        assert_ne!(retry_id(&id, 1), retry_id(&id, 2));
        assert_ne!(retry_id(&id, 1), SpanId::INVALID);
    }
}
