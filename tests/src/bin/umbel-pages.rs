//! `umbel-pages`: the site that the demo scrapes, served on loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use umbel_tests::pages::{Site, serve, url};

/// Serves a folder of HTML pages and prints its URL once it listens.
#[derive(Debug, Parser)]
#[command(name = "umbel-pages", version)]
struct Args {
    /// The folder to serve
    #[arg(long)]
    dir: PathBuf,

    /// The address to listen on; in a container of its own 0.0.0.0
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    host: IpAddr,

    /// The port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,

    /// How late each answer is, in milliseconds
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let stop = CancellationToken::new();
    // Before the URL is printed: who reads it may send the signal at once.
    let signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    for signal in signals {
        tokio::spawn(cancel_on(signal, stop.clone()));
    }

    let site = Site::new(&args.dir, Duration::from_millis(args.delay_ms), stop)?;
    let listener = TcpListener::bind((args.host, args.port))
        .await
        .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?;
    println!("{}", url(listener.local_addr()?));
    serve(listener, site).await?;
    Ok(())
}

async fn cancel_on(mut signal: Signal, stop: CancellationToken) {
    signal.recv().await;
    stop.cancel();
}
