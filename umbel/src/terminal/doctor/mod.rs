//! Examines what the house stands on: settings, Redis, Postgres, and who is at work. Every finding names
//! what is wrong and what to do.

mod pooler;
mod postgres;
mod redis;
mod settings;
mod tables;
mod work;

use std::fmt;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{Output, table::plain};
use crate::{Application, settings::Settings};

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// End with 1 on warnings too
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    output: Output,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Fine,
    /// It works, and somebody may be surprised.
    Warning,
    /// Tasks are lost, do not run, or will not.
    Problem,
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Finding {
    level: Level,
    /// Names the check, for programs.
    check: &'static str,
    told: String,
}

impl Finding {
    fn fine(check: &'static str, told: impl Into<String>) -> Self {
        Self { level: Level::Fine, check, told: told.into() }
    }

    fn warning(check: &'static str, told: impl Into<String>) -> Self {
        Self { level: Level::Warning, check, told: told.into() }
    }

    fn problem(check: &'static str, told: impl Into<String>) -> Self {
        Self { level: Level::Problem, check, told: told.into() }
    }
}

/// Ends `doctor` with 1.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    problems: usize,
    warnings: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problems, {} warnings", self.problems, self.warnings)
    }
}

impl std::error::Error for Found {}

pub(super) async fn run<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
    args: &DoctorArgs,
) -> anyhow::Result<()> {
    let mut findings = settings::examine(application, settings);
    let (of_redis, client) = redis::examine(settings).await;
    findings.extend(of_redis);
    if let Some(client) = client {
        findings.extend(work::examine(&client).await);
    }
    let has_tables = !application.migrations.is_empty();
    let (of_postgres, way) = postgres::examine(settings, has_tables).await;
    findings.extend(of_postgres);
    // Where it cannot be reached, that is enough to know.
    if let (true, Some(_), Ok(Some(store))) = (has_tables, way, settings.database.store_direct()) {
        findings.extend(tables::examine(&store, application.name, application.migrations).await);
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let found = Found { problems: count(Level::Problem), warnings: count(Level::Warning) };
    let shown = json!({
        "problems": found.problems,
        "warnings": found.warnings,
        "postgres_way": way,
        "findings": findings,
    });
    args.output.print(&shown, || text(&findings, &found))?;
    let is_bad = found.problems > 0 || args.strict && found.warnings > 0;
    if is_bad { Err(found.into()) } else { Ok(()) }
}

/// The worst last, where it is seen.
fn text(findings: &[Finding], found: &Found) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.level);
    let mut text = String::new();
    for Finding { level, check, told } in sorted {
        let mark = match level {
            Level::Fine => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        text.push_str(&format!("{mark:<8} {check:<18} {}\n", plain(told)));
    }
    if found.problems + found.warnings == 0 {
        text.push_str("all is well\n");
    }
    text
}
