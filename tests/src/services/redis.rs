//! A private Redis (or Valkey).

use std::{
    env,
    ffi::OsString,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    child::{Service, command, find_program},
    port::{Port, on_a_free_port},
};

/// A server that accepts but says nothing is asked again.
const ASK_MAX: Duration = Duration::from_secs(1);

/// A Redis of one's own, with its append-only file written every second, which refuses writes
/// rather than forget. Ends with its folder when dropped.
#[derive(Debug)]
pub struct RedisServer {
    service: Service,
    program: PathBuf,
    port: Port,
    /// What starts the server, in front of its own command line.
    launcher: Vec<OsString>,
    settings: Vec<String>,
}

impl RedisServer {
    /// Starts `redis-server` or `valkey-server`, or what `UMBEL_REDIS_BIN` names.
    pub fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// As [`start`](Self::start): the server is started by `launcher` (for instance `env A=B`), and
    /// has further settings as its command line takes them (`--maxmemory 10mb`).
    pub fn start_with(launcher: &[OsString], settings: &[&str]) -> Self {
        let program = match env::var_os("UMBEL_REDIS_BIN") {
            Some(program) => PathBuf::from(program),
            None => find_program(&["redis-server", "valkey-server"], &[])
                .expect("redis-server or valkey-server: apt-get install redis-server"),
        };
        on_a_free_port(|port| {
            let service = Service::new("redis", Signal::SIGKILL);
            let server = Self {
                service,
                program: program.clone(),
                port,
                launcher: launcher.to_vec(),
                settings: settings.iter().map(|word| (*word).to_owned()).collect(),
            };
            server.run()?;
            Ok(server)
        })
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// The port on 127.0.0.1. It stays the same when the server is restarted.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The folder with its data.
    pub fn dir(&self) -> &Path {
        self.service.folder()
    }

    /// The number of the server's process. Panics if it is down.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// What `redis-cli` prints for this command, without the last line end.
    pub fn cli(&self, command: &[&str]) -> String {
        let beside: Vec<PathBuf> = self.program.parent().map(PathBuf::from).into_iter().collect();
        let cli = find_program(&["redis-cli", "valkey-cli"], &beside).expect("redis-cli");
        let output = Command::new(cli)
            .args(["-p", &self.port().to_string()])
            .args(command)
            .output()
            .expect("redis-cli can be run");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "redis-cli {command:?}: {text}");
        text.trim_end_matches('\n').to_owned()
    }

    /// Kills the server as a crash does. Its data stays for [`restart`](Self::restart).
    pub fn kill9(&self) {
        self.service.kill9();
    }

    /// Asks the server to save and end. Its data stays for [`restart`](Self::restart).
    pub fn stop(&self) {
        self.cli(&["shutdown"]);
        self.service.stop();
    }

    /// Starts the server again, on the same port with the same data; ends it first if it runs.
    pub fn restart(&self) {
        self.run().unwrap_or_else(|why| panic!("{why}"));
    }

    fn run(&self) -> Result<(), String> {
        let mut command = self.launcher.clone();
        command.extend(command![
            &self.program,
            "--bind",
            "127.0.0.1",
            "--port",
            self.port().to_string(),
            "--dir",
            self.service.folder(),
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--maxmemory-policy",
            "noeviction",
        ]);
        command.extend(self.settings.iter().map(OsString::from));
        let port = self.port();
        self.service.start(&command, |pid| is_ready(port, pid))
    }
}

/// Whether the server with this pid answers, rather than another one that was faster, and has
/// read its data: until then it answers most commands with `-LOADING`.
fn is_ready(port: u16, pid: u32) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        connection.set_read_timeout(Some(ASK_MAX))?;
        connection.write_all(b"ping\r\ninfo server\r\nquit\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| {
        answer.starts_with("+PONG") && answer.contains(&format!("process_id:{pid}\r\n"))
    })
}
