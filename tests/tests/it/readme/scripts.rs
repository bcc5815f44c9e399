//! The scripts that the README names do what it says.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use umbel_tests::{
    eventually::eventually,
    process::{binary, children, is_alive},
    services::{PostgresServer, RedisServer},
};

use super::{read, root, said};

/// A folder with one program of a few lines of shell; gone when dropped.
struct Program {
    folder: PathBuf,
    path: PathBuf,
}

impl Program {
    fn new(name: &str, lines: &str) -> Self {
        let folder = env::temp_dir().join(format!("umbel-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, path }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A test that failed has other worries.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Measures at once what is at work: this is about the script, not about the figure.
fn idle_memory(binary: &Path, first_in_path: &Path) -> Output {
    let path = format!("{}:{}", first_in_path.display(), env::var("PATH").unwrap());
    Command::new(root().join("scripts/idle-memory"))
        .arg(binary)
        .envs([("SETTLE", "0"), ("PATH", &*path)])
        // Of somebody's shell; not for what is measured.
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .output()
        .unwrap()
}

#[test]
fn the_memory_of_an_idle_house_is_that_of_its_four_processes() {
    // Not every machine has it, and nothing installs it.
    let absent = Program::new("pgrep", "exit 127");
    let output = idle_memory(&binary("umbel"), &absent.folder);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let all: f64 =
        lines.pop().unwrap().trim().strip_suffix(" MB   in all").unwrap().parse().unwrap();
    let (mut roles, mut sum) = (Vec::new(), 0.0);
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kib, "KiB", "umbel", role] = words[..] else { panic!("{text}") };
        roles.push(role);
        sum += kib.parse::<f64>().unwrap() * 1024.0 / 1e6;
    }
    roles.sort_unstable();
    assert_eq!(roles, ["api", "beat", "up", "worker"]);
    assert!((all - sum).abs() < 0.1, "{text}");
}

#[test]
fn another_number_of_processes_is_another_figure_and_refused() {
    let alone = Program::new("umbel", "echo listening; echo worker is ready; exec sleep 1000");
    let output = idle_memory(&alone.path, &alone.folder);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("expected one each of api, beat, up and worker"), "{text}");
}

/// Where everybody can make files, a known name can be somebody's link to anything.
#[test]
fn no_script_opens_a_file_where_everybody_can_make_one() {
    for entry in fs::read_dir(root().join("scripts")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let script = read(&format!("scripts/{name}"));
        for folder in ["/tmp/", "/run/lock/", "/dev/shm/"] {
            assert!(!script.contains(folder), "scripts/{name}: {folder}");
        }
    }
}

/// The first of its two commands, in its two forms; the second is what runs this test.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_scrapes_every_page_and_leaves_nothing_running() {
    let text = demo(&[]).await;
    assert!(!text.contains("ScraperAPI"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_scrapes_every_page_through_scraperapi_where_it_is_told_to() {
    let text = demo(&["--scraperapi"]).await;
    let between = |text: &str, before: &str, after: &str| -> u64 {
        let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("{before} in {text}"));
        rest.split(after).next().unwrap().parse().unwrap()
    };
    let pages = between(&text, "all pages scraped: ", " succeeded");
    assert_eq!(between(&text, "through ScraperAPI today: ", " requests for "), pages);
    assert_eq!(between(&text, " requests for ", " credits"), pages);
}

/// Runs the demo to its end, and tells what it said.
async fn demo(args: &[&str]) -> String {
    // What somebody's shell may know: the demo must not touch it.
    let (redis, database) = (RedisServer::start(), PostgresServer::shared().database());
    let data = env::temp_dir().join(format!("umbel-demo-{}", uuid::Uuid::new_v4().simple()));
    let demo = Command::new(root().join("scripts/dev"))
        .arg("--once")
        .args(args)
        .env("SCRAPERAPI_KEY", "somebody's own")
        .env("SCRAPERAPI_URL", "http://127.0.0.1:1/")
        .env("UMBEL_DATA", &data)
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", database.url())
        .env("DATABASE_DIRECT_URL", database.url())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = demo.id();
    let watched = tokio::spawn(async move {
        // What it started, seen while it ran.
        let mut seen = Vec::new();
        while is_alive(pid) {
            for child in children(pid) {
                if !seen.contains(&child) {
                    seen.push(child);
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        seen
    });
    let output = tokio::task::spawn_blocking(move || demo.wait_with_output().unwrap());
    let output = output.await.unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let line = text.lines().find(|line| line.starts_with("all pages scraped: ")).unwrap();
    assert!(line.contains(" 0 failed "), "{line}");
    for place in ["/docs", "redis-cli", "psql"] {
        assert!(text.contains(place), "{place} in {text}");
    }
    let started = watched.await.unwrap();
    assert!(!started.is_empty());
    eventually("nothing is left running", async || {
        (!started.iter().any(|pid| is_alive(*pid))).then_some(())
    })
    .await;
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
    assert_eq!(database.sql("select count(*) from pg_stat_user_tables"), "0");
    fs::remove_dir_all(data).unwrap();
    text
}
