//! What is counted of Postgres, and the spans of what it is asked. A span names the operation, never
//! the statement or its parameters.

use std::{
    future::Future,
    sync::LazyLock,
    time::{Duration, Instant},
};

use metrics::{Histogram, counter, histogram};
use tracing::{Instrument, info_span};
use umbel_proto::trace;

use crate::StoreError;

/// How long statements took, their wait for a connection not counted.
const STATEMENT_SECONDS: &str = "umbel_postgres_statement_seconds";

/// How long calls waited for a connection of the pool.
const ACQUIRE_SECONDS: &str = "umbel_postgres_acquire_seconds";

/// Calls that failed.
const ERRORS: &str = "umbel_postgres_errors_total";

static STATEMENTS: LazyLock<Histogram> = LazyLock::new(|| histogram!(STATEMENT_SECONDS));
static ACQUIRES: LazyLock<Histogram> = LazyLock::new(|| histogram!(ACQUIRE_SECONDS));

pub(crate) fn acquired(took: Duration) {
    ACQUIRES.record(took);
}

/// Runs one statement that is `sql`, in a span of its own.
pub(crate) async fn statement<T>(
    sql: &str,
    run: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let operation = operation(sql);
    let span = info_span!(
        target: trace::TARGET,
        "statement",
        otel.name = operation,
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = operation,
    );
    async {
        let began = Instant::now();
        let ended = run.await;
        STATEMENTS.record(began.elapsed());
        if let Err(error) = &ended {
            failed(error);
        }
        ended
    }
    .instrument(span)
    .await
}

/// Runs a transaction, in a span of its own.
pub(crate) async fn transaction<T, E>(run: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let span = info_span!(
        target: trace::TARGET,
        "transaction",
        otel.name = "db.transaction",
        otel.kind = "internal",
        db.system.name = "postgresql",
    );
    async {
        let ended = run.await;
        if ended.is_err() {
            trace::failed("rolled back");
        }
        ended
    }
    .instrument(span)
    .await
}

pub(crate) fn failed(error: &StoreError) {
    counter!(ERRORS, "kind" => error.kind()).increment(1);
    trace::failed(error.kind());
}

/// The verb of a statement; that of a `with` is the last one at its outermost level.
fn operation(sql: &str) -> &'static str {
    const VERBS: [&str; 8] =
        ["select", "insert", "update", "delete", "merge", "begin", "commit", "rollback"];
    let verb = |word: &str| VERBS.into_iter().find(|verb| word.eq_ignore_ascii_case(verb));
    let mut depth = 0_u32;
    let mut word_from = None;
    for (at, c) in sql.char_indices().chain([(sql.len(), ' ')]) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word_from = word_from.or(Some(at));
            continue;
        }
        if let Some(from) = word_from.take()
            && depth == 0
            && let Some(verb) = verb(&sql[from..at])
        {
            return verb;
        }
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    "other"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_is_the_verb_at_the_outermost_level() {
        for (sql, verb) in [
            ("select 1", "select"),
            ("  INSERT into pages select 1", "insert"),
            ("with p as materialized (select {params} as j) delete from pages using p", "delete"),
            (
                "with a as (select (1)), b as (update x set y = 1 returning z) insert into q",
                "insert",
            ),
            ("begin; set local statement_timeout = 1", "begin"),
            ("commit", "commit"),
            ("create table t (a int)", "other"),
            ("", "other"),
            ("ä", "other"),
        ] {
            assert_eq!(operation(sql), verb, "{sql}");
        }
    }
}
