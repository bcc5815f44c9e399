//! Where a trace goes on: the words that the crates of the house share about it.
//!
//! Spans for a trace are made with `tracing`, under [`TARGET`], which no log shows. Who writes traces
//! [`install`]s how a trace is named and taken up again; without that nothing here costs more than a
//! look.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use tracing::Span;

use crate::{TaskId, TaskName};

/// The target of spans that are for traces alone.
pub const TARGET: &str = "umbel_trace";

/// What a handler of traces does for those who have only `tracing`.
pub trait Traces: Send + Sync + 'static {
    /// The span that runs now, as a `traceparent` of W3C.
    fn current(&self) -> Option<String>;

    /// Makes a span that has not begun a child of another process' one. What is no `traceparent`
    /// begins a trace of its own.
    fn follow(&self, span: &Span, parent: &str);

    /// Makes a span that has not begun the run of a task: below whoever enqueued it, with its wait
    /// in the queue beside it and a link to the run that failed before.
    fn run(&self, span: &Span, run: &Run<'_>);

    /// Says, inside of a run, that another one follows after a wait; that one will link to this.
    fn retry(&self, id: &TaskId, attempt: u32, delay: Duration);

    /// Says that what the span that runs now did has failed.
    fn failed(&self, why: &str);
}

/// A run of a task, for its trace.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Of whoever enqueued it; `None`: nobody had a trace.
    pub parent: Option<&'a str>,
    pub id: &'a TaskId,
    pub task: &'a TaskName,
    pub attempt: u32,
    /// Since when it has waited in its queue.
    pub queued: SystemTime,
    pub started: SystemTime,
}

static TRACES: OnceLock<Box<dyn Traces>> = OnceLock::new();

/// Takes the one handler of this process. Whether it was the first.
pub fn install(traces: impl Traces) -> bool {
    TRACES.set(Box::new(traces)).is_ok()
}

/// The handler, where traces are written.
pub fn traces() -> Option<&'static dyn Traces> {
    TRACES.get().map(|traces| &**traces)
}

/// The span that runs now, as a `traceparent` of W3C; `None` where no trace is written.
pub fn current() -> Option<String> {
    traces()?.current()
}

/// Says that what the span that runs now did has failed. `why` is a word or two, never what a caller
/// or another host chose.
pub fn failed(why: &str) {
    if let Some(traces) = traces() {
        traces.failed(why);
    }
}
