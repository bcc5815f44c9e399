//! `doctor` names what is wrong, and nothing where nothing is: each on real servers with real settings.

use serde_json::Value;
use umbel_broker::{BrokerSettings, Client};
use umbel_tests::{
    chaos::shim::Shim,
    process::Launch,
    services::{PgBouncer, PostgresServer, RedisServer},
};

use super::text;

const MEMORY: [&str; 2] = ["--maxmemory", "100mb"];

fn redis(options: &[&str]) -> RedisServer {
    RedisServer::start_with(&[], &[&MEMORY[..], options].concat())
}

/// All that is set as it should be; a test sets one thing otherwise.
fn well(redis: &RedisServer) -> Launch {
    let database = PostgresServer::shared().url();
    Launch::new("umbel-probe", &["doctor", "--json"])
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", database)
        .env("DATABASE_MAX_CONNECTIONS", 10)
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("GRACE", "10m")
}

fn findings(launch: &Launch) -> (Option<i32>, Vec<(String, String, String)>) {
    let output = launch.output();
    let printed = text(&output.stdout);
    let value: Value = serde_json::from_str(&printed)
        .unwrap_or_else(|error| panic!("{error}: {printed}{}", text(&output.stderr)));
    let rows = value["findings"].as_array().unwrap().iter();
    let part = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = rows.map(|row| (part(row, "level"), part(row, "check"), part(row, "told")));
    (output.status.code(), rows.filter(|(level, ..)| level != "fine").collect())
}

/// It names this and nothing else.
fn names(launch: &Launch, level: &str, check: &str, parts: &[&str]) {
    let (code, found) = findings(launch);
    assert_eq!(code, Some(i32::from(level == "problem")), "{found:?}");
    let [(its_level, its_check, told)] = found.as_slice() else { panic!("{check}: {found:#?}") };
    assert_eq!((its_level.as_str(), its_check.as_str()), (level, check), "{told}");
    for part in parts {
        assert!(told.contains(part), "`{part}` is not told: {told}");
    }
}

#[test]
fn where_all_is_well_it_says_so() {
    let redis = redis(&[]);
    assert_eq!(findings(&well(&redis)), (Some(0), Vec::new()));
    let output = Launch::new("greeter", &["doctor"])
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("GRACE", "10m")
        .output();
    assert!(output.status.success() && text(&output.stdout).ends_with("all is well\n"));
}

#[test]
fn redis_is_not_there() {
    let redis = redis(&[]);
    let launch = well(&redis);
    redis.kill9();
    names(&launch, "problem", "redis", &["unreachable"]);
}

#[test]
fn redis_throws_tasks_away() {
    let redis = redis(&["--maxmemory-policy", "allkeys-lru"]);
    names(&well(&redis), "problem", "redis-policy", &["allkeys-lru", "noeviction"]);
}

#[test]
fn redis_forgets_tasks_when_it_restarts() {
    let redis = redis(&["--appendonly", "no"]);
    names(&well(&redis), "problem", "redis-aof", &["appendonly yes"]);
    let accepted = well(&redis).env("ALLOW_VOLATILE", "true");
    names(&accepted, "warning", "redis-aof", &["ALLOW_VOLATILE"]);
}

#[test]
fn redis_has_no_limit_to_its_memory_or_hardly_any_left() {
    let redis = RedisServer::start_with(&[], &[]);
    names(&well(&redis), "warning", "redis-memory", &["maxmemory is not set"]);
    let strict = well(&redis).arg("--strict");
    assert_eq!(findings(&strict).0, Some(1));
    let memory = redis.cli(&["INFO", "memory"]);
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u64 = used.trim().parse().unwrap();
    redis.cli(&["CONFIG", "SET", "maxmemory", &(used + used / 10).to_string()]);
    names(&well(&redis), "problem", "redis-memory", &["about to be refused"]);
}

#[test]
fn redis_lets_too_few_in() {
    let redis = redis(&["--maxclients", "20"]);
    names(&well(&redis), "problem", "redis-clients", &["of 20 connections", "maxclients"]);
}

#[test]
fn redis_is_a_replica() {
    let primary = redis(&[]);
    let port = primary.port().to_string();
    let replica = redis(&["--replicaof", "127.0.0.1", &port]);
    names(&well(&replica), "problem", "redis-role", &["slave", "primary"]);
}

#[test]
fn redis_has_another_clock() {
    let shim = Shim::build().unwrap();
    let redis = RedisServer::start_with(&shim.launcher(), &MEMORY);
    shim.set_clock(60).unwrap();
    names(&well(&redis), "problem", "clock", &["apart", "NTP"]);
}

#[test]
fn redis_does_not_let_the_user_do_what_is_needed() {
    let redis = redis(&[]);
    redis.cli(&["ACL", "SETUSER", "default", "-time"]);
    names(&well(&redis), "warning", "clock", &["denies access"]);
}

#[test]
fn there_is_no_database_for_the_tables() {
    let redis = redis(&[]);
    let launch = Launch::new("umbel", &["doctor", "--json"])
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("GRACE", "10m");
    names(&launch, "problem", "settings", &["DATABASE_URL"]);
}

#[test]
fn postgres_is_not_there() {
    let redis = redis(&[]);
    let launch = well(&redis)
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("DATABASE_ACQUIRE_TIMEOUT", "1s");
    names(&launch, "problem", "postgres", &["127.0.0.1:1/none"]);
}

#[test]
fn the_pool_is_larger_than_what_postgres_gives() {
    let redis = redis(&[]);
    let launch = well(&redis).env("DATABASE_MAX_CONNECTIONS", 900);
    names(&launch, "problem", "postgres-pool", &["900", "297"]);
}

#[test]
fn the_pooler_takes_no_transactions() {
    let redis = redis(&[]);
    let database = PostgresServer::shared().database();
    let pooler = PgBouncer::start_in_statement_mode(PostgresServer::shared());
    let launch = well(&redis).env("DATABASE_URL", pooler.url(&database));
    names(&launch, "problem", "postgres-pooler", &["statement mode"]);
}

#[test]
fn a_transaction_pooler_is_fine() {
    let redis = redis(&[]);
    let database = PostgresServer::shared().database();
    let pooler = PgBouncer::start(PostgresServer::shared(), 2);
    let launch = well(&redis)
        .env("DATABASE_URL", pooler.url(&database))
        .env("DATABASE_DIRECT_URL", database.url());
    assert_eq!(findings(&launch), (Some(0), Vec::new()));
}

#[test]
fn migrations_would_go_to_another_database() {
    let redis = redis(&[]);
    let (one, other) = (PostgresServer::shared().database(), PostgresServer::shared().database());
    let launch =
        well(&redis).env("DATABASE_URL", one.url()).env("DATABASE_DIRECT_URL", other.url());
    names(&launch, "problem", "postgres-direct", &["another database", other.name()]);
}

#[test]
fn a_task_may_run_longer_than_a_stop_waits() {
    let redis = redis(&[]);
    let launch = well(&redis).env("GRACE", "25s");
    names(&launch, "warning", "grace", &["GRACE", "`trial`"]);
}

#[test]
fn more_tasks_run_than_there_are_connections() {
    let redis = redis(&[]);
    let launch = well(&redis).env("CONCURRENCY", 64);
    names(&launch, "warning", "concurrency", &["64", "DATABASE_MAX_CONNECTIONS (10)"]);
}

#[test]
fn a_setting_is_misspelt() {
    let redis = redis(&[]);
    let launch = well(&redis).env("UMBEL_CONCURENCY", 4);
    names(&launch, "warning", "unknown-setting", &["UMBEL_CONCURENCY", "CONCURRENCY may be meant"]);
}

#[test]
fn a_secret_is_too_short_and_is_not_repeated() {
    let redis = redis(&[]);
    let launch = well(&redis).env("JWT_SECRET", "s3cret");
    names(&launch, "problem", "settings", &["JWT_SECRET"]);
    assert!(!text(&launch.output().stdout).contains("s3cret"));
}

#[tokio::test]
async fn nobody_serves_a_queue_in_which_tasks_wait() {
    let redis = redis(&[]);
    let client = Client::open(&BrokerSettings::new(redis.url()), "test").unwrap();
    let probe = umbel_tests::probe::Probe::new("a", umbel_tests::probe::Act::Ok);
    client.enqueue(probe).await.unwrap();
    names(&well(&redis), "problem", "unserved-queue", &["1 tasks wait in queue default"]);
}
