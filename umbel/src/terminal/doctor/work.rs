//! Whether somebody is there for the work that waits.

use std::collections::BTreeSet;

use chrono::Utc;
use umbel_broker::{BrokerError, Client};

use super::Finding;
use crate::terminal::inspect::is_silent;

/// Only says what is wrong: a house in which nothing runs yet is fine.
pub(super) async fn examine(client: &Client) -> Vec<Finding> {
    match look(client).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::problem("work", error.to_string())],
    }
}

async fn look(client: &Client) -> Result<Vec<Finding>, BrokerError> {
    let now = Utc::now();
    let mut findings = Vec::new();
    let workers = client.living_workers().await?;
    let (silent, alive): (Vec<_>, Vec<_>) =
        workers.iter().partition(|worker| is_silent(worker, now));
    for worker in silent {
        let told = format!(
            "worker {} has said nothing for a while, and nobody has declared it dead",
            worker.id
        );
        findings.push(Finding::warning("silent-worker", told));
    }
    let versions: BTreeSet<&str> =
        alive.iter().map(|worker| worker.info.version.as_str()).collect();
    if versions.len() > 1 {
        let versions: Vec<&str> = versions.into_iter().collect();
        let told = format!("workers of several releases are at work: {}", versions.join(", "));
        findings.push(Finding::warning("versions", told));
    }
    for queue in client.queues().await? {
        let waiting = queue.queued + queue.delayed + queue.parked;
        let served = alive
            .iter()
            .any(|worker| worker.info.queues.iter().any(|name| name == queue.name.as_str()));
        if waiting > 0 && !served {
            let told = format!(
                "{waiting} tasks wait in queue {}, which no live worker serves",
                queue.name
            );
            findings.push(Finding::problem("unserved-queue", told));
        }
        if let Some(pause) = &queue.paused {
            let told = format!("queue {} is paused by {}: {}", queue.name, pause.by, pause.why);
            findings.push(Finding::warning("paused-queue", told));
        }
        if queue.dead > 0 {
            let told = format!(
                "{} tasks of queue {} have failed for good: `inspect dead`",
                queue.dead, queue.name
            );
            findings.push(Finding::warning("dead-letters", told));
        }
    }
    for schedule in client.schedules(now).await?.iter().filter(|schedule| !schedule.live) {
        let told = format!("schedule {} is in no timetable, or no beat runs", schedule.entry.name);
        findings.push(Finding::warning("schedule", told));
    }
    Ok(findings)
}
