//! `doctor` names what is wrong, and nothing where nothing is: each on real servers with real settings.

use std::sync::OnceLock;

use serde_json::Value;
use umbel_broker::{BrokerSettings, Client};
use umbel_tests::{
    chaos::shim::Shim,
    process::Launch,
    proxy::Proxy,
    services::{PgBouncer, PostgresServer, RedisServer, TestDatabase},
};

use super::text;

const MEMORY: [&str; 2] = ["--maxmemory", "100mb"];

fn redis(options: &[&str]) -> RedisServer {
    RedisServer::start_with(&[], &[&MEMORY[..], options].concat())
}

/// The tables of the probes.
fn migrate(url: &str) {
    let output = Launch::new("umbel-probe", &["migrate"]).env("DATABASE_URL", url).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A database with the tables.
fn database() -> TestDatabase<'static> {
    let database = PostgresServer::shared().database();
    migrate(&database.url());
    database
}

/// All that is set as it should be; a test sets one thing otherwise.
fn well(redis: &RedisServer) -> Launch {
    static MADE: OnceLock<()> = OnceLock::new();
    let database = PostgresServer::shared().url();
    MADE.get_or_init(|| migrate(&database));
    Launch::new("umbel-probe", &["doctor", "--json"])
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", database)
        .env("DATABASE_MAX_CONNECTIONS", 10)
        .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("GRACE", "10m")
}

/// The whole of what it says.
fn said(launch: &Launch) -> Value {
    let printed = text(&launch.output().stdout);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// How it says that Postgres is reached, for programs and for people.
fn way(launch: &Launch) -> (String, String) {
    let said = said(launch);
    let told = said["findings"].as_array().unwrap().iter();
    let told = told.filter(|row| row["check"] == "postgres-pooler").map(|row| row["told"].as_str());
    (said["postgres_way"].as_str().unwrap().to_owned(), told.flatten().collect())
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
    let database = database();
    let pooler = PgBouncer::start_in_statement_mode(PostgresServer::shared());
    let launch = well(&redis).env("DATABASE_URL", pooler.url(&database));
    names(&launch, "problem", "postgres-pooler", &["statement mode"]);
}

#[test]
fn a_transaction_pooler_is_fine() {
    let redis = redis(&[]);
    let database = database();
    // With a single connection for all, too.
    for connections in [2, 1] {
        let pooler = PgBouncer::start(PostgresServer::shared(), connections);
        let launch = well(&redis)
            .env("DATABASE_URL", pooler.url(&database))
            .env("DATABASE_DIRECT_URL", database.url());
        assert_eq!(findings(&launch), (Some(0), Vec::new()));
        let (way, told) = way(&launch);
        assert!(way == "transaction" && told.contains("in transaction mode"), "{way}: {told}");
    }
}

#[test]
fn a_pooler_stands_where_migrations_were_to_go_past_it() {
    let redis = redis(&[]);
    let database = database();
    let pooler = PgBouncer::start(PostgresServer::shared(), 2);
    let url = pooler.url(&database);
    let launch = well(&redis).env("DATABASE_URL", &url).env("DATABASE_DIRECT_URL", &url);
    names(&launch, "warning", "postgres-direct", &["transaction mode", "name postgres itself"]);
}

#[test]
fn postgres_is_reached_directly() {
    let redis = redis(&[]);
    let (way, told) = way(&well(&redis));
    assert!(way == "direct" && told.contains("directly, through no pooler"), "{way}: {told}");
    let shown = text(&well(&redis).with_args(&["doctor"]).output().stdout);
    assert!(shown.contains("ok       postgres-pooler    postgres is reached directly"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_told_of_the_way_is_said_so() {
    let redis = redis(&[]);
    let (server, database) = (PostgresServer::shared(), database());
    // As a load balancer does, or the mapping of a container's port.
    let between = Proxy::start(server.port(), 1).await;
    let port = between.port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}", database.name());
    let launch = well(&redis).env("DATABASE_URL", url);
    let (way, told) = tokio::task::spawn_blocking(move || way(&launch)).await.unwrap();
    assert!(way == "direct_or_session" && told.contains("cannot be told"), "{way}: {told}");
}

#[test]
fn a_session_pooler_has_enough_connections_or_runs_out() {
    let redis = redis(&[]);
    let database = database();
    let through = |connections| {
        let pooler = PgBouncer::start_in_session_mode(PostgresServer::shared(), connections);
        let launch = well(&redis).env("DATABASE_URL", pooler.url(&database));
        (pooler, launch)
    };
    let (_pooler, launch) = through(10);
    assert_eq!(findings(&launch), (Some(0), Vec::new()));
    let (way, told) = way(&launch);
    assert!(way == "session" && told.contains("gave 10 connections at once"), "{way}: {told}");
    let (_pooler, launch) = through(3);
    let parts = ["session mode", "gave 3 connections and then no more", "lower DATABASE_MAX"];
    names(&launch, "warning", "postgres-pooler", &parts);
    // Where another has all, not even the mode can be told.
    let (_pooler, launch) = through(1);
    names(&launch, "warning", "postgres-pooler", &["cannot be told", "raise the pool size"]);
}

#[test]
fn the_pooler_passes_no_setting_of_a_session_on() {
    let redis = redis(&[]);
    let database = database();
    let pooler = PgBouncer::start(PostgresServer::shared(), 2);
    let asks = |url: String| well(&redis).env("DATABASE_URL", url + "?options[work_mem]=9MB");
    let parts = ["options[work_mem]", "does not pass it on", "alter role"];
    names(&asks(pooler.url(&database)), "warning", "postgres-options", &parts);
    assert_eq!(findings(&asks(database.url())), (Some(0), Vec::new()));
}

#[test]
fn migrations_would_go_to_another_database() {
    let redis = redis(&[]);
    let (one, other) = (database(), database());
    let launch =
        well(&redis).env("DATABASE_URL", one.url()).env("DATABASE_DIRECT_URL", other.url());
    names(&launch, "problem", "postgres-direct", &["another database", other.name()]);
}

#[test]
fn the_tables_are_not_those_of_this_program() {
    let redis = redis(&[]);
    let (database, empty) =
        (PostgresServer::shared().database(), PostgresServer::shared().database());
    // The scraper, which has tables.
    let scraper = |database: &str, args: &[&str]| {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", database)
            .env("DATABASE_MAX_CONNECTIONS", 10)
            .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .env("GRACE", "10m")
    };
    let doctor = scraper(&database.url(), &["doctor", "--json"]);
    names(&doctor, "problem", "migrations", &["never made", "`umbel migrate`"]);
    assert!(scraper(&database.url(), &["migrate"]).output().status.success());
    assert_eq!(findings(&doctor), (Some(0), Vec::new()));

    let newer = "insert into umbel_migrations values ('scraper', 99999999, 'next', '')";
    database.sql(newer);
    names(&doctor, "warning", "migrations", &["newer than this program", "99999999 (next)"]);
    database.sql("delete from umbel_migrations where version = 99999999");
    let last = "(select max(version) from umbel_migrations where owner = 'scraper')";
    database.sql(&format!("delete from umbel_migrations where version = {last}"));
    names(&doctor, "warning", "migrations", &["older than this program: 1 migrations wait"]);
    database.sql("update umbel_migrations set checksum = '' where owner = 'umbel'");
    let (_, found) = findings(&doctor);
    assert_eq!(found[0].0, "problem", "{found:?}");
    assert!(found[0].2.contains("changed after they had been applied"), "{found:?}");
    // The way of migrations is looked at, not that of the roles.
    let other =
        scraper(&database.url(), &["doctor", "--json"]).env("DATABASE_DIRECT_URL", empty.url());
    let (_, found) = findings(&other);
    assert!(found.iter().any(|(_, _, told)| told.contains("never made")), "{found:?}");
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
