//! The harness keeps its word: servers answer, come back with their data, and outlive nobody.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use umbel_tests::services::{PgBouncer, PostgresServer, RedisServer};

#[test]
fn a_redis_that_was_killed_comes_back_with_its_data() {
    let redis = RedisServer::start();
    let port = redis.port();
    assert_eq!(redis.cli(&["set", "stalk", "green"]), "OK");
    redis.stop();
    redis.restart();
    assert_eq!(redis.cli(&["get", "stalk"]), "green");
    // Written, though perhaps not yet on the disk: only the machine's end could lose it.
    redis.cli(&["set", "stalk", "white"]);
    redis.kill9();
    redis.restart();
    assert_eq!((redis.port(), redis.cli(&["get", "stalk"]).as_str()), (port, "white"));
    assert_eq!(redis.cli(&["config", "get", "maxmemory-policy"]), "maxmemory-policy\nnoeviction");
}

#[test]
fn the_redis_that_runs_is_the_one_that_was_asked_for() {
    let info = RedisServer::start().cli(&["info", "server"]);
    let runs = info.lines().find_map(|line| line.trim().strip_prefix("executable:"));
    let runs = fs::canonicalize(runs.expect("a server tells its program")).expect("it is there");
    match env::var_os("UMBEL_REDIS_BIN") {
        Some(asked) => assert_eq!(runs, fs::canonicalize(asked).expect("it is there")),
        None => assert!(info.contains("redis_version:"), "{info}"),
    }
}

/// Modules that have a Redis and are not about what stands in it: `scripts/test` runs them once.
const ONCE: [&str; 13] = [
    "bombs",
    "deploy",
    "edge",
    "handbook",
    "metrics",
    "proxy",
    "readme",
    "scraper",
    "store",
    "terminal",
    "tls",
    "traces",
    "whole_house",
];

#[test]
fn what_is_about_the_protocol_runs_on_valkey_and_with_users_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file of the tree");
    let script = read(folder.join("../scripts/test"));
    let listed = script.split_once("PROTOCOL=(").and_then(|(_, rest)| rest.split_once(')'));
    let listed: Vec<&str> = listed.expect("the list").0.split_whitespace().collect();
    let modules = read(folder.join("tests/it/main.rs"));
    let modules: Vec<&str> =
        modules.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    for name in listed.iter().chain(&ONCE) {
        assert!(modules.contains(name), "no module `{name}`");
    }
    for name in modules {
        let mut sources = vec![folder.join(format!("tests/it/{name}.rs"))];
        if let Ok(parts) = fs::read_dir(folder.join(format!("tests/it/{name}"))) {
            sources.extend(parts.map(|part| part.expect("a file of the tree").path()));
        }
        let text: String = sources.into_iter().map(read).collect();
        if ["House::start", "RedisServer::start"].iter().any(|way| text.contains(way)) {
            assert!(
                listed.contains(&name) != ONCE.contains(&name),
                "`{name}` has a Redis: put it into PROTOCOL of scripts/test, or here into ONCE"
            );
        }
    }
}

#[test]
fn a_postgres_that_was_killed_comes_back_with_its_data() {
    let server = PostgresServer::start();
    server.sql("create table stalks (colour text); insert into stalks values ('green')");
    server.kill9();
    server.restart();
    assert_eq!(server.sql("select colour from stalks"), "green");
}

#[test]
fn every_test_has_a_database_of_its_own() {
    let (one, other) = (PostgresServer::shared().database(), PostgresServer::shared().database());
    one.sql("create table stalks ()");
    assert_eq!(other.sql("select to_regclass('stalks') is null"), "t");
    let name = one.name().to_owned();
    drop(one);
    let left = other.sql(&format!("select count(*) from pg_database where datname = '{name}'"));
    assert_eq!(left, "0");
}

/// Tells this test that it runs in the process that will be killed.
const VICTIM: &str = "UMBEL_TEST_VICTIM";

#[test]
fn no_server_and_no_folder_outlives_a_killed_process() {
    if env::var_os(VICTIM).is_some() {
        return hold_servers_until_killed();
    }
    let mut victim = Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture"])
        .arg("services::no_server_and_no_folder_outlives_a_killed_process")
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary starts again");
    let ports: Vec<u16> = BufReader::new(victim.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok)
        .find_map(|line| {
            line.split_once("ports ")?.1.split(' ').map(|port| port.parse().ok()).collect()
        })
        .expect("the victim tells its ports");
    let prefix = format!("-{}-", victim.id());
    let folders = || {
        let entries = fs::read_dir(env::temp_dir()).expect("the folder of temporary files");
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter(|name| name.starts_with("umbel-") && name.contains(&prefix))
            .collect::<Vec<_>>()
    };
    let listening = |port: &&u16| TcpStream::connect((Ipv4Addr::LOCALHOST, **port)).is_ok();
    assert_eq!((folders().len(), ports.iter().filter(listening).count()), (3, 3));

    victim.kill().expect("our own child");
    let since = Instant::now();
    while !folders().is_empty() || ports.iter().any(|port| listening(&port)) {
        assert!(since.elapsed() < Duration::from_secs(30), "left: {:?}", folders());
        sleep(Duration::from_millis(10));
    }
    victim.wait().expect("our own child");
}

fn hold_servers_until_killed() {
    let redis = RedisServer::start();
    let postgres = PostgresServer::shared();
    let pooler = PgBouncer::start(postgres, 1);
    println!("ports {} {} {}", redis.port(), postgres.port(), pooler.port());
    // Ends by itself if the parent does.
    std::io::stdin().lines().for_each(drop);
}
