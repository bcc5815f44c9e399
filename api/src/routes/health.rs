//! `/livez` and `/readyz`: whether the process lives, and whether it can serve.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode};
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use tokio::sync::Mutex;
use tracing::{info, warn};
use umbel_broker::Client;
use utoipa::ToSchema;

/// Something that must work for the process to serve well.
#[derive(Clone)]
pub struct ReadinessCheck {
    /// Shown to everybody.
    pub name: &'static str,
    /// Whether the process is of no use while this fails. A critical check that fails answers 503,
    /// on which a platform restarts the container: a database that is away for a moment is better
    /// left uncritical.
    pub critical: bool,
    /// `Err` says why, for the log alone. What takes longer than a second has failed.
    pub check: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl fmt::Debug for ReadinessCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadinessCheck")
            .field("name", &self.name)
            .field("critical", &self.critical)
            .finish_non_exhaustive()
    }
}

/// Whether the process can serve.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Report {
    status: Status,
    checks: Vec<CheckReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Readiness)]
pub(crate) enum Status {
    /// Everything works.
    Ready,
    /// Something fails without which most things work.
    Degraded,
    /// Nothing useful works.
    Unavailable,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CheckReport {
    name: &'static str,
    ok: bool,
}

/// Platforms give a health check some five seconds.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a report holds, so that many askers do not become load on Redis.
const REPORT_HOLDS: Duration = Duration::from_secs(1);

/// The checks, and their last report.
pub(crate) struct Readiness {
    checks: Vec<ReadinessCheck>,
    last: Mutex<Option<(Instant, Report)>>,
}

impl Readiness {
    pub fn new(checks: Vec<ReadinessCheck>) -> Self {
        Self { checks, last: Mutex::new(None) }
    }

    /// The report, at most [`REPORT_HOLDS`] old. Those who ask at once wait for one round.
    async fn report(&self, now: Instant) -> Report {
        let mut last = self.last.lock().await;
        if let Some((made, report)) = &*last
            && now.saturating_duration_since(*made) < REPORT_HOLDS
        {
            return report.clone();
        }
        let before = last.as_ref().map(|(_, report)| report.checks.clone()).unwrap_or_default();
        let outcomes = join_all(self.checks.iter().map(run)).await;
        let mut report = Report { status: Status::Ready, checks: Vec::new() };
        for (at, (check, outcome)) in self.checks.iter().zip(outcomes).enumerate() {
            let was_ok = before.get(at).is_none_or(|check| check.ok);
            log_change(check, was_ok, &outcome);
            let ok = outcome.is_ok();
            report.status = match (ok, check.critical) {
                (true, _) => report.status,
                (false, true) => Status::Unavailable,
                (false, false) if report.status == Status::Ready => Status::Degraded,
                (false, false) => report.status,
            };
            report.checks.push(CheckReport { name: check.name, ok });
        }
        *last = Some((now, report.clone()));
        report
    }
}

/// Whether Redis answers; without it nothing can be enqueued or looked up.
pub(crate) fn broker_check(client: Client) -> ReadinessCheck {
    let check = move || -> BoxFuture<'static, Result<(), String>> {
        let client = client.clone();
        Box::pin(async move { client.ping().await.map_err(|error| error.to_string()) })
    };
    ReadinessCheck { name: "broker", critical: true, check: Arc::new(check) }
}

async fn run(check: &ReadinessCheck) -> Result<(), String> {
    tokio::time::timeout(CHECK_TIMEOUT, (check.check)())
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}")))
}

/// Probes come every few seconds; only what changed is news.
fn log_change(check: &ReadinessCheck, was_ok: bool, outcome: &Result<(), String>) {
    match outcome {
        Err(error) if was_ok => warn!(check = check.name, error, "a readiness check fails"),
        Ok(()) if !was_ok => info!(check = check.name, "a readiness check passes again"),
        _ => {}
    }
}

/// Whether the process lives
#[utoipa::path(get, path = "/livez", tag = "health", security(()),
    responses((status = 200, description = "It does.")))]
pub(crate) async fn livez() -> StatusCode {
    StatusCode::OK
}

/// Whether the process can serve
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "It can, perhaps in part.", body = Report),
        (status = 503, description = "It cannot.", body = Report),
    ))]
pub(crate) async fn readyz(State(readiness): State<Arc<Readiness>>) -> (StatusCode, Json<Report>) {
    let report = readiness.report(Instant::now()).await;
    let status = match report.status {
        Status::Ready | Status::Degraded => StatusCode::OK,
        Status::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(report))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// A check that does as it is told, and counts.
    fn switch(
        name: &'static str,
        critical: bool,
    ) -> (ReadinessCheck, Arc<AtomicBool>, Arc<AtomicUsize>) {
        let (works, runs) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (state, counter) = (works.clone(), runs.clone());
        let check = move || -> BoxFuture<'static, Result<(), String>> {
            counter.fetch_add(1, SeqCst);
            let outcome = if state.load(SeqCst) { Ok(()) } else { Err("secret reason".to_owned()) };
            Box::pin(async { outcome })
        };
        (ReadinessCheck { name, critical, check: Arc::new(check) }, works, runs)
    }

    #[tokio::test]
    async fn an_uncritical_failure_degrades_and_a_critical_one_makes_unavailable() {
        let (broker, broker_works, _) = switch("broker", true);
        let (store, store_works, _) = switch("store", false);
        // Either order must give the same.
        for checks in [vec![broker.clone(), store.clone()], vec![store, broker]] {
            for (broker_ok, store_ok, status, code) in [
                (true, true, Status::Ready, 200),
                (true, false, Status::Degraded, 200),
                (false, true, Status::Unavailable, 503),
                (false, false, Status::Unavailable, 503),
            ] {
                broker_works.store(broker_ok, SeqCst);
                store_works.store(store_ok, SeqCst);
                let readiness = Arc::new(Readiness::new(checks.clone()));
                let (got, Json(report)) = readyz(State(readiness)).await;
                assert_eq!((got.as_u16(), report.status), (code, status));
                assert!(!serde_json::to_string(&report).unwrap().contains("secret"));
            }
        }
    }

    #[tokio::test]
    async fn a_report_holds_for_a_second() {
        let (check, works, runs) = switch("broker", true);
        let readiness = Readiness::new(vec![check]);
        let start = Instant::now();
        assert_eq!(readiness.report(start).await.status, Status::Ready);
        works.store(false, SeqCst);
        let soon = start + REPORT_HOLDS - Duration::from_millis(1);
        assert_eq!(readiness.report(soon).await.status, Status::Ready);
        assert_eq!(readiness.report(start + REPORT_HOLDS).await.status, Status::Unavailable);
        assert_eq!(runs.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn a_check_that_hangs_has_failed() {
        let hang = ReadinessCheck {
            name: "hang",
            critical: true,
            check: Arc::new(|| Box::pin(std::future::pending())),
        };
        let started = Instant::now();
        let report = Readiness::new(vec![hang]).report(started).await;
        assert_eq!(report.status, Status::Unavailable);
        assert!(started.elapsed() < 3 * CHECK_TIMEOUT);
    }
}
