//! A private Postgres: one for all tests of a process, with a database for each; or one's own.

use std::{
    cmp::Reverse,
    path::PathBuf,
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use nix::sys::signal::Signal;

use super::{
    Identity,
    child::{Service, command, find_program},
    port::{Port, on_a_free_port},
};

/// The tests of one process run at once, each with a pool or two.
const CONNECTIONS_MAX: u32 = 300;

/// How often a restart is tried: the children of a killed server hold its memory until they have
/// noticed.
const RESTARTS_MAX: usize = 50;

/// A Postgres of one's own, which trusts everybody on 127.0.0.1 and forgoes all that only matters
/// when the power fails. Ends with its folder when dropped, or when the process does.
#[derive(Debug)]
pub struct PostgresServer {
    service: Service,
    programs: PathBuf,
    port: Port,
    databases: AtomicUsize,
    /// Further settings, as behind `-c`.
    settings: Vec<String>,
}

impl PostgresServer {
    /// The server that all tests of this process share. Never stop it; for that there is
    /// [`start`](Self::start).
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<PostgresServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server of one's own, which takes a second or two.
    pub fn start() -> Self {
        Self::launch(None)
    }

    /// Starts a server that speaks TLS as well, with whoever wants it.
    pub fn start_with_tls(identity: &Identity) -> Self {
        Self::launch(Some(identity))
    }

    fn launch(identity: Option<&Identity>) -> Self {
        let programs = programs();
        on_a_free_port(|port| {
            // SIGQUIT ends Postgres at once and, unlike SIGKILL, frees its shared memory.
            let service = Service::new("postgres", Signal::SIGQUIT).not_as_root("postgres");
            let databases = AtomicUsize::new(0);
            let settings = identity.map_or_else(Vec::new, |identity| {
                let file =
                    |name, text: &str| service.write_secret(name, text).display().to_string();
                vec![
                    "ssl=on".to_owned(),
                    format!("ssl_cert_file={}", file("server.crt", &identity.certificate)),
                    format!("ssl_key_file={}", file("server.key", &identity.key)),
                ]
            });
            let server = Self { service, programs: programs.clone(), port, databases, settings };
            server.initialise();
            server.run()?;
            Ok(server)
        })
    }

    /// A fresh, empty database.
    pub fn database(&self) -> TestDatabase<'_> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("create database {name}"));
        TestDatabase { server: self, name }
    }

    /// `postgres://postgres@127.0.0.1:<port>/postgres`: the database that every server has.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// As [`TestDatabase::sql`], in that database.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("postgres", sql).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The port on 127.0.0.1. It stays the same when the server is restarted.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The number of the server's process. Panics if it is down.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// Kills the server as a crash does. Its data stays for [`restart`](Self::restart).
    pub fn kill9(&self) {
        self.service.kill9();
    }

    /// Ends the server at once, telling its clients. Its data stays for [`restart`](Self::restart).
    pub fn stop(&self) {
        self.service.stop();
    }

    /// Starts the server again, on the same port with the same data; ends it first if it runs.
    pub fn restart(&self) {
        let mut why = String::new();
        for _ in 0..RESTARTS_MAX {
            match self.run() {
                Ok(()) => return,
                Err(reason) => why = reason,
            }
        }
        panic!("{why}");
    }

    fn sql_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-p", &self.port().to_string(), "-U", "postgres", "-d", database, "-c", sql])
            .output()
            .expect("psql can be run");
        let text = |bytes| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(format!("psql could not run {sql:?}: {}", text(&output.stderr))),
        }
    }

    fn initialise(&self) {
        self.service.prepare(&command![
            self.programs.join("initdb"),
            "-D",
            self.data(),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
            "--wal-segsize=1",
        ]);
    }

    fn run(&self) -> Result<(), String> {
        let mut command = command![
            self.programs.join("postgres"),
            "-D",
            self.data(),
            "-p",
            self.port().to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        .to_vec();
        for setting in [
            "unix_socket_directories=",
            &format!("max_connections={CONNECTIONS_MAX}"),
            // Commits reach the system before they are answered, so a killed server has them.
            "fsync=off",
            "full_page_writes=off",
            "shared_buffers=16MB",
        ] {
            command.extend(command!["-c", setting]);
        }
        for setting in &self.settings {
            command.extend(command!["-c", setting]);
        }
        let is_ready = self.programs.join("pg_isready");
        let port = self.port().to_string();
        self.service.start(&command, |_| {
            let mut ask = Command::new(&is_ready);
            ask.args(["-q", "-h", "127.0.0.1", "-p", &port]);
            ask.status().is_ok_and(|status| status.success())
        })
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }

    fn data(&self) -> PathBuf {
        self.service.folder().join("data")
    }
}

/// A database that lives as long as this value.
#[derive(Debug)]
pub struct TestDatabase<'a> {
    server: &'a PostgresServer,
    name: String,
}

impl TestDatabase<'_> {
    /// `postgres://postgres@127.0.0.1:<port>/<name>`, straight to the server.
    pub fn url(&self) -> String {
        self.server.url_of(&self.name)
    }

    /// The name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What `psql` prints for this SQL: a line for each row, `|` between columns.
    pub fn sql(&self, sql: &str) -> String {
        self.server.sql_in(&self.name, sql).unwrap_or_else(|why| panic!("{why}"))
    }
}

impl Drop for TestDatabase<'_> {
    fn drop(&mut self) {
        // A test that failed has other worries, and the server may be down because it was meant to.
        let drop = format!("drop database {} with (force)", self.name);
        let _ = self.server.sql_in("postgres", &drop);
    }
}

/// The folder of the newest Postgres on this machine.
fn programs() -> PathBuf {
    // Debian keeps the servers of all versions out of PATH.
    let mut folders: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            Some((folder.file_name()?.to_str()?.parse().ok()?, folder.join("bin")))
        })
        .collect();
    folders.sort_by_key(|(version, _)| Reverse(*version));
    let folders: Vec<PathBuf> = folders.into_iter().map(|(_, folder)| folder).collect();
    let initdb = find_program(&["initdb"], &folders).expect("apt-get install postgresql");
    initdb.parent().expect("a program stands in a folder").to_owned()
}
