//! The scenarios: a fault, how much of it, and what must hold all the same.

mod clock;
mod database;
mod kills;
mod network;
mod poison;
mod pressure;
mod redis_dies;
mod rolling;
mod stops;
mod wipes;

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::task::LocalSet;

use super::report::Report;

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Some minutes for all, beside other tests on a small machine.
    Smoke,
    /// What the published figures come from.
    Full,
}

impl Profile {
    /// One of two sizes.
    pub fn of<T>(self, smoke: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Full => full,
        }
    }

    /// A time that must be kept. A smoke shares its processors with whatever else is tested, and
    /// takes no time so strictly.
    pub fn time(self, longest: Duration) -> Duration {
        self.of(longest * SMOKE_PATIENCE, longest)
    }
}

/// How much longer than promised something may take beside other tests.
const SMOKE_PATIENCE: u32 = 3;

/// What a run of a scenario goes by.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub profile: Profile,
    pub seed: u64,
}

macro_rules! scenario {
    ($name:literal, $fault:literal, $play:path) => {
        Scenario { name: $name, fault: $fault, play: |plan| Box::pin($play(plan)) }
    };
}

type Playing = Pin<Box<dyn Future<Output = anyhow::Result<Report>>>>;

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub fault: &'static str,
    play: fn(Plan) -> Playing,
}

/// All, in the order in which they are told.
pub const ALL: [Scenario; 12] = [
    scenario!("C1", "kill -9 of workers", kills::alone),
    scenario!("C1s", "kill -9 of workers under supervisors", kills::supervised),
    scenario!("C2", "SIGSTOP of workers", stops::play),
    scenario!("C3", "the clock of Redis jumps by an hour", clock::play),
    scenario!("C4", "kill -9 of Redis", redis_dies::play),
    scenario!("C7", "latency, cuts, resets, half-open connections", network::play),
    scenario!("C8", "Redis full, disk full", pressure::play),
    scenario!("C9", "FLUSHALL, DEL, XGROUP DESTROY, SCRIPT FLUSH", wipes::play),
    scenario!("C10", "tasks that end their process", poison::play),
    scenario!("C12", "rolling restart", rolling::play),
    scenario!("C13", "Postgres and its pooler killed, restarted, frozen", database::restarted),
    scenario!("C13s", "workers die between commit and word", database::unsaid),
];

impl Scenario {
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|scenario| scenario.name.eq_ignore_ascii_case(name))
    }

    /// Plays it to its end, whatever becomes of it.
    pub async fn play(self, plan: Plan) -> Report {
        let began = Instant::now();
        // A task of its own, so that a panic of the harness ends this scenario and no other.
        let alone = LocalSet::new();
        let playing = alone.spawn_local((self.play)(plan));
        let played = alone.run_until(playing).await;
        let mut report = match played {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => Report { broke: Some(format!("{error:#}")), ..Report::default() },
            Err(panic) => Report { broke: Some(panic.to_string()), ..Report::default() },
        };
        (report.name, report.fault, report.took) = (self.name, self.fault, began.elapsed());
        report
    }
}
