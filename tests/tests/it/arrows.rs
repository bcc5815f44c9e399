//! The house is as docs/ARCHITECTURE.md draws it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A row of the table: what a crate may import of ours, and what it never imports.
#[derive(Debug)]
struct Row {
    imports: BTreeSet<String>,
    never: BTreeSet<String>,
}

fn words(cell: &str) -> BTreeSet<String> {
    cell.split_whitespace().filter(|word| *word != "–").map(str::to_owned).collect()
}

fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| `umbel")?.split('|').collect();
            let [name, _, imports, never, ..] = cells.as_slice() else { return None };
            let name = format!("umbel{}", name.trim().trim_end_matches('`'));
            Some((name, Row { imports: words(imports), never: words(never) }))
        })
        .collect()
}

/// What each crate of the workspace depends on outside of its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap().iter();
            let real = all.filter(|dependency| dependency["kind"] != "dev");
            (text(&package["name"]), real.map(|d| text(&d["name"])).collect())
        })
        .collect()
}

#[test]
fn every_crate_imports_only_what_the_table_allows() {
    let (table, dependencies) = (table(), dependencies());
    let drawn: BTreeSet<&String> = table.keys().collect();
    let built: BTreeSet<&String> = dependencies.keys().collect();
    assert_eq!(drawn, built, "the table and the workspace have the same crates");
    for (name, found) in &dependencies {
        let row = &table[name];
        let ours: BTreeSet<String> =
            found.iter().filter(|name| name.starts_with("umbel")).cloned().collect();
        let forbidden: Vec<_> = ours.difference(&row.imports).collect();
        assert!(forbidden.is_empty(), "{name} may not import {forbidden:?}");
        let never: Vec<_> = found.intersection(&row.never).collect();
        assert!(never.is_empty(), "{name} may never import {never:?}");
    }
}

#[test]
fn the_arrows_of_the_table_point_upwards() {
    let table = table();
    let rows: [&[&str]; 7] = [
        &["umbel-proto"],
        &["umbel-broker", "umbel-store"],
        &["umbel-worker", "umbel-beat", "umbel-api"],
        &["umbel"],
        &["umbel-tasks", "umbel-greeter"],
        &["umbel-supervisor"],
        &["umbel-tests"],
    ];
    let level = |name: &str| rows.iter().position(|row| row.contains(&name));
    for (name, row) in &table {
        // The benchmark stands on the harness of the tests, below all else.
        let own = level(name).unwrap_or(rows.len());
        for import in &row.imports {
            assert!(level(import).unwrap() < own, "{name} imports {import}, which is not above it");
        }
    }
}

#[test]
fn unsafe_code_is_denied_and_excepted_in_one_file_at_most() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains(r#"unsafe_code = "deny""#));
    let mut exceptions = Vec::new();
    for name in [
        "proto",
        "broker",
        "store",
        "worker",
        "beat",
        "api",
        "umbel",
        "tasks",
        "supervisor",
        "examples",
        "tests",
        "bench",
    ] {
        let manifest = root().join(name).join("Cargo.toml");
        if manifest.exists() {
            let text = fs::read_to_string(&manifest).unwrap();
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{} takes the lints",
                manifest.display()
            );
        }
        sources(&root().join(name), &mut |path, text| {
            // Written in two parts, so that this line is not one of them.
            if text.contains(concat!("unsafe", "_code")) {
                exceptions.push(path.to_owned());
            }
        });
    }
    // This file names the lint above.
    exceptions.retain(|path| !path.ends_with("it/arrows.rs"));
    assert!(exceptions.len() <= 1, "{exceptions:?}");
}

fn sources(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, see);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            see(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

/// Where the two safe forms of a statement are made, of fixed text and one literal.
const STATEMENTS: [&str; 2] = ["store/src/session.rs", "store/src/statement.rs"];

#[test]
fn no_sql_is_put_together_but_in_the_one_place_for_it() {
    let starts = ["select ", "insert into ", "update ", "delete from ", "with ", "set local "];
    let mut looked_at = 0;
    for name in
        ["store", "umbel", "tasks", "api", "worker", "beat", "broker", "proto", "supervisor"]
    {
        sources(&root().join(name).join("src"), &mut |path, text| {
            looked_at += 1;
            if STATEMENTS.iter().any(|place| path.ends_with(place)) {
                return;
            }
            // `Db` takes no text but such as lives for ever: these two would make some.
            for around in ["AssertSqlSafe", "leak("] {
                assert!(!text.contains(around), "{}: {around}", path.display());
            }
            for made in text.split("format!(").skip(1) {
                let made = made.trim_start().trim_start_matches('"').trim_start().to_lowercase();
                let is_sql = starts.iter().any(|start| made.starts_with(start));
                assert!(!is_sql, "{}: format!({made:.60}", path.display());
            }
        });
    }
    assert!(looked_at > 100, "{looked_at}");
}

#[test]
fn the_smallest_application_does_not_carry_the_scraper() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "umbel-greeter",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(packages.contains("umbel-broker"), "{tree}");
    for absent in ["umbel-tasks", "lol_html", "openssl", "native-tls", "aws-lc-rs", "tonic"] {
        assert!(!packages.contains(absent), "{absent} in {tree}");
    }
}
