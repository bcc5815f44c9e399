//! The supervising process: one child a role, started again with backoff, all ended together.

use std::{
    env, io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    USAGE,
    roles::{Role, SUPERVISED},
    settings::{BOOT_ID, Settings, boot_id},
};

/// The wait before a role that died is started again: at once is a storm, for ever an outage.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_LONGEST: Duration = Duration::from_secs(30);

/// A role that ran this long was well; its next death counts as the first.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Beyond the grace time of a worker's tasks: what it needs to give back and say farewell.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// Why the supervisor ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    #[error("{role} refuses its settings; its message stands above")]
    Settings { role: &'static str },
    #[error("{role} cannot be started")]
    Spawn {
        role: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Keeps the three roles running until `shutdown`, then asks all of them to end at once: they
/// share one grace time of the platform, and what the API still enqueues waits in Redis.
pub(crate) async fn supervise(
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), SuperviseError> {
    let stop = shutdown.child_token();
    let mut keepers = JoinSet::new();
    for role in [Role::Api, Role::Beat, Role::Worker] {
        let keeper = Keeper { role, settings: settings.clone(), deaths: 0 };
        keepers.spawn(keeper.run(stop.clone()));
    }
    let mut result = Ok(());
    while let Some(ended) = keepers.join_next().await {
        // A keeper ends only when it was asked to, or when its role can never run.
        stop.cancel();
        result = result.and(flatten(ended));
    }
    result
}

fn flatten(
    ended: Result<Result<(), SuperviseError>, tokio::task::JoinError>,
) -> Result<(), SuperviseError> {
    ended.unwrap_or_else(|panic| {
        error!(error = %panic, "a keeper ended badly");
        Ok(())
    })
}

/// Keeps one role running.
struct Keeper {
    role: Role,
    settings: Settings,
    deaths: u32,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) -> Result<(), SuperviseError> {
        let role = self.role.as_str();
        while !stop.is_cancelled() {
            let started = Instant::now();
            let mut child =
                self.spawn().map_err(|source| SuperviseError::Spawn { role, source })?;
            // Held, because `wait` would close it: to the child its end is the end of this process.
            let _lifeline = child.stdin.take();
            info!(role, pid = child.id(), "started");
            let Some(ended) = stop.run_until_cancelled(child.wait()).await else {
                self.end(child).await;
                return Ok(());
            };
            match ended {
                Ok(status) if status.code() == Some(USAGE.into()) => {
                    return Err(SuperviseError::Settings { role });
                }
                Ok(status) => error!(role, cause = describe(status), "died"),
                Err(error) => error!(role, %error, "is gone"),
            }
            self.deaths = if started.elapsed() >= WELL_AFTER { 1 } else { self.deaths + 1 };
            let pause = backoff(self.deaths);
            warn!(role, "starting again in {pause:?}");
            stop.run_until_cancelled(sleep(pause)).await;
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(env::current_exe()?)
            .arg(self.role.as_str())
            .envs(self.settings.as_env())
            .env(BOOT_ID, boot_id())
            .env(SUPERVISED, "1")
            // Ends when this process does, SIGKILL included.
            .stdin(Stdio::piped())
            // Standard output is the supervisor's: its lines are read by scripts.
            .stdout(Stdio::null())
            // A Ctrl-C of the terminal goes to the supervisor alone: a second signal would cut a drain short.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Asks the child to end, and ends it.
    async fn end(&self, mut child: Child) {
        let role = self.role.as_str();
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            warn!(role, %error, "cannot be asked to end");
        }
        let limit = self.settings.grace + STOP_MARGIN;
        match timeout(limit, child.wait()).await {
            Ok(Ok(status)) if status.success() => info!(role, "ended"),
            Ok(Ok(status)) => warn!(role, cause = describe(status), "ended badly"),
            Ok(Err(error)) => warn!(role, %error, "is gone"),
            Err(_) => {
                error!(role, "did not end within {limit:?} and is killed");
                if let Err(error) = child.kill().await {
                    error!(role, %error, "cannot be killed");
                }
            }
        }
    }
}

fn backoff(deaths: u32) -> Duration {
    let doublings = deaths.saturating_sub(1).min(16);
    RESTART_FIRST.saturating_mul(1 << doublings).min(RESTART_LONGEST)
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => Signal::try_from(signal)
            .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string()),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_keeps_dying_is_started_less_and_less_often() {
        let pauses: Vec<u128> =
            [1, 2, 3, 6, 7, 8, u32::MAX].map(|n| backoff(n).as_millis()).to_vec();
        assert_eq!(pauses, [500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn the_cause_of_a_death_is_told() {
        assert_eq!(describe(ExitStatus::from_raw(9)), "SIGKILL");
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "exit code 1");
    }
}
