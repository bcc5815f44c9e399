//! docs/METRICS.md, the dashboard and the alerts name what a live house tells, and nothing else.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::{Town, families};

pub(super) fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The metrics of the tables, each with its conditions.
fn listed() -> Vec<(String, String)> {
    let text = read("docs/METRICS.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, what, _] = cells[..] else { panic!("{row}") };
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{row}");
        assert!(!labels.is_empty() && !what.is_empty(), "{row}");
        (name.trim_matches('`').to_owned(), what.to_owned())
    })
    .collect()
}

fn names() -> BTreeSet<String> {
    listed().into_iter().map(|(name, _)| name).collect()
}

/// Names in an expression, without what Prometheus adds to those of a histogram.
fn named_in(expression: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = expression.split(word);
    let ours = names.filter(|name| name.starts_with("umbel_") || name.starts_with("process_"));
    ours.map(|name| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        base.unwrap_or(name).to_owned()
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_name_each_metric_of_a_live_house_and_no_other() {
    let town = Town::start();
    let (umbel, text) = town.busy().await;
    let told = families(&text);
    let listed = listed();
    let all = names();
    assert_eq!(all.len(), listed.len(), "each is listed once");
    let unlisted: Vec<_> = told.difference(&all).collect();
    assert!(unlisted.is_empty(), "not in docs/METRICS.md: {unlisted:?}");
    // Those that need trouble, or a limit of the machine, say so.
    let missing: Vec<_> = listed
        .iter()
        .filter(|(name, what)| !told.contains(name) && !what.contains("Only "))
        .collect();
    assert!(missing.is_empty(), "in docs/METRICS.md and not told: {missing:?}");
    assert_eq!(umbel.stop().await.code(), Some(0));
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_exist() {
    let names = names();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/umbel.json")).unwrap();
    assert!(dashboard["uid"].is_string() && dashboard["schemaVersion"].as_u64() >= Some(36));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
        assert!(panel["title"].is_string() && panel["type"].is_string(), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            let found = named_in(target["expr"].as_str().unwrap());
            assert!(!found.is_empty(), "{target}");
            asked.extend(found);
        }
    }
    let alerts = read("deploy/prometheus/alerts.yml");
    let found = named_in(&alerts);
    assert!(found.len() >= 10 && asked.len() >= 20, "{found:?} {asked:?}");
    asked.extend(found);
    let unknown: Vec<_> = asked.difference(&names).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(alerts.matches("- alert:").count(), alerts.matches("summary:").count());
}
