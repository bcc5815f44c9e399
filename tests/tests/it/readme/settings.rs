//! docs/CONFIGURATION.md is whole and true: held against the sources, against what the program says
//! itself (`umbel config`, `umbel help`), and against what it takes.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use umbel::Env;
use umbel_tasks::{Settings, timetable};
use umbel_tests::process::Launch;

use super::{read, root};

const LIST: &str = "docs/CONFIGURATION.md";

/// A line of one of its tables.
struct Row {
    line: String,
    name: String,
    /// As it would be set, where there is one.
    default: Option<String>,
    /// The lowest and the highest value.
    limits: Option<[String; 2]>,
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of all tables of settings.
fn rows() -> Vec<Row> {
    let text = read(LIST);
    let tables = text.split("| setting | what | unit | default | limits |\n").skip(1);
    let lines = tables.flat_map(|table| table.lines().skip(1).take_while(|l| l.starts_with('|')));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, what, unit, default, limits, _] = cells[..] else { panic!("{line}") };
        assert!(!what.is_empty() && !unit.is_empty() && !default.is_empty(), "{line}");
        let default =
            Some(quoted(default)).filter(|words| default == format!("`{}`", words.concat()));
        let limits = limits.contains("` to `").then(|| quoted(limits).try_into().unwrap());
        Row {
            line: line.to_owned(),
            name: quoted(name).concat(),
            default: default.map(|words| words.concat()),
            limits,
        }
    };
    lines.map(row).collect()
}

/// Read by the library that sends traces; `traces` tries them.
const OF_TRACES: [&str; 3] =
    ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_RESOURCE_ATTRIBUTES"];

/// What the sources say that is read from the environment.
fn read_by_the_code(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_by_the_code(&path, names);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let ways = [
            "env = \"",
            "env.get(\"",
            "env::var(\"",
            "env::var_os(\"",
            "parse_or(\"",
            "duration_or(\"",
        ];
        for reads in ways {
            let found = code.split(reads).skip(1).map(|rest| rest.split('"').next().unwrap());
            names.extend(found.map(str::to_owned));
        }
    }
}

#[test]
fn every_setting_is_listed_and_no_other() {
    let mut names = BTreeSet::new();
    for folder in ["umbel/src", "tasks/src"] {
        read_by_the_code(&root().join(folder), &mut names);
    }
    assert!(names.contains("REDIS_URL") && names.contains("SITE_EVERY"), "{names:?}");
    // Of the system, to find programs in.
    names.remove("PATH");
    names.extend(OF_TRACES.map(str::to_owned));
    let rows = rows();
    let listed: BTreeSet<String> = rows.iter().map(|row| row.name.clone()).collect();
    assert_eq!(listed, names);
    assert_eq!(listed.len(), rows.len(), "each is listed once");
    // And the program says so.
    let told: BTreeSet<String> = config().iter().map(|one| text(one, "name")).collect();
    assert_eq!(listed, told);
}

/// What `umbel config` says where nothing is set.
fn config() -> Vec<Value> {
    serde_json::from_slice(&Launch::new("umbel", &["config", "--json"]).output().stdout).unwrap()
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_else(|| panic!("no {field} in {object}")).to_owned()
}

#[test]
fn what_the_code_declares_is_documented_word_for_word() {
    let rows = rows();
    let mut found = 0;
    for one in config().iter().filter(|one| one.get("unit").is_some()) {
        let [name, what, unit, default, limits] =
            ["name", "what", "unit", "default", "limits"].map(|field| text(one, field));
        let line = format!("| `{name}` | {what} | {unit} | {default} | {limits} |");
        let row = rows.iter().find(|row| row.name == name).expect(&name);
        assert_eq!(row.line, line.replace("|  |", "| |"));
        found += 1;
    }
    assert!(found >= 20, "{found}");
}

#[test]
fn values_that_nobody_sets_are_the_documented_defaults() {
    let mut found = 0;
    for one in config() {
        let (name, value) = (text(&one, "name"), one["value"].as_str());
        let row = rows().into_iter().find(|row| row.name == name).expect(&name);
        if let Some(default) = row.default {
            assert_eq!(value, Some(default.as_str()), "{name}");
            assert_eq!(one["source"], "default", "{name}");
            found += 1;
        }
    }
    assert!(found >= 30, "{found}");
}

#[test]
fn the_defaults_of_the_framework_are_those_of_its_help() {
    let text = String::from_utf8(Launch::new("umbel", &["help", "dev"]).output().stdout).unwrap();
    let mut found = 0;
    for row in rows() {
        // In brackets, with the value that is set now: `[env: PORT=8000]`.
        let Some((_, rest)) = text.split_once(&format!("[env: {}=", row.name)) else { continue };
        let default = rest.split("[env: ").next().unwrap().split_once("[default: ");
        let default = default.map(|(_, rest)| rest.split(']').next().unwrap().to_owned());
        assert_eq!(row.default, default, "{}", row.name);
        found += 1;
    }
    assert!(found >= 15, "{found}");
}

#[test]
fn the_defaults_of_the_scraper_change_nothing_and_its_limits_are_taken() {
    let settings = |name: &str, value: &str| {
        let env = Env::from_iter([(name, value)]);
        let sweeps = timetable(&env).unwrap().entries()[0].schedule.to_string();
        (Settings::read(&env).unwrap(), sweeps)
    };
    let unset = settings("NOTHING", "");
    let (mut defaults, mut limits) = (0, 0);
    for Row { name, default, limits: bounds, .. } in rows() {
        if !["SCRAPE_", "SITE_", "SWEEP_"].iter().any(|start| name.starts_with(start)) {
            continue;
        }
        if let Some(default) = default {
            assert_eq!(settings(&name, &default), unset, "{name}={default}");
            defaults += 1;
        }
        for bound in bounds.into_iter().flatten() {
            assert_ne!(settings(&name, &bound), unset, "{name}={bound}");
            limits += 1;
        }
    }
    assert_eq!((defaults, limits), (7, 12));
}

#[test]
fn the_oldest_postgres_is_named() {
    // `nulls not distinct` is what needs it.
    for document in ["README.md", "deploy/README.md"] {
        assert!(read(document).contains("Postgres 15"), "{document}");
    }
}
