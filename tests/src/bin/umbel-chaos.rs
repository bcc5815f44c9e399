//! `umbel-chaos`: plays the scenarios and prints what they reached.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::{JoinSet, LocalSet},
};
use umbel_tests::chaos::{
    report::{Report, table},
    scenarios::{ALL, Plan, Profile, Scenario},
};

/// Harms real processes and judges what becomes of their tasks.
#[derive(Debug, Parser)]
#[command(name = "umbel-chaos", version)]
struct Args {
    /// How much of everything: smoke or full
    #[arg(long, default_value = "smoke", value_parser = profile)]
    profile: Profile,

    /// What chance goes by; without it, one that is drawn and printed
    #[arg(long)]
    seed: Option<u64>,

    /// Only these, for instance C1,C4
    #[arg(long, value_delimiter = ',', value_parser = scenario)]
    only: Vec<Scenario>,

    /// How many scenarios play at once; measured times hold for one
    #[arg(long, default_value_t = 1)]
    at_once: usize,

    /// Also write the table to this file
    #[arg(long)]
    out: Option<PathBuf>,
}

fn profile(text: &str) -> Result<Profile, String> {
    match text {
        "smoke" => Ok(Profile::Smoke),
        "full" => Ok(Profile::Full),
        _ => Err("choose smoke or full".to_owned()),
    }
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let names = ALL.map(|scenario| scenario.name).join(", ");
    Scenario::named(name).ok_or_else(|| format!("choose from {names}"))
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let chosen = if args.only.is_empty() { ALL.to_vec() } else { args.only };
    let plan = Plan { profile: args.profile, seed };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let threadless = LocalSet::new();
    // A signal drops what plays, and with it every process that was started.
    let reports = tokio::select! {
        reports = threadless.run_until(play(chosen, plan, args.at_once)) => reports?,
        _ = terminate.recv() => return Ok(ended_by_signal()),
        _ = interrupt.recv() => return Ok(ended_by_signal()),
    };
    let text = format!("seed {seed}\n\n{}", table(&reports));
    print!("\n{text}");
    if let Some(path) = args.out {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let all_held = reports.iter().all(Report::is_met);
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ended_by_signal() -> ExitCode {
    eprintln!("ended by a signal; nothing was judged");
    ExitCode::FAILURE
}

async fn play(chosen: Vec<Scenario>, plan: Plan, at_once: usize) -> anyhow::Result<Vec<Report>> {
    let room = Arc::new(Semaphore::new(at_once.max(1)));
    let mut playing = JoinSet::new();
    for (place, scenario) in chosen.into_iter().enumerate() {
        let room = room.clone();
        playing.spawn_local(async move {
            let _room = room.acquire_owned().await?;
            eprintln!("{} begins: {}", scenario.name, scenario.fault);
            let report = scenario.play(plan).await;
            let verdict = if report.is_met() { "held" } else { "MISSED" };
            eprintln!("{} {verdict} after {:.0?}", scenario.name, report.took);
            eprint!("{}", report.misses());
            anyhow::Ok((place, report))
        });
    }
    let mut reports = Vec::new();
    while let Some(played) = playing.join_next().await {
        reports.push(played??);
    }
    reports.sort_by_key(|(place, _)| *place);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}
