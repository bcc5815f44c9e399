//! A server as a child: its folder, its process, and the watchdog that ends both if we cannot.
//!
//! A test process may panic, be killed, or simply end with servers in statics, which are never
//! dropped. So each server has a small shell beside it, which reads a pipe from us until it ends:
//! then we are gone, and the shell ends the server and removes the folder.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};

/// Loaded machines start servers slowly; a server that takes longer than this is broken.
const START_MAX: Duration = Duration::from_secs(60);

/// A server that has not ended by then after being asked is killed.
const END_MAX: Duration = Duration::from_secs(10);

/// Short, so that a test waits little longer than its server does.
const POLL: Duration = Duration::from_millis(5);

/// How much of a server's log is told when it does not start.
const LOG_TAIL_BYTES: usize = 2_000;

/// Moves the folder away before it looks who works in it: a server that begins only now does not
/// find its folder any more, and so does not begin. Nobody may be there to take note of the end of
/// an orphan, so that a zombie counts as ended.
/// Arguments: folder, signal.
const WATCHDOG: &str = r#"
runs() { kill -0 "$1" && ! grep -q "^State:.Z" "/proc/$1/status"; }
cat >/dev/null
mv "$1" "$1.gone" || exit 0
if read -r pid <"$1.gone/pid"; then
    kill -s "$2" "$pid"
    waits=0
    while runs "$pid" && [ "$waits" -lt 100 ]; do waits=$((waits + 1)); sleep 0.1; done
    kill -s KILL "$pid"
fi
until rm -rf "$1.gone"; do sleep 0.1; done
"#;

/// Leaves its number before it becomes the server. Arguments: the folder, then the server's.
const LAUNCHER: &str = r#"echo $$ >"$0/pid" && exec "$@""#;

/// A folder and the one process that may run in it. Both are gone when this is dropped.
#[derive(Debug)]
pub(super) struct Service {
    name: &'static str,
    folder: PathBuf,
    /// What asks this server to end quickly and leave nothing behind.
    end: Signal,
    /// Who runs the server, where we are root and it will not have that.
    user: Option<User>,
    child: Mutex<Option<Child>>,
    watchdog: Child,
    watchdog_pipe: Option<ChildStdin>,
}

impl Service {
    /// Makes the folder and sets the watchdog over it; starts nothing yet.
    pub(super) fn new(name: &'static str, end: Signal) -> Self {
        // The UUID is for threads, the process for people who wonder whose folder this is.
        let unique = uuid::Uuid::new_v4().simple();
        let folder = env::temp_dir().join(format!("umbel-{name}-{}-{unique}", std::process::id()));
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .args([folder.as_os_str(), OsStr::new(signal_name(end))])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C and the kill of a whole group are for the tests; the watchdog outlives them.
            .process_group(0)
            .spawn()
            .expect("`sh` for the watchdog");
        let watchdog_pipe = watchdog.stdin.take();
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("cannot make {folder:?}: {error}"));
        Self { name, folder, end, user: None, child: Mutex::new(None), watchdog, watchdog_pipe }
    }

    /// Postgres and PgBouncer refuse to run as root: where we are root, `user` runs the server and
    /// owns the folder.
    pub(super) fn not_as_root(mut self, user: &str) -> Self {
        if geteuid().is_root() {
            let found = User::from_name(user).expect("the system's users can be read");
            let user = found.unwrap_or_else(|| {
                panic!("{} does not run as root, and there is no user `{user}`", self.name)
            });
            chown(&self.folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap_or_else(
                |error| panic!("cannot give {:?} to {}: {error}", self.folder, user.name),
            );
            self.user = Some(user);
        }
        self
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file into the folder that the server alone can read, as servers want it of keys.
    pub(super) fn write_secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("the folder is ours");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the file is ours");
        if let Some(user) = &self.user {
            chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("we are root");
        }
        path
    }

    /// The number of the server's process.
    pub(super) fn pid(&self) -> u32 {
        let child = self.child();
        child.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).id()
    }

    /// Whether the server was started and has not ended.
    pub(super) fn is_running(&self) -> bool {
        !self.exited()
    }

    /// Starts the server and waits until it is ready, or says why it is not.
    pub(super) fn start(
        &self,
        command: &[OsString],
        ready: impl Fn(u32) -> bool,
    ) -> Result<(), String> {
        self.spawn(command);
        let pid = self.pid();
        let since = Instant::now();
        while !ready(pid) {
            if self.exited() {
                return Err(format!("{} ended at once: {}", self.name, self.log_tail()));
            }
            if since.elapsed() > START_MAX {
                return Err(format!(
                    "{} is not ready after {START_MAX:?}: {}",
                    self.name,
                    self.log_tail()
                ));
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Runs a program that prepares the folder, to its end.
    pub(super) fn prepare(&self, command: &[OsString]) {
        self.spawn(command);
        let status = self.child().as_mut().map(Child::wait);
        match status {
            Some(Ok(status)) if status.success() => {}
            other => panic!("{:?} ended with {other:?}: {}", command[0], self.log_tail()),
        }
    }

    /// Ends the server as a crash does, at once and without a word to it.
    pub(super) fn kill9(&self) {
        self.end_by(Signal::SIGKILL);
    }

    /// Ends the server in its own quick way.
    pub(super) fn stop(&self) {
        self.end_by(self.end);
    }

    fn spawn(&self, command: &[OsString]) {
        self.stop();
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.unwrap_or_else(|error| panic!("cannot write {:?}: {error}", self.log_path()));
        let mut launch = Command::new("sh");
        launch.args(["-c", LAUNCHER]).arg(&self.folder);
        if let Some(user) = &self.user {
            launch.args(["setpriv", "--init-groups"]);
            launch.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
        }
        let child = launch
            .args(command)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .process_group(0)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        *self.child() = Some(child);
    }

    fn exited(&self) -> bool {
        let exited = |child: &mut Child| child.try_wait().expect("our own child").is_some();
        self.child().as_mut().is_none_or(exited)
    }

    fn end_by(&self, signal: Signal) {
        let since = Instant::now();
        let mut signal = Some(signal);
        while !self.exited() {
            if let Some(signal) = signal.take() {
                // It may have ended by itself since we looked.
                let _ = kill(Pid::from_raw(self.pid() as i32), signal);
            } else if since.elapsed() > END_MAX {
                signal = Some(Signal::SIGKILL);
            }
            sleep(POLL);
        }
        *self.child() = None;
        // The system may give the number to somebody else, whom the watchdog must not end. There
        // is no such file if nothing was started.
        let _ = fs::remove_file(self.folder.join("pid"));
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
        self.watchdog_pipe = None;
        // It removes the folder; when it has ended there is nothing left of this server.
        let _ = self.watchdog.wait();
    }
}

/// The first of `names` in `folders`, then in `PATH`.
pub(super) fn find_program(names: &[&str], folders: &[PathBuf]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = env::split_paths(&path).collect();
    names
        .iter()
        .flat_map(|name| folders.iter().chain(&path).map(move |folder| folder.join(name)))
        .find(|program| program.is_file())
}

/// A command line of parts that are not all text.
macro_rules! command {
    ($($part:expr),* $(,)?) => { [$(::std::ffi::OsString::from($part)),*] };
}
pub(super) use command;

fn signal_name(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}
