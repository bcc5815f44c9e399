//! `umbel-load`: asks the API to enqueue as fast as `wrk` can, and prints requests a second, how long
//! answers took and the API's memory. Whatever was accepted must then be in Redis.

use std::{
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;
use serde::Deserialize;
use tokio::{net::TcpStream, time::sleep};
use umbel_tests::{
    eventually::eventually,
    process::{Launch, free_port},
    services::{PostgresServer, RedisServer},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// What `wrk` sends, and how it tells what came of it.
const REQUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/umbel-load.lua");

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is promised of the API's memory. A debug build maps more of its program, and is tried by a test for
/// what it does, not for this.
const RSS_MAX_KIB: u64 = if cfg!(debug_assertions) { 100 * 1024 } else { 40 * 1024 };

/// Loads the API.
#[derive(Debug, Parser)]
#[command(name = "umbel-load", version)]
struct Args {
    /// Connections that are open at once
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// How long, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u32,
}

/// What came of it, as `wrk` tells it.
#[derive(Debug, Deserialize)]
struct Told {
    requests: u64,
    seconds: f64,
    /// Connections that broke, answers that took too long, and answers that were no 2xx.
    errors: u64,
    p50_ms: f64,
    p99_ms: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Args { connections, seconds } = Args::parse();
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let (database, port) = (server.database(), free_port());
    let launch = |args: &[&str]| {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", database.url())
            .env("JWT_SECRET", SECRET)
            .env("PORT", port)
            // One caller, from one address.
            .env("RATE_LIMIT", 0)
            .env("PEER_RATE_LIMIT", 0)
            .env("LOG_LEVEL", "warn")
    };
    ensure!(launch(&["migrate"]).output().status.success(), "the tables cannot be made");
    let token = String::from_utf8(launch(&["token"]).output().stdout)?;
    let api = launch(&["api"]).start();
    let url = format!("http://127.0.0.1:{port}");
    eventually("the API listens", async || TcpStream::connect(("127.0.0.1", port)).await.ok())
        .await;

    let mut load = Command::new("wrk")
        .args(["--threads", "1", "--connections", &connections.to_string()])
        .args([
            "--duration",
            &format!("{seconds}s"),
            "--script",
            REQUESTS,
            &url,
            "--",
            token.trim(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .context("wrk cannot be started")?;
    let mut most = 0;
    while load.try_wait()?.is_none() {
        most = most.max(api.rss_kib());
        sleep(LOOK_EVERY).await;
    }
    let said = String::from_utf8(load.wait_with_output()?.stdout)?;
    let last = said.lines().last().context("wrk said nothing")?;
    let told: Told = serde_json::from_str(last).with_context(|| said.clone())?;
    ensure!(api.stop().await.success(), "the API ended badly");
    let queued: u64 = redis.cli(&["XLEN", "umbel:{scrape}:ready:normal"]).trim().parse()?;
    println!(
        "{:.0} enqueues/s over {connections} connections for {:.0} s; p50 {:.1} ms, p99 {:.1} ms; API \
         {:.1} MB at most; {} errors; {} answered, {queued} in Redis",
        told.requests as f64 / told.seconds,
        told.seconds,
        told.p50_ms,
        told.p99_ms,
        most as f64 * 1024.0 / 1e6,
        told.errors,
        told.requests,
    );
    // The last ones may have been enqueued when wrk stopped listening.
    let unheard = queued.checked_sub(told.requests);
    let is_well = told.errors == 0
        && most < RSS_MAX_KIB
        && unheard.is_some_and(|unheard| unheard <= u64::from(connections));
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
