//! C2: workers are frozen for a while and go on as if nothing had been.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use umbel_broker::CallOptions;
use umbel_proto::{Priority, TaskId};

use super::Plan;
use crate::chaos::{
    crew::{Crew, Keeping},
    faults::Fault,
    history::{History, Moment},
    probe::{Act, Trial},
    report::Report,
    stage::Stage,
};

/// A worker that was silent for less lives; the others watch for so long before they say otherwise.
const LEASE: Duration = Duration::from_secs(15);

/// Between two stops: some beats, so that one stop is not the end of another.
const BETWEEN: Duration = Duration::from_secs(7);

/// How long a worker may take none of the tasks that are offered to all.
const MIDST_MAX: Duration = Duration::from_secs(60);

/// How soon some worker takes what goes before all else.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);

const DRAIN_MAX: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy)]
struct Size {
    tasks: usize,
    over: Duration,
    /// Which are stopped one after the other, in seconds; each lane has two workers of its own.
    lanes: [&'static [u64]; 3],
    /// How long a task takes that a stop falls into.
    long: Duration,
}

const SMOKE: Size = Size {
    tasks: 1_500,
    over: Duration::from_secs(25),
    lanes: [&[5, 10], &[25], &[]],
    long: Duration::from_secs(8),
};

const FULL: Size = Size {
    tasks: 40_000,
    over: Duration::from_secs(150),
    lanes: [&[5, 10, 5, 10, 5, 10, 5, 10, 5, 10], &[30, 30, 30, 30], &[60, 60]],
    long: Duration::from_secs(40),
};

pub async fn play(plan: Plan) -> anyhow::Result<Report> {
    let size = plan.profile.of(SMOKE, FULL);
    let mut stage = Stage::with_database(plan.seed)?;
    // Nobody sees why a worker falls silent: a task of 40 s that is stopped again and again is charged
    // for each, and here it is not the culprit.
    let launch = stage
        .launch(&stage.redis.url())
        .env("CONCURRENCY", 16)
        .env("GRACE", "20s")
        .env("CRASH_LIMIT", 20);
    let mut crew = Crew::start(launch, Keeping::Alone, 2 * size.lanes.len());
    stage.ready(&crew).await?;
    let before = crew.living();
    let trials = stage.mix(size.tasks);
    let feed = stage.feed(stage.client.clone(), trials, size.over);
    // All have some of it by then.
    sleep(BETWEEN / 2).await;
    let lane = |n: usize| stop_in_turn(&stage, &crew, size, n);
    let (short, long, longest) = tokio::try_join!(lane(0), lane(1), lane(2))?;
    let short_stops = short.0.len();
    for (faults, ids) in [short, long, longest] {
        stage.faults.extend(faults);
        stage.accepted.extend(ids);
    }
    stage.fed(feed).await?;
    let evidence = stage.evidence(&mut crew, DRAIN_MAX).await?;
    let mut report = Report::of(&evidence, 0);
    report.at_least("stops shorter than a lease", 2, short_stops);
    report.exactly("starts again without a stop of a lease", 0, report.audit.unexplained.len());
    // Else nothing was stopped in the midst of a task.
    report.at_least("settles refused to the thought dead", 1, evidence.refused);
    report.exactly("double effects", 0, report.audit.double_effects);
    let gone = before.iter().filter(|pid| !evidence.living.contains(*pid)).count();
    report.exactly("workers that a stop has ended", 0, gone);
    Ok(report)
}

/// Stops the two workers of a lane in turn; what was done, and the tasks that it was done to.
async fn stop_in_turn(
    stage: &Stage,
    crew: &Crew,
    size: Size,
    lane: usize,
) -> anyhow::Result<(Vec<Fault>, Vec<TaskId>)> {
    let (mut faults, mut ids) = (Vec::new(), Vec::new());
    for (n, seconds) in size.lanes[lane].iter().enumerate() {
        let lasting = Duration::from_secs(*seconds);
        let excuses = lasting >= LEASE;
        let place = 2 * lane + n % 2;
        let pid = crew.pid(place).await;
        let began = Instant::now();
        // Else it would have nothing to say of what is another's by then.
        while excuses && !in_midst(stage, pid, size.long / 2).await {
            ensure!(began.elapsed() < MIDST_MAX, "process {pid} takes no task");
            let key = format!("long{lane}-{}-", ids.len());
            let long = vec![Trial::new(Act::Sleep(size.long.as_millis() as u64)); crew.len()];
            let first = |call: &mut CallOptions| call.priority = Some(Priority::High);
            ids.extend(stage.enqueue_as(&key, long, first).await?);
            sleep(TAKEN_WITHIN).await;
        }
        let from = Moment::now();
        crew.signal(place, Signal::SIGSTOP).await;
        sleep(lasting).await;
        crew.signal(place, Signal::SIGCONT).await;
        let until = Moment::now();
        faults.push(Fault { what: "SIGSTOP", pid: Some(pid), from, until, excuses });
        sleep(BETWEEN).await;
    }
    Ok((faults, ids))
}

/// Whether a process has begun a long task, not longer ago than this.
async fn in_midst(stage: &Stage, pid: u32, begun_max: Duration) -> bool {
    let path = stage.history_path();
    let look = move || {
        let now = Moment::now().monotonic;
        let is_new = |at: i64| now - at < begun_max.as_millis() as i64;
        History::read(&path).is_ok_and(|history| {
            history.open(pid).iter().any(|line| line.note == "long" && is_new(line.at.monotonic))
        })
    };
    // The other stops must end in time meanwhile.
    spawn_blocking(look).await.unwrap_or(false)
}
