//! One server as a child process, which never outlives us.

use std::{
    convert::Infallible,
    ffi::OsStr,
    fs::{File, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::{Pid, User},
};
use tracing::{error, warn};

use super::{
    DevError,
    folder::{file, open_lock},
};
use crate::reap::{self, Ours};

/// A server reads its data first, and repairs it after a crash; Postgres' own tools wait as long.
const START_MAX: Duration = Duration::from_secs(60);

/// How long each way of ending a server has: enough to write its last data, not to hang.
const END_MAX: Duration = Duration::from_secs(10);

/// How long servers of a process that was killed may take to notice and end.
const LOCK_MAX: Duration = Duration::from_secs(20);

/// Short, so that a start waits little longer than the server does.
const POLL: Duration = Duration::from_millis(10);

/// A log that has grown beyond this begins anew at the next start.
const LOG_BYTES_MAX: u64 = 1024 * 1024;

/// How much of its log is told when a server does not start.
const LOG_TAIL_BYTES: u64 = 2_000;

/// Becomes the server, unless we died before the kernel was told to signal our death: then nobody
/// would ever end it. Arguments: our process, then the server's command line.
const LAUNCHER: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;

/// The thread ends when nobody holds the other end of this any more.
pub(super) struct Stop(pub(super) Receiver<Infallible>);

impl Stop {
    /// Waits; fails at once when it is time to end.
    pub(super) fn pause(&self, time: Duration) -> Result<(), DevError> {
        match self.0.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(DevError::Stopped),
            Ok(never) => match never {},
        }
    }
}

/// How a server is run.
pub(super) struct Plan<'a> {
    pub(super) name: &'static str,
    /// Who runs it, where that is not us.
    pub(super) user: Option<&'a User>,
    /// Where it works.
    pub(super) folder: &'a Path,
    pub(super) log: PathBuf,
    /// Asks it to end in order. The kernel sends this too when our thread is gone.
    pub(super) orderly: Signal,
    /// Tells it to end at once.
    pub(super) forced: Signal,
    /// Held while a program of this plan runs, also when we do not run any more.
    pub(super) lock: File,
}

impl Plan<'_> {
    /// Runs a server until it is ready.
    pub(super) fn start<A: AsRef<OsStr>>(
        &self,
        command: &[A],
        stop: &Stop,
        ready: impl Fn(u32) -> bool,
    ) -> Result<Server, DevError> {
        let mut server = self.spawn(command)?;
        let since = Instant::now();
        while !ready(server.child.id()) {
            if let Some(how) = server.ended() {
                return Err(self.not_started(&server, format!("ended ({how})")));
            }
            if since.elapsed() > START_MAX {
                return Err(self.not_started(&server, format!("is not ready after {START_MAX:?}")));
            }
            stop.pause(POLL)?;
        }
        Ok(server)
    }

    /// Runs a program that prepares the folder, until it has ended and `done` finds its work.
    pub(super) fn prepare<A: AsRef<OsStr>>(
        &self,
        command: &[A],
        stop: &Stop,
        done: impl Fn() -> bool,
    ) -> Result<(), DevError> {
        let mut program = self.spawn(command)?;
        let since = Instant::now();
        let how = loop {
            if let Some(how) = program.ended() {
                break how;
            }
            if since.elapsed() > START_MAX {
                break format!("still prepares its folder after {START_MAX:?}");
            }
            stop.pause(POLL)?;
        };
        match done() {
            true => Ok(()),
            false => {
                Err(self.not_started(&program, format!("could not prepare its folder ({how})")))
            }
        }
    }

    fn spawn<A: AsRef<OsStr>>(&self, command: &[A]) -> Result<Server, DevError> {
        let log = File::options().create(true).append(true).mode(0o600).open(&self.log);
        let log = log.map_err(file("open", &self.log))?;
        let mut log_from = log.metadata().map_err(file("read", &self.log))?.len();
        if log_from > LOG_BYTES_MAX {
            log.set_len(0).map_err(file("write", &self.log))?;
            log_from = 0;
        }
        let child = self
            .command(command, log)
            .and_then(|mut command| reap::spawn(|| command.spawn(), |child| Some(child.id())));
        let (child, ours) = child.map_err(|source| match source.kind() {
            ErrorKind::NotFound => DevError::Missing {
                what: "`setpriv`".to_owned(),
                advice: "apt-get install util-linux",
            },
            _ => DevError::Spawn { name: self.name, source },
        })?;
        let (name, orderly, forced) = (self.name, self.orderly, self.forced);
        Ok(Server { name, child, _ours: ours, log: self.log.clone(), log_from, orderly, forced })
    }

    fn command<A: AsRef<OsStr>>(&self, command: &[A], log: File) -> io::Result<Command> {
        let mut launch = Command::new("setpriv");
        launch.args(["--pdeathsig", self.orderly.as_str().trim_start_matches("SIG")]);
        if let Some(user) = self.user {
            launch.arg("--init-groups");
            launch.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
        }
        launch
            .args(["sh", "-c", LAUNCHER, &std::process::id().to_string()])
            .args(command)
            .current_dir(self.folder)
            // Our secrets are nothing to a server, and variables like PGPORT would change it.
            .env_clear()
            .envs([("LC_ALL", "C"), ("TZ", "UTC")])
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            // The lock belongs to the open file: it is held until the last process that got it
            // here has ended, the children of the server included.
            .stdin(self.lock.try_clone()?)
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C goes to the whole group of the terminal; servers end after their clients.
            .process_group(0);
        Ok(launch)
    }

    fn not_started(&self, server: &Server, why: String) -> DevError {
        let (name, log) = (self.name, self.log.clone());
        DevError::NotStarted { name, why, log, tail: server.log_tail() }
    }
}

/// A running server. Ends when this is dropped.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) log: PathBuf,
    child: Child,
    _ours: Ours,
    log_from: u64,
    orderly: Signal,
    forced: Signal,
}

impl Server {
    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            // It is not our child any more, though nobody else here asks for its end.
            Err(error) => Some(error.to_string()),
        }
    }

    /// To the group: a preparation is a shell with programs of its own.
    fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        match killpg(group, signal) {
            // It may have ended by itself since we looked.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => warn!(%error, "cannot send {signal} to {}", self.name),
        }
    }

    fn log_tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut log = File::open(&self.log)?;
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES).max(self.log_from)))?;
            let mut tail = Vec::new();
            log.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
            Ok(tail)
        };
        match read() {
            Ok(tail) if tail.is_empty() => "nothing".to_owned(),
            Ok(tail) => String::from_utf8_lossy(&tail).trim().to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end([self]);
    }
}

/// Asks all of them to end, then insists; returns when they have ended.
pub(super) fn end<'a>(servers: impl IntoIterator<Item = &'a mut Server>) {
    let mut running: Vec<&mut Server> = servers.into_iter().collect();
    let ways: [fn(&Server) -> Signal; 3] =
        [|server| server.orderly, |server| server.forced, |_| Signal::SIGKILL];
    for signal in ways {
        running.retain_mut(|server| server.ended().is_none());
        for server in &running {
            server.signal(signal(server));
        }
        let since = Instant::now();
        while !running.is_empty() && since.elapsed() < END_MAX {
            sleep(POLL);
            running.retain_mut(|server| server.ended().is_none());
        }
        for server in &running {
            warn!("{} has not ended {END_MAX:?} after {}", server.name, signal(server));
        }
    }
    for server in running {
        error!("{} cannot be ended", server.name);
    }
}

/// Waits until nobody runs this server in the data folder: one whose `umbel dev` was killed needs a
/// moment to end. Give the lock to the [`Plan`].
pub(super) fn lock(name: &'static str, data: &Path, stop: &Stop) -> Result<File, DevError> {
    let path = data.join(format!("{name}.lock"));
    let lock = open_lock(&path)?;
    let since = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(file("lock", &path)(error)),
            Err(TryLockError::WouldBlock) if since.elapsed() > LOCK_MAX => {
                return Err(DevError::StillRuns { name, path: data.to_owned() });
            }
            Err(TryLockError::WouldBlock) => stop.pause(POLL)?,
        }
    }
}
