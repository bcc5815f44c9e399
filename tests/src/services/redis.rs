//! A private Redis (or Valkey).

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{
    child::{Service, command, find_program},
    port::{Port, on_a_free_port},
};

/// A server that accepts but says nothing is asked again.
const ASK_MAX: Duration = Duration::from_secs(1);

/// Set: every server knows the users of `deploy/redis-users.acl`, and the parts of the house come
/// as these users.
const RESTRICTED: &str = "UMBEL_TEST_ACL";

/// The users that are shipped. They have no passwords: who deploys them gives them some.
const USERS: &str = include_str!("../../../deploy/redis-users.acl");

/// The password of each user here.
const PASSWORD: &str = "known-to-every-test";

/// Who asks what was denied, whatever a test does to the user `default`.
const WARDEN: &str = "warden";

/// As many as Redis remembers, unless told otherwise.
const DENIED_MAX: usize = 128;

/// A Redis of one's own, with its append-only file written every second, which refuses writes
/// rather than forget. Ends with its folder when dropped; a restricted one fails the test that it
/// denied something.
#[derive(Debug)]
pub struct RedisServer {
    service: Service,
    program: PathBuf,
    port: Port,
    /// What starts the server, in front of its own command line.
    launcher: Vec<OsString>,
    options: Vec<String>,
    restricted: bool,
}

impl RedisServer {
    /// Starts `redis-server` or `valkey-server`, or what `UMBEL_REDIS_BIN` names; restricted where
    /// `UMBEL_TEST_ACL` is set.
    pub fn start() -> Self {
        Self::launch(&[], &[], env::var_os(RESTRICTED).is_some())
    }

    /// Starts one that knows the users of `deploy/redis-users.acl`.
    pub fn start_restricted() -> Self {
        Self::launch(&[], &[], true)
    }

    /// Starts one with further options, as on its command line (`--maxmemory 10mb`), and no users;
    /// `launcher` starts it, for instance `env A=B`.
    pub fn start_with(launcher: &[OsString], options: &[&str]) -> Self {
        Self::launch(launcher, options, false)
    }

    fn launch(launcher: &[OsString], options: &[&str], restricted: bool) -> Self {
        on_a_free_port(|port| {
            let service = Service::new("redis", Signal::SIGKILL);
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            let launcher = launcher.to_vec();
            let server = Self { service, program: program(), port, launcher, options, restricted };
            server.run(&[], Self::is_ready)?;
            Ok(server)
        })
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// The way in for a role of the house: as its user where the server is restricted.
    pub fn url_as(&self, user: &str) -> String {
        if self.restricted {
            format!("redis://{user}:{PASSWORD}@127.0.0.1:{}", self.port())
        } else {
            self.url()
        }
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
        self.run(&[], Self::is_ready).unwrap_or_else(|why| panic!("{why}"));
    }

    /// As [`restart`](Self::restart), with further options, and does not wait until the server has
    /// read its data.
    pub fn restart_loading(&self, options: &[&str]) {
        self.run(options, Self::is_up).unwrap_or_else(|why| panic!("{why}"));
    }

    /// What users were refused since this was asked last: user, why, what.
    pub fn denied(&self) -> Vec<String> {
        assert!(self.restricted, "only a restricted server keeps a record");
        let asked = || -> redis::RedisResult<Vec<HashMap<String, redis::Value>>> {
            let mut connection =
                redis::Client::open(self.url_as(WARDEN))?.get_connection_with_timeout(ASK_MAX)?;
            connection.set_read_timeout(Some(ASK_MAX))?;
            let entries = redis::cmd("ACL").arg("LOG").arg(DENIED_MAX).query(&mut connection)?;
            redis::cmd("ACL").arg("LOG").arg("RESET").exec(&mut connection)?;
            Ok(entries)
        };
        let entries = asked().unwrap_or_else(|error| panic!("what was denied: {error}"));
        let text = |entry: &HashMap<String, redis::Value>, name: &str| -> String {
            entry
                .get(name)
                .and_then(|value| redis::from_redis_value_ref(value).ok())
                .unwrap_or_default()
        };
        entries
            .iter()
            .map(|entry| ["username", "reason", "object"].map(|name| text(entry, name)).join(" "))
            // A wrong password is not a command that was missing.
            .filter(|denied| denied.split(' ').nth(1) != Some("auth"))
            .collect()
    }

    fn run(&self, more: &[&str], ready: fn(&Self, u32) -> bool) -> Result<(), String> {
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
        if self.restricted {
            let file = self.service.folder().join("users.acl");
            // What a test has changed and saved stays over a restart.
            if !file.exists() {
                fs::write(&file, users()).expect("the folder is ours");
            }
            command.extend(command!["--aclfile", file]);
        }
        command.extend(self.options.iter().map(OsString::from));
        command.extend(more.iter().map(OsString::from));
        self.service.start(&command, |pid| ready(self, pid))
    }

    /// Whether the server has read its data: until then it answers most commands with `-LOADING`.
    fn is_ready(&self, pid: u32) -> bool {
        self.hello(pid).is_some_and(|answer| answer.starts_with("+PONG"))
    }

    fn is_up(&self, pid: u32) -> bool {
        self.hello(pid).is_some()
    }

    /// What the server with this pid says first, rather than another one that was faster.
    fn hello(&self, pid: u32) -> Option<String> {
        let ask = || -> std::io::Result<String> {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port()))?;
            connection.set_read_timeout(Some(ASK_MAX))?;
            connection.write_all(b"ping\r\ninfo server\r\nquit\r\n")?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().ok().filter(|answer| answer.contains(&format!("process_id:{pid}\r\n")))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.restricted && self.service.is_running() && !thread::panicking() {
            let denied = self.denied();
            assert!(
                denied.is_empty(),
                "deploy/redis-users.acl lacks what the house needs: {denied:#?}"
            );
        }
    }
}

fn program() -> PathBuf {
    match env::var_os("UMBEL_REDIS_BIN") {
        Some(program) => PathBuf::from(program),
        None => find_program(&["redis-server", "valkey-server"], &[])
            .expect("redis-server or valkey-server: apt-get install redis-server"),
    }
}

/// The users that are shipped, with a password, and one more.
fn users() -> String {
    let warden = format!("user {WARDEN} on ~* &* +@all\n");
    (USERS.to_owned() + &warden).replace(" on ", &format!(" on >{PASSWORD} "))
}
