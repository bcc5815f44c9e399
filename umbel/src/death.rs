//! The death of a worker's process: what it means for the tasks that it held, and the word of it
//! to the broker, so that they run again at once and not after a lease.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use chrono::Utc;
use nix::sys::signal::Signal;
use tokio::time::sleep;
use tracing::{error, info, warn};
use umbel_broker::{BrokerError, BrokerSettings, Client, keys::Shard, liveness::Cause};

use crate::{cgroup, signals::HARD_STOP};

/// While Redis is away the word waits: it is asked again soon at first, then less often.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// What a death says of the tasks that were held. `out_of_memory`: the kernel has ended processes
/// of this container for their memory since this one was started. `asked`: it had been asked to end;
/// who ends well without that was ended by what it ran, or has signed off before this counts.
pub(crate) fn cause(status: ExitStatus, out_of_memory: bool, asked: bool) -> Cause {
    let how = describe(status);
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(0), _) if asked => Cause::Drained,
        // Told twice to stop.
        (Some(HARD_STOP), _) => Cause::Killed(how),
        (_, Some(Ok(Signal::SIGKILL))) if out_of_memory => Cause::OutOfMemory,
        (
            _,
            Some(Ok(
                Signal::SIGKILL
                | Signal::SIGTERM
                | Signal::SIGINT
                | Signal::SIGHUP
                | Signal::SIGQUIT,
            )),
        ) => Cause::Killed(how),
        _ => Cause::Crashed(how),
    }
}

pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => Signal::try_from(signal)
            .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string()),
        (None, None) => "unknown".to_owned(),
    }
}

/// How often the kernel has ended a process for its memory, in this container where that can be
/// read, else on the whole machine.
pub(crate) fn oom_kills() -> u64 {
    let read = |path: &Path| count(&fs::read_to_string(path).ok()?);
    let of_group = |group: PathBuf| {
        // The second is that of the first version of control groups.
        ["memory.events", "memory.oom_control"].iter().find_map(|file| read(&group.join(file)))
    };
    let of_container = || cgroup::of_process("memory").into_iter().find_map(of_group);
    of_container().or_else(|| read(Path::new("/proc/vmstat"))).unwrap_or_default()
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Tells the broker that the process of this boot is gone, and has what it held run again; asks
/// until Redis answers.
///
/// With a connection of its own for as long as that takes: the supervisor needs none otherwise.
pub(crate) async fn tell(broker: BrokerSettings, boot: String, cause: Cause) {
    let client = match Client::open(&broker, "supervisor") {
        Ok(client) => client,
        Err(error) => return error!(boot, %error, "cannot tell of the death of a worker"),
    };
    let mut pause = RETRY_FIRST;
    while let Err(error) = try_tell(&client, &boot, &cause).await {
        warn!(boot, %error, "cannot tell of the death of a worker; trying again in {pause:?}");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_LONGEST);
    }
}

async fn try_tell(client: &Client, boot: &str, cause: &Cause) -> Result<(), BrokerError> {
    let dead = client.boot_ended(boot, cause, Utc::now()).await?;
    let queues = client.queue_names().await?;
    for (worker, cause) in dead {
        for queue in &queues {
            client.recover_all(&Shard::first(queue), &worker, cause.is_charged()).await?;
        }
        info!(worker, %cause, "told the broker that it is dead");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_death_is_told() {
        assert_eq!(describe(ExitStatus::from_raw(9)), "SIGKILL");
        assert_eq!(describe(ExitStatus::from_raw(1 << 8)), "exit code 1");
    }

    #[test]
    fn only_deaths_that_a_task_may_have_caused_are_charged() {
        let (exit, signal) = (|code: i32| code << 8, |signal: Signal| signal as i32);
        for (raw, out_of_memory, charged) in [
            (exit(HARD_STOP), false, false),
            (exit(1), false, true),
            (exit(70), false, true),
            (exit(101), false, true),
            (signal(Signal::SIGKILL), false, false),
            (signal(Signal::SIGKILL), true, true),
            (signal(Signal::SIGTERM), true, false),
            (signal(Signal::SIGABRT), false, true),
            (signal(Signal::SIGSEGV), false, true),
        ] {
            let cause = cause(ExitStatus::from_raw(raw), out_of_memory, false);
            assert_eq!(cause.is_charged(), charged, "{raw} {out_of_memory}: {cause}");
        }
        assert_eq!(cause(ExitStatus::from_raw(exit(0)), false, true), Cause::Drained);
        // A task may call `exit` as well as it may abort.
        assert!(cause(ExitStatus::from_raw(exit(0)), false, false).is_charged());
    }

    #[test]
    fn the_counter_of_the_kernel_is_read() {
        assert_eq!(count("low 0\nhigh 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("low 0\n"), None);
    }
}
