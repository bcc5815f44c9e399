//! `umbel-scraperapi`: the ScraperAPI that the demo has its pages fetched by, served on loopback.

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use umbel_tests::scraperapi::FakeScraperApi;

/// Answers on 127.0.0.1 as ScraperAPI does, fetches from this machine, and prints its URL once it
/// listens.
#[derive(Debug, Parser)]
#[command(name = "umbel-scraperapi", version)]
struct Args {
    /// The key that it knows; any other is refused
    #[arg(long)]
    key: String,

    /// The port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Before the URL is printed: who reads it may send the signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let service = FakeScraperApi::start(&args.key, args.port)
        .await
        .with_context(|| format!("cannot listen on port {}", args.port))?;
    println!("{}", service.url());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
