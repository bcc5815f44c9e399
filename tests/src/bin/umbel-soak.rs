//! `umbel-soak`: enqueues pages at a rate that does not wait for answers, and tells how it was taken.
//!
//! Each request counts from the moment at which it was due, so that a service that is late with one
//! answer is not asked less often. Where it asks stands in a file that is read again and again: as a
//! router that is told of a new release, it sends what comes next there, and waits for the rest.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(5);

/// How often it is looked where to send it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const TELL_EVERY: Duration = Duration::from_secs(10);

/// A caller's patience; beyond it a request counts as lost.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// A connection that nothing went over for so long is not used again: the API would close it after 15 s,
/// perhaps at the moment at which a request is on its way.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How many requests may be unanswered at once: a service that collapses must not take this along.
const OPEN_MAX: usize = 4096;

/// Enqueues pages to read.
#[derive(Debug, Parser)]
#[command(name = "umbel-soak", version)]
struct Args {
    /// A file with the address of the API, read again and again
    #[arg(long)]
    to: PathBuf,
    /// Tokens, with commas; they take turns
    #[arg(long, value_delimiter = ',', required = true)]
    tokens: Vec<String>,
    /// Pages to read, with commas; they take turns, each with a number that makes it another one
    #[arg(long, value_delimiter = ',', required = true)]
    pages: Vec<String>,
    /// Requests a second
    #[arg(long)]
    rate: u32,
    /// How long, in seconds
    #[arg(long)]
    seconds: u32,
}

/// What came of a request.
enum Told {
    Answer { status: StatusCode, took: Duration },
    Lost(String),
}

/// What came of many.
#[derive(Default)]
struct Sum {
    /// In microseconds, by status.
    took: BTreeMap<u16, Vec<u64>>,
    lost: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, told: &Told) {
        match told {
            Told::Answer { status, took } => {
                self.took.entry(status.as_u16()).or_default().push(took.as_micros() as u64);
            }
            Told::Lost(why) => *self.lost.entry(why.clone()).or_default() += 1,
        }
    }

    fn count(&self, status: u16) -> usize {
        self.took.get(&status).map_or(0, Vec::len)
    }

    /// Milliseconds within which so many of a hundred answers came, whichever they were.
    fn percentile(&self, percent: usize) -> f64 {
        let mut all: Vec<u64> = self.took.values().flatten().copied().collect();
        all.sort_unstable();
        let at = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(at).map_or(0.0, |micros| *micros as f64 / 1e3)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Fails only where it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let (tell, mut told) = mpsc::unbounded_channel();
    let sending = tokio::spawn(send_all(args, tell));
    let (mut all, mut recent) = (Sum::default(), Sum::default());
    let mut tells = interval(TELL_EVERY);
    loop {
        tokio::select! {
            next = told.recv() => {
                let Some(next) = next else { break };
                all.add(&next);
                recent.add(&next);
            }
            _ = tells.tick() => {
                eprintln!("{}", line(&recent));
                recent = Sum::default();
            }
        }
    }
    sending.await??;
    println!("{}", line(&all));
    Ok(if all.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(sum: &Sum) -> String {
    let statuses: BTreeMap<u16, usize> =
        sum.took.iter().map(|(status, took)| (*status, took.len())).collect();
    json!({
        "accepted": sum.count(202),
        "statuses": statuses,
        "lost": sum.lost,
        "p50_ms": sum.percentile(50),
        "p99_ms": sum.percentile(99),
        "max_ms": sum.percentile(100),
    })
    .to_string()
}

async fn send_all(args: Args, tell: mpsc::UnboundedSender<Told>) -> anyhow::Result<()> {
    let client =
        Client::builder().timeout(ANSWER_WAIT).pool_idle_timeout(IDLE_MAX).no_proxy().build()?;
    let places = Arc::new(Semaphore::new(OPEN_MAX));
    let mut sent = JoinSet::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut to, mut looked) = (address(&args.to)?, Instant::now());
    let started = Instant::now();
    let (gap, all) = (Duration::from_secs(1) / args.rate.max(1), args.rate * args.seconds);
    // Numbers of another run are other pages.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let mut next = 0_u32;
    while next < all {
        ticks.tick().await;
        if looked.elapsed() >= LOOK_EVERY {
            (to, looked) = (address(&args.to)?, Instant::now());
        }
        while next < all && gap * next <= started.elapsed() {
            let due = started + gap * next;
            let of = |turns: &[String]| turns[next as usize % turns.len()].clone();
            let page = format!("{}?run={run}&page={next}", of(&args.pages));
            let request = client
                .post(format!("{to}/v1/tasks/pages.scrape"))
                .bearer_auth(of(&args.tokens))
                .json(&json!({"args": {"url": page}}));
            next += 1;
            let Ok(place) = places.clone().try_acquire_owned() else {
                // Nobody listens any more only where all is over.
                let _ = tell.send(Told::Lost(format!("{OPEN_MAX} requests are unanswered")));
                continue;
            };
            let tell = tell.clone();
            sent.spawn(async move {
                let told = match answer(request).await {
                    Ok(status) => Told::Answer { status, took: due.elapsed() },
                    Err(error) => Told::Lost(format!("{:#}", anyhow::Error::new(error))),
                };
                let _ = tell.send(told);
                drop(place);
            });
            while sent.try_join_next().is_some() {}
        }
    }
    while sent.join_next().await.is_some() {}
    Ok(())
}

/// The whole answer: a connection is used again only where it was read to its end.
async fn answer(request: RequestBuilder) -> reqwest::Result<StatusCode> {
    let response = request.send().await?;
    let status = response.status();
    response.bytes().await?;
    Ok(status)
}

fn address(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the address cannot be read from {}", file.display()))?;
    Ok(text.trim().to_owned())
}
