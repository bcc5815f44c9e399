//! A private PgBouncer, in transaction mode unless told otherwise: the pooler that stands between us and Postgres.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
};

use nix::sys::signal::Signal;

use super::{
    Identity, PostgresServer, TestDatabase,
    child::{Service, command, find_program},
    port::{Port, on_a_free_port},
};

/// A pooler of one's own, which trusts everybody on 127.0.0.1. Ends with its folder when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    service: Service,
    program: PathBuf,
    port: Port,
}

impl PgBouncer {
    /// Starts a pooler that shares `pool_size` connections to each database of `server`.
    pub fn start(server: &PostgresServer, pool_size: u32) -> Self {
        Self::launch(server, pool_size, None, "transaction", "postgres")
    }

    /// Starts one whose connections to the server are all of this role.
    pub fn start_as(server: &PostgresServer, pool_size: u32, role: &str) -> Self {
        Self::launch(server, pool_size, None, "transaction", role)
    }

    /// Starts one that takes nobody without TLS.
    pub fn start_with_tls(server: &PostgresServer, pool_size: u32, identity: &Identity) -> Self {
        Self::launch(server, pool_size, Some(identity), "transaction", "postgres")
    }

    /// Starts one in statement mode, through which nobody can have a transaction.
    pub fn start_in_statement_mode(server: &PostgresServer) -> Self {
        Self::launch(server, 2, None, "statement", "postgres")
    }

    /// Starts one in session mode, which lends a connection for as long as a client stays.
    pub fn start_in_session_mode(server: &PostgresServer, pool_size: u32) -> Self {
        Self::launch(server, pool_size, None, "session", "postgres")
    }

    fn launch(
        server: &PostgresServer,
        pool_size: u32,
        identity: Option<&Identity>,
        mode: &str,
        role: &str,
    ) -> Self {
        let folders = [PathBuf::from("/usr/sbin")];
        let program =
            find_program(&["pgbouncer"], &folders).expect("pgbouncer: apt-get install pgbouncer");
        on_a_free_port(|port| {
            let service = Service::new("pgbouncer", Signal::SIGTERM).not_as_root("postgres");
            let pooler = Self { service, program: program.clone(), port };
            pooler.configure(server, pool_size, identity, mode, role);
            pooler.run()?;
            Ok(pooler)
        })
    }

    /// The way to this database through the pooler.
    pub fn url(&self, database: &TestDatabase<'_>) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port(), database.name())
    }

    /// The port on 127.0.0.1. It stays the same when the pooler is restarted.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The number of the pooler's process. Panics if it is down.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// Kills the pooler as a crash does.
    pub fn kill9(&self) {
        self.service.kill9();
    }

    /// Starts the pooler again on the same port; ends it first if it runs.
    pub fn restart(&self) {
        self.run().unwrap_or_else(|why| panic!("{why}"));
    }

    fn configure(
        &self,
        server: &PostgresServer,
        pool_size: u32,
        identity: Option<&Identity>,
        mode: &str,
        role: &str,
    ) {
        let tls = identity.map_or_else(String::new, |identity| {
            let file = |name, text| self.service.write_secret(name, text).display().to_string();
            format!(
                "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n",
                file("server.crt", &identity.certificate),
                file("server.key", &identity.key),
            )
        });
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={postgres} user={role}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = {mode}\n\
             default_pool_size = {pool_size}\n\
             max_client_conn = 500\n\
             ignore_startup_parameters = options\n\
             {tls}",
            postgres = server.port(),
            port = self.port(),
        );
        fs::write(self.settings(), settings).expect("the folder is ours");
    }

    fn run(&self) -> Result<(), String> {
        let port = self.port();
        self.service.start(&command![&self.program, self.settings()], |_| {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
    }

    fn settings(&self) -> PathBuf {
        self.service.folder().join("pgbouncer.ini")
    }
}
