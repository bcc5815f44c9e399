//! The one reaper of children. Processes whose parent has died become ours, where we are process 1
//! and everywhere else because we ask for it: somebody must take note of their end, or they stay as
//! zombies. But the exit code of a child that somebody here waits for must not be taken from them: so
//! each end is peeked at first.

use std::{
    collections::BTreeSet,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use tracing::{debug, warn};

/// Behind an end that waits for its owner here others may wait for us: looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The children that somebody here waits for. Of the process, as its children are.
static OURS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn ours() -> MutexGuard<'static, BTreeSet<i32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that somebody here waits for: its end is left to them while this lives.
#[derive(Debug)]
pub(crate) struct Ours(Option<i32>);

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            ours().remove(&pid);
        }
    }
}

/// Starts a child that the caller waits for. The reaper stands still meanwhile: a child that ends
/// before it is known here would be taken for an orphan.
pub(crate) fn spawn<C>(
    start: impl FnOnce() -> io::Result<C>,
    pid: impl FnOnce(&C) -> Option<u32>,
) -> io::Result<(C, Ours)> {
    let mut ours = ours();
    let child = start()?;
    let pid = pid(&child).and_then(|pid| i32::try_from(pid).ok());
    ours.extend(pid);
    Ok((child, Ours(pid)))
}

/// Takes note of the ends of orphans, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Reaper {
    ends: Signal,
}

impl Reaper {
    /// From now on orphans of our children come to us.
    pub fn new() -> io::Result<Self> {
        // Listen before looking: an end in between would otherwise wait for the next one.
        let ends = signal(SignalKind::child())?;
        prctl::set_child_subreaper(true)?;
        Ok(Self { ends })
    }

    pub async fn run(mut self) {
        loop {
            let all = match step() {
                Ok(all) => all,
                Err(error) => {
                    warn!(%error, "the ends of orphans cannot be looked at");
                    true
                }
            };
            // Ends that come while we look leave a signal behind.
            match all {
                true => drop(self.ends.recv().await),
                false => drop(timeout(LOOK_AGAIN, self.ends.recv()).await),
            }
        }
    }
}

/// Takes note of all ends that nobody here waits for; whether none was left behind one of the others.
fn step() -> nix::Result<bool> {
    let ours = ours();
    loop {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = match waitid(Id::All, peek) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(true),
            Ok(status) => status.pid(),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error),
        };
        let Some(pid) = ended else { return Ok(true) };
        if ours.contains(&pid.as_raw()) {
            return Ok(false);
        }
        reap(pid)?;
    }
}

fn reap(pid: Pid) -> nix::Result<()> {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => debug!(?status, "an orphan has ended"),
        Err(Errno::ECHILD) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        process::{Child, Command},
        thread::sleep,
    };

    use super::*;

    /// Set in the process that this test is made in: in another one the children of other tests would
    /// be orphans to it.
    const INSIDE: &str = "UMBEL_TEST_REAP";

    /// Its end has not been taken note of.
    fn is_zombie(child: &Child) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')
    }

    #[test]
    fn an_end_is_left_to_who_waits_for_it_and_that_of_an_orphan_is_noted() {
        if env::var_os(INSIDE).is_none() {
            let name =
                "reap::tests::an_end_is_left_to_who_waits_for_it_and_that_of_an_orphan_is_noted";
            let mut alone = Command::new(env::current_exe().unwrap());
            alone.args(["--exact", name]).env(INSIDE, "1");
            assert!(alone.status().unwrap().success());
            return;
        }
        let start = |code: &str| Command::new("sh").args(["-c", code]).spawn();
        let (mut ours, known) = spawn(|| start("exit 7"), |child| Some(child.id())).unwrap();
        let mut orphan = start("exit 8").unwrap();
        while !is_zombie(&ours) || !is_zombie(&orphan) {
            sleep(Duration::from_millis(1));
        }
        assert_eq!(step(), Ok(false), "ours is the first");
        assert_eq!(ours.wait().unwrap().code(), Some(7));
        drop(known);
        assert_eq!(step(), Ok(true));
        let taken = orphan.wait().unwrap_err();
        assert_eq!(taken.raw_os_error(), Some(Errno::ECHILD as i32));
    }
}
