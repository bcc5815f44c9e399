//! The scenarios: a fault, how much of it, and what must hold all the same.

mod kills;

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use tokio::task::{LocalSet, spawn_local};

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

type Playing = Pin<Box<dyn Future<Output = anyhow::Result<Report>>>>;

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub fault: &'static str,
    play: fn(Plan) -> Playing,
}

/// All, in the order in which they are told.
pub const ALL: [Scenario; 2] = [
    Scenario { name: "C1", fault: "kill -9 of workers", play: |plan| Box::pin(kills::alone(plan)) },
    Scenario {
        name: "C1s",
        fault: "kill -9 of workers under supervisors",
        play: |plan| Box::pin(kills::supervised(plan)),
    },
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
        let played = alone.run_until(spawn_local((self.play)(plan))).await;
        let mut report = match played {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => Report { broke: Some(format!("{error:#}")), ..Report::default() },
            Err(panic) => Report { broke: Some(panic.to_string()), ..Report::default() },
        };
        (report.name, report.fault, report.took) = (self.name, self.fault, began.elapsed());
        report
    }
}
