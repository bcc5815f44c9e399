//! `umbel-bench`: measures, and prints the head, one JSON line per figure, and a table of ratios.

use clap::{Parser, ValueEnum, builder::RangedU64ValueParser};
use serde_json::to_string;
use umbel_bench::{Bench, Plan, Workload, apart::Part, head::head};

/// Measures Umbel and the raw limit of Redis, on a Redis of its own without persistence.
#[derive(Debug, Parser)]
#[command(name = "umbel-bench", version)]
struct Args {
    /// What is measured; without any, everything
    #[arg(value_enum)]
    workloads: Vec<Workload>,

    /// Fewer tasks of each workload, and shallower queues: seconds instead of minutes
    #[arg(long)]
    quick: bool,

    /// How many tasks are enqueued in bulk and drained; a fifth of them is enqueued one at a time
    // The commands of the raw limit are held in memory: a GB for the most.
    #[arg(long, default_value_t = 50_000, value_parser = between(1, 1_000_000))]
    tasks: usize,

    /// How often everything is measured
    // A median of fewer is only a value.
    #[arg(long, default_value_t = 3, value_parser = between(3, 1_000))]
    runs: usize,

    /// How many tasks the worker runs at once
    #[arg(long, default_value_t = 256, value_parser = between(1, 4_096))]
    concurrency: usize,

    /// How many tasks are enqueued at 200 a second to measure the hand-over
    #[arg(long, default_value_t = 4_000, value_parser = between(1, 1_000_000))]
    hand_overs: usize,

    #[command(subcommand)]
    part: Option<Part>,
}

/// What `--quick` measures at most.
const QUICK_TASKS: usize = 10_000;
const QUICK_HAND_OVERS: usize = 200;

const DEEPEST: usize = 1_000_000;

fn between(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}

fn main() -> anyhow::Result<()> {
    let Args { workloads, quick, tasks, runs, concurrency, hand_overs, part } = Args::parse();
    if let Some(part) = part {
        return tokio::runtime::Runtime::new()?.block_on(part.play());
    }
    let all = Workload::value_variants().to_vec();
    let mut plan = Plan {
        workloads: if workloads.is_empty() { all } else { workloads },
        tasks,
        concurrency,
        hand_overs,
        depth: DEEPEST,
    };
    if quick {
        plan.tasks = tasks.min(QUICK_TASKS);
        plan.hand_overs = hand_overs.min(QUICK_HAND_OVERS);
        plan.depth = QUICK_TASKS;
    }
    let mut bench = Bench::start(plan)?;
    println!("{}", to_string(&head(&bench))?);
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        bench.run()?;
    }
    for figure in bench.figures().iter() {
        println!("{}", to_string(&figure)?);
    }
    print!("\n{}", bench.figures().table());
    Ok(())
}
