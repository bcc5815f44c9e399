//! The binaries as real processes, with nothing in their environment but what a test gives.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::eventually::eventually;

/// A binary of the workspace; `cargo build --workspace` (scripts/test does it) puts it beside the
/// one that asks, or above it where that is a test: target/debug/deps/it-….
pub fn binary(name: &str) -> PathBuf {
    let own = env::current_exe().expect("this program's own path");
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = beside.into_iter().find(|path| path.exists());
    found
        .unwrap_or_else(|| panic!("{name} is not built beside {}: run scripts/test", own.display()))
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// A command line with its environment.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Launch {
    pub fn new(program: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { program: binary(program), args, env: Vec::new() }
    }

    /// The same, started by another program: `nohup`, for instance.
    pub fn under(mut self, launcher: &[&str]) -> Self {
        let mut words = launcher.iter().map(|word| (*word).to_owned());
        let first = words.next().expect("a program");
        let program = std::mem::replace(&mut self.program, PathBuf::from(first));
        let own = std::mem::take(&mut self.args);
        let program = program.into_os_string().into_string().expect("a path that is text");
        self.args = words.chain([program]).chain(own).collect();
        self
    }

    /// The same program in the same environment, with other arguments.
    pub fn with_args(&self, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { program: self.program.clone(), args, env: self.env.clone() }
    }

    /// One argument more.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear();
        // What a process needs to find its programs and folders; no setting of ours.
        for name in ["PATH", "HOME", "USER", "TMPDIR", "LANG"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs to the end.
    pub fn output(&self) -> Output {
        self.command().stdin(Stdio::null()).output().expect("the program starts")
    }

    /// Starts and goes on.
    pub fn start(&self) -> Process {
        let folder =
            env::temp_dir().join(format!("umbel-process-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).expect("a folder for its output");
        let file = |name: &str| File::create(folder.join(name)).expect("a file for its output");
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("the program starts");
        Process { child, folder }
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: PathBuf,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory that it has resident now.
    pub fn rss_kib(&self) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).expect("a living process");
        kib.parse().expect("a number")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        read(&self.folder.join("stderr"))
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        read(&self.folder.join("stdout"))
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Asks it to end and waits for it.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// How it ended, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of process {}", self.pid());
        eventually(&what, async || self.has_ended()).await
    }

    /// The process of a role, where this one is its supervisor.
    pub fn role(&self, role: &str) -> Option<u32> {
        children(self.pid()).into_iter().find(|pid| {
            let line = read(Path::new(&format!("/proc/{pid}/cmdline")));
            line.split('\0').nth(1) == Some(role)
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Its children end with it: they hold the other end of a pipe.
            self.child.kill().expect("a child can be killed");
            self.child.wait().expect("a child can be waited for");
        }
        if std::thread::panicking() {
            eprintln!("--- log of process {}:\n{}", self.pid(), self.log());
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Waits until the API on this port of loopback says that it is ready.
pub async fn api_ready(http: &reqwest::Client, port: u16) {
    eventually("the API is ready", async || {
        let answer = http.get(format!("http://127.0.0.1:{port}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .flat_map(|thread| {
            let list = read(&thread.path().join("children"));
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// Whether a process is there and not merely waiting to be noticed as ended.
pub fn is_alive(pid: u32) -> bool {
    let status = read(Path::new(&format!("/proc/{pid}/status")));
    !status.is_empty() && !status.contains("State:\tZ")
}

/// What a process holds of memory (`VmRSS`), or has held at most (`VmHWM`), in KiB.
pub fn memory(pid: u32, field: &str) -> u64 {
    let status = read(Path::new(&format!("/proc/{pid}/status")));
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).expect("a process that lives")
}

pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("a process number");
    kill(Pid::from_raw(pid), signal).expect("the process can be sent a signal");
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
