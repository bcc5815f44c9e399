//! The supervising process: one child a role, started again with backoff, all ended together.

use std::{
    env, io,
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
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use umbel_broker::{Client, liveness::Cause};

use crate::{
    USAGE,
    death::{self, describe},
    roles::{Role, SUPERVISED},
    settings::{BOOT_ID, Settings, boot_id},
    telemetry::{
        metrics::{House, SOCKETS},
        names,
    },
};

/// The wait before a role that died is started again: at once is a storm, for long an outage. A task
/// that kills its worker is found after three deaths, and the others should not wait long for it.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_LONGEST: Duration = Duration::from_secs(5);

/// A role that ran this long was well; its next death counts as the first.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Beyond the grace time of a worker's tasks: what it needs to give back and say farewell.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// How long the last word of dead workers may take when all is to end; the lease does without it.
const WORD_LIMIT: Duration = Duration::from_secs(5);

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
    #[error("the metrics cannot be told")]
    Metrics(#[source] anyhow::Error),
    #[error("the keeper of a role has ended by a panic: a defect here")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Keeps the three roles running until `shutdown`, then asks all of them to end at once: they
/// share one grace time of the platform, and what the API still enqueues waits in Redis.
pub(crate) async fn supervise(
    settings: &Settings,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), SuperviseError> {
    let house = House::new(&[Role::Api, Role::Beat, Role::Worker].map(Role::as_str));
    house.clone().start(settings, shutdown.clone()).await?;
    let stop = shutdown.child_token();
    let words = TaskTracker::new();
    let mut keepers = JoinSet::new();
    for role in [Role::Api, Role::Beat, Role::Worker] {
        let (settings, client, words) = (settings.clone(), client.clone(), words.clone());
        let sockets = house.sockets().to_owned();
        let keeper = Keeper { role, settings, client, words, deaths: 0, sockets };
        keepers.spawn(keeper.run(stop.clone()));
    }
    let mut result = Ok(());
    while let Some(ended) = keepers.join_next().await {
        // A keeper ends only when it was asked to, or when its role can never run.
        stop.cancel();
        result = result.and(ended.unwrap_or_else(|panic| Err(SuperviseError::Panicked(panic))));
    }
    words.close();
    if timeout(WORD_LIMIT, words.wait()).await.is_err() {
        warn!("redis was not told of all dead workers; their tasks run again after a lease");
    }
    result
}

/// Keeps one role running.
struct Keeper {
    role: Role,
    settings: Settings,
    client: Client,
    /// What is still to be told of deaths.
    words: TaskTracker,
    deaths: u32,
    /// Where the roles tell their metrics.
    sockets: String,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) -> Result<(), SuperviseError> {
        let role = self.role.as_str();
        while !stop.is_cancelled() {
            let (started, boot, oom_kills) = (Instant::now(), boot_id(), death::oom_kills());
            let mut child =
                self.spawn(&boot).map_err(|source| SuperviseError::Spawn { role, source })?;
            // Held, because `wait` would close it: to the child its end is the end of this process.
            let _lifeline = child.stdin.take();
            info!(role, pid = child.id(), boot, "started");
            metrics::counter!(names::ROLE_STARTS, "child" => role).increment(1);
            let asked = stop.run_until_cancelled(child.wait()).await;
            let is_over = asked.is_none();
            let ended = match asked {
                Some(ended) => ended,
                None => self.end(child).await,
            };
            let cause = match ended {
                Ok(status) if status.code() == Some(USAGE.into()) => {
                    return Err(SuperviseError::Settings { role });
                }
                Ok(status) => death::cause(status, death::oom_kills() > oom_kills),
                Err(error) => {
                    error!(role, %error, "is gone");
                    Cause::Crashed("unseen".to_owned())
                }
            };
            if !is_over {
                error!(role, %cause, "died");
            }
            // Only now that the process is no more: nobody beats and settles under its ids.
            if matches!(self.role, Role::Worker) {
                self.words.spawn(death::tell(self.client.clone(), boot, cause.clone()));
            }
            if is_over {
                return Ok(());
            }
            let pause = self.pause(&cause, started.elapsed());
            warn!(role, "starting again in {pause:?}");
            stop.run_until_cancelled(sleep(pause)).await;
        }
        Ok(())
    }

    /// What was ended from outside was well; what keeps dying by itself is started less and less
    /// often.
    fn pause(&mut self, cause: &Cause, lived: Duration) -> Duration {
        match cause {
            Cause::Killed(_) => RESTART_FIRST,
            _ => {
                self.deaths = if lived >= WELL_AFTER { 1 } else { self.deaths + 1 };
                backoff(self.deaths)
            }
        }
    }

    fn spawn(&self, boot: &str) -> io::Result<Child> {
        Command::new(env::current_exe()?)
            .arg(self.role.as_str())
            .envs(self.settings.as_env(self.role))
            .env(BOOT_ID, boot)
            .env(SUPERVISED, "1")
            .env(SOCKETS, &self.sockets)
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
    async fn end(&self, mut child: Child) -> io::Result<ExitStatus> {
        let role = self.role.as_str();
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            warn!(role, %error, "cannot be asked to end");
        }
        let limit = self.settings.grace + STOP_MARGIN;
        if let Ok(ended) = timeout(limit, child.wait()).await {
            match &ended {
                Ok(status) if status.success() => info!(role, "ended"),
                Ok(status) => warn!(role, cause = describe(*status), "ended badly"),
                Err(error) => warn!(role, %error, "is gone"),
            }
            return ended;
        }
        error!(role, "did not end within {limit:?} and is killed");
        child.start_kill()?;
        child.wait().await
    }
}

fn backoff(deaths: u32) -> Duration {
    let doublings = deaths.saturating_sub(1).min(16);
    RESTART_FIRST.saturating_mul(1 << doublings).min(RESTART_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_keeps_dying_is_started_less_and_less_often() {
        let pauses: Vec<u128> = [1, 2, 3, 4, 5, u32::MAX].map(|n| backoff(n).as_millis()).to_vec();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    }
}
