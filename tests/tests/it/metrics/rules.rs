//! The alert rules and the dashboard, read by what will read them: promtool, and Grafana's model.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::documents::read;
use crate::deploy::{Folder, checks, run, text};

const RULES: &str = "deploy/prometheus/alerts.yml";
const ALERTS: &str = "tests/alerts.yml";
const DASHBOARD: &str = "deploy/grafana/umbel.json";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn promtool(args: &[&str]) -> Command {
    let mut promtool = Command::new(checks().join("bin/promtool"));
    promtool.args(args).current_dir(root());
    promtool
}

/// What of a dashboard Grafana's model does not know.
fn unknown(file: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/metrics/dashboard.py");
    let mut python = Command::new("python3");
    // It leaves nothing beside the sources.
    python.args(["-B", script]).arg(file).env("PYTHONPATH", checks());
    run(&mut python)
}

#[test]
fn each_alert_fires_when_it_should_and_not_before() {
    run(&mut promtool(&["check", "rules", "--lint=all", "--lint-fatal", RULES]));
    run(&mut promtool(&["test", "rules", ALERTS]));
    let (rules, tried) = (read(RULES), read(ALERTS));
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut count = 0;
    for alert in alerts {
        let quiet = tried.matches(&format!("alertname: {alert} }}")).count();
        let fires = tried.matches(&format!("alertname: {alert}\n        exp_alerts:")).count();
        assert_eq!((quiet, fires), (2, 1), "{alert} in {ALERTS}");
        let told = read("docs/OPERATIONS.md").contains(&format!("`{alert}`"));
        assert!(told, "docs/OPERATIONS.md does not say what to do about {alert}");
        count += 1;
    }
    assert!(count > 10, "{count}");
    // The checker can say no.
    let folder = Folder::new();
    folder.write("rules.yml", &rules.replace("== 0", "== 9"));
    let moved = tried.replace("../deploy/prometheus/alerts.yml", "rules.yml");
    let broken = folder.write("tried.yml", &moved);
    let said = promtool(&["test", "rules", broken.to_str().unwrap()]).output().unwrap();
    assert!(!said.status.success() && text(&said).contains("UmbelRedisDown"), "{}", text(&said));
}

#[test]
fn grafana_and_prometheus_understand_the_whole_dashboard() {
    assert_eq!(unknown(&root().join(DASHBOARD)), "");
    let mut dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut rules = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let asked = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
            rules.push(json!({"record": format!("asked:{}", rules.len()), "expr": asked}));
        }
    }
    assert!(rules.len() > 20, "{rules:?}");
    let folder = Folder::new();
    // JSON is YAML.
    let group = json!({"groups": [{"name": "asked", "rules": rules}]}).to_string();
    let asked = folder.write("asked.yml", &group);
    run(&mut promtool(&["check", "rules", asked.to_str().unwrap()]));

    // Both can say no.
    dashboard["panels"][0]["targets"][0]["exprr"] = json!("up");
    dashboard["panels"][1]["fieldConfig"]["defaults"]["unitt"] = json!("s");
    let wrong = folder.write("dashboard.json", &dashboard.to_string());
    let told = unknown(&wrong);
    assert!(told.contains("exprr") && told.contains("unitt"), "{told}");
    fs::write(&asked, group.replace("max by", "max bye")).unwrap();
    let said = promtool(&["check", "rules", asked.to_str().unwrap()]).output().unwrap();
    assert!(!said.status.success(), "{}", text(&said));
}
