//! Keeps one role running: started again with backoff when it dies, given up where it never comes up,
//! ended when it is time.

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
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use umbel_broker::{BrokerSettings, liveness::Cause};

use crate::{
    USAGE,
    death::{self, describe},
    lifeline::{Lifeline, SUPERVISED},
    reap::{self, Ours},
    roles::Role,
    settings::{BOOT_ID, Settings, boot_id},
    supervise::SuperviseError,
    telemetry::{metrics::SOCKETS, names},
};

/// The wait before a role that died is started again: at once is a storm, for long an outage. A task
/// that kills its worker is found after three deaths, and the others should not wait long for it.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_LONGEST: Duration = Duration::from_secs(5);

/// A role that ran this long was well; its next death counts as the first.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Beyond the grace time of a worker's tasks: what it needs to give back and say farewell. With the
/// roles that end before it these are the 15 s that a platform is asked to add to the grace time.
const STOP_MARGIN: Duration = Duration::from_secs(13);

/// Keeps one role running.
pub(crate) struct Keeper {
    pub role: Role,
    pub settings: Settings,
    pub broker: BrokerSettings,
    /// What is still to be told of deaths.
    pub words: TaskTracker,
    /// Whether it is too late for an orderly end.
    pub at_once: CancellationToken,
    pub deaths: Deaths,
    /// Where the roles tell their metrics.
    pub sockets: String,
}

/// A role's process.
struct Process {
    child: Child,
    lifeline: Lifeline,
    _ours: Ours,
}

impl Keeper {
    /// Until `stop`, or an error that starting again does not mend.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), SuperviseError> {
        let role = self.role.as_str();
        while !stop.is_cancelled() {
            let (started, boot, oom_kills) = (Instant::now(), boot_id(), death::oom_kills());
            let mut process =
                self.spawn(&boot).map_err(|source| SuperviseError::Spawn { role, source })?;
            info!(role, pid = process.child.id(), boot, "started");
            metrics::counter!(names::ROLE_STARTS, "child" => role).increment(1);
            let asked = stop.run_until_cancelled(process.child.wait()).await;
            let is_over = asked.is_none();
            let ended = match asked {
                Some(ended) => ended,
                None => self.end(&mut process.child).await,
            };
            let was_ready = process.lifeline.was_ready().unwrap_or_else(|error| {
                warn!(role, %error, "it is not known whether it was ready");
                true
            });
            let cause = match ended {
                // Of one that was ready it is the word of a task, and no setting is wrong.
                Ok(status) if status.code() == Some(USAGE.into()) && !was_ready => {
                    return Err(SuperviseError::Refused { role });
                }
                Ok(status) => death::cause(status, death::oom_kills() > oom_kills, is_over),
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
                self.words.spawn(death::tell(self.broker.clone(), boot, cause.clone()));
            }
            if is_over {
                return Ok(());
            }
            let is_charged = !matches!(cause, Cause::Killed(_));
            let pause = self.deaths.pause(is_charged, was_ready, started.elapsed());
            let Some(pause) = pause else {
                let deaths = self.deaths.unready;
                return Err(SuperviseError::NeverReady { role, deaths });
            };
            warn!(role, "starting again in {pause:?}");
            stop.run_until_cancelled(sleep(pause)).await;
        }
        Ok(())
    }

    fn spawn(&self, boot: &str) -> io::Result<Process> {
        let (lifeline, stdin) = Lifeline::new()?;
        let mut command = Command::new(env::current_exe()?);
        command
            .arg(self.role.as_str())
            .envs(self.settings.as_env(self.role))
            .env(BOOT_ID, boot)
            .env(SUPERVISED, "1")
            .env(SOCKETS, &self.sockets)
            // Ends when this process does, SIGKILL included.
            .stdin(stdin)
            // Standard output is the supervisor's: its lines are read by scripts.
            .stdout(Stdio::null())
            // A Ctrl-C of the terminal goes to the supervisor alone: a second signal would cut a drain short.
            .process_group(0)
            .kill_on_drop(true);
        let (child, ours) = reap::spawn(|| command.spawn(), Child::id)?;
        Ok(Process { child, lifeline, _ours: ours })
    }

    /// Asks the child to end, and ends it.
    async fn end(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let role = self.role.as_str();
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            warn!(role, %error, "cannot be asked to end");
        }
        let limit = self.settings.grace + STOP_MARGIN;
        let ended = self.at_once.run_until_cancelled(timeout(limit, child.wait())).await;
        match ended {
            Some(Ok(ended)) => {
                match &ended {
                    Ok(status) if status.success() => info!(role, "ended"),
                    Ok(status) => warn!(role, cause = describe(*status), "ended badly"),
                    Err(error) => warn!(role, %error, "is gone"),
                }
                return ended;
            }
            Some(Err(_)) => error!(role, "did not end within {limit:?} and is killed"),
            None => warn!(role, "is killed"),
        }
        child.start_kill()?;
        child.wait().await
    }
}

/// How often a role has died.
#[derive(Debug)]
pub(crate) struct Deaths {
    /// Since it last was well.
    recent: u32,
    /// Since it last was ready.
    unready: u32,
    /// So many before it was ready once are too many.
    limit: u32,
}

impl Deaths {
    pub const fn new(limit: u32) -> Self {
        Self { recent: 0, unready: 0, limit }
    }

    /// Counts a death; how long to wait before the next start, if it makes sense.
    ///
    /// What was ended from outside (not charged) was well. What keeps dying by itself is started less
    /// and less often. Only who was never ready is given up: what kills a worker later is a task, and
    /// becomes a dead letter.
    fn pause(&mut self, is_charged: bool, was_ready: bool, lived: Duration) -> Option<Duration> {
        if was_ready {
            self.unready = 0;
        }
        if !is_charged {
            return Some(RESTART_FIRST);
        }
        self.recent = if lived >= WELL_AFTER { 1 } else { self.recent.saturating_add(1) };
        if !was_ready {
            self.unready += 1;
        }
        (self.unready < self.limit).then(|| backoff(self.recent))
    }
}

fn backoff(deaths: u32) -> Duration {
    let doublings = deaths.saturating_sub(1).min(16);
    RESTART_FIRST.saturating_mul(1 << doublings).min(RESTART_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn a_role_that_keeps_dying_is_started_less_and_less_often() {
        let pauses: Vec<u128> = [1, 2, 3, 4, 5, u32::MAX].map(|n| backoff(n).as_millis()).to_vec();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    }

    #[test]
    fn a_role_that_never_comes_up_is_given_up() {
        let mut deaths = Deaths::new(3);
        assert_eq!(deaths.pause(true, false, SOON), Some(RESTART_FIRST));
        assert_eq!(deaths.pause(true, false, SOON), Some(RESTART_FIRST * 2));
        // Long tries are none the better for it.
        assert_eq!(deaths.pause(true, false, WELL_AFTER), None);
    }

    #[test]
    fn a_role_that_tasks_kill_is_not_given_up_however_often() {
        let mut deaths = Deaths::new(3);
        for _ in 0..1_000 {
            assert!(deaths.pause(true, true, SOON).is_some());
        }
        assert_eq!(deaths.pause(true, true, SOON), Some(RESTART_LONGEST));
    }

    #[test]
    fn deaths_before_and_after_it_was_ready_are_not_added_up() {
        let mut deaths = Deaths::new(3);
        for _ in 0..10 {
            assert!(deaths.pause(true, false, SOON).is_some());
            assert!(deaths.pause(true, false, SOON).is_some());
            assert!(deaths.pause(true, true, SOON).is_some());
        }
    }

    #[test]
    fn who_kills_a_role_does_not_make_it_bad() {
        let mut deaths = Deaths::new(3);
        for _ in 0..100 {
            assert_eq!(deaths.pause(false, false, SOON), Some(RESTART_FIRST));
        }
    }
}
