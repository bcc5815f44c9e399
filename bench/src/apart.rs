//! Umbel in processes of their own: a worker at rest, its start, several workers at once, and how
//! many instructions a task costs.

use std::{
    env, fs,
    io::Read,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Subcommand;
use tokio_util::sync::CancellationToken;
use umbel_broker::{BrokerSettings, Client};
use umbel_worker::{Worker, WorkerSettings};

use crate::{
    noop::{Board, NoOp, endpoints},
    umbel::Umbel,
};

/// Longer than any of these takes: valgrind is fifty times slower than the processor.
const DONE_MAX: Duration = Duration::from_secs(300);

const LOOK_EVERY: Duration = Duration::from_micros(500);

/// What a process of its own does.
#[derive(Debug, Clone, Subcommand)]
pub enum Part {
    /// Runs tasks: until it is ended, or so many
    #[command(name = "run-worker", hide = true)]
    Worker {
        #[arg(long)]
        url: String,
        #[arg(long)]
        concurrency: usize,
        #[arg(long)]
        boot: String,
        /// How many tasks there are at most
        #[arg(long)]
        places: usize,
        /// Ends once it has run all of them
        #[arg(long)]
        once: bool,
    },
    /// Enqueues so many tasks by one call
    #[command(name = "run-enqueue", hide = true)]
    Enqueue {
        #[arg(long)]
        url: String,
        #[arg(long)]
        tasks: usize,
    },
}

impl Part {
    pub async fn play(self) -> anyhow::Result<()> {
        match self {
            Self::Worker { url, concurrency, boot, places, once } => {
                let client = Client::open(&BrokerSettings::new(url), "bench")?;
                let board = Board::new(places);
                let mut settings = WorkerSettings::new("bench", &boot);
                settings.concurrency = concurrency;
                let worker = Worker::new(client, endpoints(&board)?, settings)?;
                let stop = CancellationToken::new();
                let running = tokio::spawn(worker.run(stop.clone()));
                if once {
                    board.all(DONE_MAX).await?;
                    stop.cancel();
                }
                running.await??;
            }
            Self::Enqueue { url, tasks } => {
                let client = Client::open(&BrokerSettings::new(url), "bench")?;
                for answer in client.enqueue_many((0..tasks).map(NoOp::<false>::new)).await? {
                    answer?;
                }
            }
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let words = match self {
            Self::Worker { url, concurrency, boot, places, once } => {
                let mut words = format!(
                    "run-worker --url {url} --concurrency {concurrency} --boot {boot} --places {places}"
                );
                if *once {
                    words.push_str(" --once");
                }
                words
            }
            Self::Enqueue { url, tasks } => format!("run-enqueue --url {url} --tasks {tasks}"),
        };
        words.split(' ').map(str::to_owned).collect()
    }
}

/// Enters the groups that stand before `--`, and becomes what stands behind it.
const ENTER: &str = r#"set -e
while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
shift; exec "$@""#;

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn start(part: &Part) -> anyhow::Result<Self> {
        let mut own = Command::new(env::current_exe()?);
        own.args(part.arguments());
        Self::spawn(own)
    }

    /// In these control groups from its beginning, so that all of its memory counts.
    pub fn start_within(part: &Part, groups: &[PathBuf]) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(ENTER).arg("sh").args(groups).arg("--");
        shell.arg(env::current_exe()?).args(part.arguments());
        Self::spawn(shell)
    }

    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    /// How much memory it holds, in MB.
    pub fn resident_mb(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kb: f64 = line.context("no VmRSS")?.trim_end_matches("kB").trim().parse()?;
        Ok(kb / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A worker for so many tasks, the `n`-th of those that run at once.
pub fn worker(url: &str, concurrency: usize, places: usize, n: usize) -> Part {
    let boot = format!("{:016x}", n + 1);
    Part::Worker { url: url.to_owned(), concurrency, boot, places, once: false }
}

/// How many instructions a part costs from its start to its end, as valgrind counts them. `None`
/// where there is no valgrind.
pub fn instructions(part: &Part) -> anyhow::Result<Option<u64>> {
    let own = env::current_exe()?;
    let counting = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(own)
        .args(part.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = counting else { return Ok(None) };
    let mut told = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut told)?;
    ensure!(child.wait()?.success(), "under valgrind it failed: {told}");
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.with_context(|| format!("valgrind counted nothing: {told}"))?;
    Ok(Some(count.trim().parse()?))
}

/// Waits until every task is settled.
pub async fn until_settled(umbel: &Umbel) -> anyhow::Result<()> {
    let began = Instant::now();
    while umbel.left().await? > 0 {
        ensure!(began.elapsed() < DONE_MAX, "the workers did not run all tasks");
        sleep(LOOK_EVERY);
    }
    Ok(())
}
