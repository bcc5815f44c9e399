//! The limits that docs/CONFIGURATION.md tells of flags are those that are taken: the lowest and the
//! highest value, and nothing beyond.

use clap::Parser;

use super::{Settings, SettingsError};
use crate::env::{duration, milliseconds};

const LIST: &str = include_str!("../../../docs/CONFIGURATION.md");

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

/// Whether the roles take a value.
fn is_taken(name: &str, value: &str) -> Result<(), String> {
    let flag = format!("--{}={value}", name.to_lowercase().replace('_', "-"));
    let others = [
        "umbel",
        "--redis-url=redis://h:7000",
        "--jwt-secret=0123456789abcdef0123456789abcdef",
        "--database-url=postgres://h/d",
    ];
    let line = others.iter().copied().chain([flag.as_str()]);
    let settings = Line::try_parse_from(line).map_err(|error| error.to_string())?.settings;
    let check = || -> Result<(), SettingsError> {
        settings.database.store()?;
        settings.api("test")?;
        settings.worker()?;
        Ok(())
    };
    check().map_err(|error| error.to_string())
}

/// The values right below the lowest and right above the highest.
fn beyond([lowest, highest]: [&str; 2]) -> Vec<String> {
    if let (Ok(lowest), Ok(highest)) = (lowest.parse::<i64>(), highest.parse::<i64>()) {
        return vec![(lowest - 1).to_string(), (highest + 1).to_string()];
    }
    let [lowest, highest] = [lowest, highest].map(|text| duration(text).expect(text));
    let ms = std::time::Duration::from_millis(1);
    vec![milliseconds(lowest - ms), milliseconds(highest + ms)]
}

#[test]
fn flags_take_what_is_documented_and_nothing_beyond() {
    let mut found = 0;
    // Those of the applications have tests of their own.
    let framework = LIST.split("\n## The scraper").next().unwrap();
    for row in framework.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (name, limits) = (cells[1].trim_matches('`'), cells[5]);
        if !limits.contains("` to `") {
            continue;
        }
        let words: Vec<&str> = limits.split('`').skip(1).step_by(2).take(2).collect();
        let limits: [&str; 2] = words.try_into().unwrap();
        for value in limits {
            assert_eq!(is_taken(name, value), Ok(()), "{name}={value}");
        }
        for value in beyond(limits) {
            assert!(is_taken(name, &value).is_err(), "{name}={value} is taken");
        }
        found += 1;
    }
    assert!(found >= 10, "{found}");
}
