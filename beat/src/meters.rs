//! What a beat counts, and the span of a fire.

use chrono::{DateTime, Utc};
use metrics::{counter, histogram};
use tracing::{Span, info_span};
use umbel_proto::trace;

/// Slots whose task was enqueued, by entry of the timetable.
const FIRED: &str = "umbel_beat_fired_total";

/// Slots that were let go: too old, or their key taken by another task.
const MISSED: &str = "umbel_beat_missed_total";

/// How long after its slot a task was enqueued.
const LATENESS: &str = "umbel_beat_lateness_seconds";

pub(crate) fn fired(entry: &str) {
    counter!(FIRED, "entry" => entry.to_owned()).increment(1);
}

pub(crate) fn late(slot: DateTime<Utc>) {
    histogram!(LATENESS).record((Utc::now() - slot).to_std().unwrap_or_default());
}

pub(crate) fn missed(entry: &str) {
    counter!(MISSED, "entry" => entry.to_owned()).increment(1);
}

pub(crate) fn span(entry: &str, slot: DateTime<Utc>) -> Span {
    info_span!(
        target: trace::TARGET,
        "fire",
        otel.name = %format_args!("fire {entry}"),
        otel.kind = "internal",
        beat.entry = entry,
        beat.slot = %slot.to_rfc3339(),
    )
}
