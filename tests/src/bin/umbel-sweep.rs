//! `umbel-sweep`: lets a sweep plan very many sites that are due at once, and prints what that took:
//! time, memory of the worker, and the longest transaction.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::Parser;
use tokio::time::sleep;
use umbel_broker::{BrokerSettings, Client};
use umbel_tasks::SweepSites;
use umbel_tests::{
    process::Launch,
    services::{PgBouncer, PostgresServer, RedisServer, TestDatabase},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How often memory and transactions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a worker may take to be there, and to have done its first small sweep.
const READY_MAX: Duration = Duration::from_secs(30);

/// What a sweep may take: less than a sweep of that size is apart from the next.
const SWEEP_MAX: Duration = Duration::from_secs(300);

/// What is promised.
const GROWTH_MAX_KIB: u64 = 50 * 1024;
const TRANSACTION_MAX_MS: u64 = 1_000;

/// Plans sites that are due at once.
#[derive(Debug, Parser)]
#[command(name = "umbel-sweep", version)]
struct Args {
    /// How many
    #[arg(long, default_value_t = 100_000)]
    sites: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Args { sites } = Args::parse();
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let (database, pooler) = (server.database(), PgBouncer::start(&server, 2));
    let launch = |args: &[&str]| {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", pooler.url(&database))
            .env("JWT_SECRET", SECRET)
            .env("LOG_LEVEL", "warn")
    };
    let migrated = launch(&["migrate"]).output();
    ensure!(migrated.status.success(), "the tables cannot be made");
    // Pages wait in another queue, which nobody serves here.
    let worker = launch(&["worker", "-Q", "default"]).start();
    let client = Client::open(&BrokerSettings::new(redis.url()), "sweep")?;
    let nothing = client.enqueue(SweepSites {}).await?.wait(READY_MAX).await?;
    ensure!(nothing.claimed == 0, "an empty table has no sites");

    database.sql(&format!(
        "insert into sites (url) select 'https://' || n || '.example/' from generate_series(1, {sites}) n"
    ));
    let before = worker.rss_kib();
    let began = Instant::now();
    let handle = client.enqueue(SweepSites {}).await?;
    let (mut most, mut longest) = (before, 0);
    let swept = loop {
        most = most.max(worker.rss_kib());
        longest = longest.max(longest_transaction_ms(&database)?);
        if let Some(record) = handle.record().await?
            && record.state.has_ended()
        {
            break handle.wait(LOOK_EVERY).await?;
        }
        ensure!(began.elapsed() < SWEEP_MAX, "the sweep takes longer than {SWEEP_MAX:?}");
        sleep(LOOK_EVERY).await;
    };
    let (took, growth) = (began.elapsed(), most - before);
    println!(
        "{} sites planned, {} tasks enqueued in {took:.1?}; worker {before} KiB before, {growth} KiB \
         more at most; longest transaction {longest} ms",
        swept.claimed, swept.enqueued
    );
    ensure!(worker.stop().await.success(), "the worker ended badly");
    let is_well = swept.claimed == sites
        && swept.enqueued == sites
        && growth < GROWTH_MAX_KIB
        && longest < TRANSACTION_MAX_MS;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of those that are open in the scraper's database now.
fn longest_transaction_ms(database: &TestDatabase<'_>) -> anyhow::Result<u64> {
    let ms = database.sql(
        "select coalesce(max(extract(epoch from clock_timestamp() - xact_start) * 1000), 0)::bigint
         from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    );
    Ok(ms.parse()?)
}
