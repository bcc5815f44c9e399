//! Whether the settings fit together, and each other's meaning.

use std::time::Duration;

use super::Finding;
use crate::{
    Application, Env,
    settings::{Settings, unknown},
};

pub(super) fn examine<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
) -> Vec<Finding> {
    let has_tables = !application.migrations.is_empty();
    let mut findings = vec![match settings.check_all(application.name, has_tables) {
        Ok(()) => Finding::fine("settings", "they can be used together"),
        Err(error) => Finding::problem("settings", error.to_string()),
    }];
    findings.extend(unknown(application));
    match (application.registry)() {
        Ok(registry) => {
            let longest = registry
                .catalog()
                .iter()
                .map(|entry| (entry.options.time_limit, entry.name.to_string()))
                .max();
            findings.extend(longest.map(|(limit, task)| grace(settings.grace, limit, &task)));
        }
        Err(error) => findings.push(Finding::problem("registry", error.to_string())),
    }
    if let Err(error) = (application.timetable)(&Env::of_process()) {
        findings.push(Finding::problem("timetable", format!("{error:#}")));
    }
    if let Ok(Some(store)) = settings.database.store() {
        findings.push(concurrency(settings.concurrency(), store.max_connections));
    }
    findings
}

fn unknown<S>(application: &Application<S>) -> Vec<Finding> {
    unknown::unknown(&Env::of_process(), application.settings)
        .iter()
        .map(|unknown| Finding::warning("unknown-setting", unknown.to_string()))
        .collect()
}

fn grace(grace: Duration, limit: Duration, task: &str) -> Finding {
    if grace >= limit {
        return Finding::fine("grace", format!("GRACE ({grace:?}) is as long as any task may run"));
    }
    Finding::warning(
        "grace",
        format!(
            "GRACE ({grace:?}) is shorter than `{task}` may run ({limit:?}): one that still runs when \
             a worker is asked to stop is given back and begins again elsewhere; set GRACE, and what \
             the platform waits before it kills, to as much, or keep such tasks short"
        ),
    )
}

fn concurrency(concurrency: usize, connections: u32) -> Finding {
    let enough = u32::try_from(concurrency).is_ok_and(|tasks| tasks <= connections);
    if enough {
        return Finding::fine(
            "concurrency",
            "every task that runs may have a connection to postgres",
        );
    }
    Finding::warning(
        "concurrency",
        format!(
            "CONCURRENCY ({concurrency}) is above DATABASE_MAX_CONNECTIONS ({connections}): tasks \
             that all ask the database wait for each other; lower the one or raise the other"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_task_that_may_run_longer_than_a_stop_waits_is_named() {
        let (short, long) = (Duration::from_secs(25), Duration::from_secs(600));
        assert_eq!(grace(long, long, "a").level, Level::Fine);
        let found = grace(short, long, "pages.scrape");
        assert!(found.level == Level::Warning && found.told.contains("pages.scrape"), "{found:?}");
        assert_eq!(concurrency(8, 8).level, Level::Fine);
        assert_eq!(concurrency(9, 8).level, Level::Warning);
    }
}
