//! The private services as a whole, on real servers.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid, getpgid, getpgrp},
};
use umbel_broker::{BrokerSettings, Client};
use umbel_store::{Db, StoreSettings};

use super::{DevError, Folder, Services, Wants, folder};

const BOTH: Wants = Wants { redis: true, postgres: true };
const REDIS: Wants = Wants { redis: true, postgres: false };
const POSTGRES: Wants = Wants { redis: false, postgres: true };

/// Names the data folder to the process that `a_process_to_kill` is.
const TO_KILL: &str = "UMBEL_TEST_DEV_TO_KILL";

/// A place for data folders; gone at the end, with all that was made elsewhere for them.
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) data: PathBuf,
}

impl Place {
    pub(super) fn new() -> Self {
        Self::with("data")
    }

    fn with(data: &str) -> Self {
        let root = env::temp_dir().join(format!("umbel-dev-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let root = root.canonicalize().unwrap();
        Self { data: root.join(data), root }
    }

    pub(super) fn open(&self) -> Folder {
        Folder::open(&self.data).unwrap()
    }

    fn far_home(&self) -> PathBuf {
        PathBuf::from(format!("/var/tmp/umbel-{}-postgres", folder::short(&self.data)))
    }

    /// The processes that work in the data folder, or in the one that stands for it elsewhere.
    fn processes(&self) -> Vec<Pid> {
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            let here = works_in.starts_with(&self.data) || works_in.starts_with(self.far_home());
            here.then(|| Pid::from_raw(pid))
        });
        numbers.collect()
    }

    fn process(&self, program: &str) -> Pid {
        let is = |pid: &&Pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(program))
        };
        *self.processes().iter().find(is).unwrap_or_else(|| panic!("no {program} runs"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let sockets = |home: &str, uid: u32| {
            PathBuf::from(format!("/tmp/umbel-{uid}-{}", folder::short(&self.data.join(home))))
        };
        for folder in [
            self.root.clone(),
            self.far_home(),
            sockets("redis", geteuid().as_raw()),
            sockets("postgres", postgres_uid()),
        ] {
            if folder.exists() {
                fs::remove_dir_all(folder).unwrap();
            }
        }
    }
}

fn postgres_user() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("postgres").unwrap().unwrap())
}

fn postgres_uid() -> u32 {
    postgres_user().map_or_else(geteuid, |user| user.uid).as_raw()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(30), "never so: {what}");
        sleep(Duration::from_millis(10));
    }
}

async fn failure(services: &mut Services) -> String {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, services.failed()).await.expect("a failure is noticed")
}

fn zombies_of_ours() -> Vec<String> {
    let us = std::process::id().to_string();
    let stats = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // After the name in brackets: the state, the parent.
    let ours = stats.filter(|stat| {
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().take(2).eq(["Z", us.as_str()])
    });
    ours.collect()
}

fn redis(services: &Services, command: &str) -> String {
    let mut connection = UnixStream::connect(services.redis_socket().unwrap()).unwrap();
    connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.trim_end_matches("+OK\r\n").to_owned()
}

fn psql(services: &Services, sql: &str) -> String {
    let url = services.database_url().unwrap();
    let output = Command::new("psql").args(["-X", "-At", "-d", url, "-c", sql]).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test]
async fn the_services_answer_the_framework_and_the_tools_and_stop_without_a_trace() {
    let place = Place::new();
    let folder = place.open();
    let services = Services::start(&folder, BOTH).await.unwrap();

    let broker = BrokerSettings::new(services.redis_url().unwrap());
    Client::open(&broker, "test").unwrap().ping().await.unwrap();
    let db = Db::open(&StoreSettings::new(services.database_url().unwrap())).unwrap();
    db.ping().await.unwrap();
    let facts = "select current_user, current_database(), pg_encoding_to_char(encoding), \
                 current_setting('fsync') from pg_database where datname = current_database()";
    assert_eq!(psql(&services, facts), "umbel|umbel|UTF8|on");
    for (setting, value) in
        [("appendonly", "yes"), ("appendfsync", "everysec"), ("maxmemory-policy", "noeviction")]
    {
        let answer = redis(&services, &format!("CONFIG GET {setting}"));
        assert!(answer.ends_with(&format!("\r\n{value}\r\n")), "{setting}: {answer}");
    }
    // A Ctrl-C of the terminal is not for them.
    for server in ["redis-server", "postgres"] {
        assert_ne!(getpgid(Some(place.process(server))).unwrap(), getpgrp());
    }

    db.close().await;
    services.stop().await;
    assert_eq!(place.processes(), []);
    // In order: there is nothing to repair at the next start.
    let log = fs::read_to_string(place.data.join("postgres.log")).unwrap();
    assert!(log.contains("database system is shut down"), "{log}");
}

#[tokio::test]
async fn the_next_start_finds_what_was_written() {
    let place = Place::new();
    let folder = place.open();
    let services = Services::start(&folder, BOTH).await.unwrap();
    redis(&services, "SET plant celery");
    psql(&services, "create table plants (name text); insert into plants values ('celery')");
    services.stop().await;

    let services = Services::start(&folder, BOTH).await.unwrap();
    assert_eq!(redis(&services, "GET plant"), "$6\r\ncelery\r\n");
    assert_eq!(psql(&services, "select name from plants"), "celery");
    services.stop().await;
}

#[tokio::test]
async fn a_long_and_strange_path_works() {
    let place = Place::with(&format!("my 'files' & ü, {}", "x".repeat(100)));
    let folder = place.open();
    let services = Services::start(&folder, BOTH).await.unwrap();
    assert!(services.redis_socket().unwrap().starts_with("/tmp"));
    let broker = BrokerSettings::new(services.redis_url().unwrap());
    Client::open(&broker, "test").unwrap().ping().await.unwrap();
    let db = Db::open(&StoreSettings::new(services.database_url().unwrap())).unwrap();
    db.ping().await.unwrap();
    assert_eq!(psql(&services, "select 1"), "1");
    db.close().await;
    services.stop().await;
    assert_eq!(place.processes(), []);
}

/// Only root gives Postgres another user, whom a closed folder keeps out.
#[tokio::test]
async fn behind_a_closed_door_postgres_lives_elsewhere() {
    if !geteuid().is_root() {
        return;
    }
    let place = Place::with("closed/data");
    fs::create_dir(place.root.join("closed")).unwrap();
    fs::set_permissions(place.root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let folder = place.open();

    // Somebody was there first.
    fs::create_dir(place.far_home()).unwrap();
    std::os::unix::fs::chown(place.far_home(), Some(65_534), Some(65_534)).unwrap();
    let refusal = Services::start(&folder, POSTGRES).await.unwrap_err();
    assert!(refusal.to_string().contains("belongs to user 65534"), "{refusal}");
    fs::remove_dir(place.far_home()).unwrap();

    let services = Services::start(&folder, POSTGRES).await.unwrap();
    assert_eq!(psql(&services, "select 1"), "1");
    services.stop().await;
    assert_eq!(place.processes(), []);
    assert!(place.far_home().join("data/PG_VERSION").exists());
}

#[tokio::test]
async fn a_service_that_ends_by_itself_is_reported() {
    let place = Place::new();
    let folder = place.open();
    let mut services = Services::start(&folder, REDIS).await.unwrap();
    kill(place.process("redis-server"), Signal::SIGKILL).unwrap();
    let sentence = failure(&mut services).await;
    assert!(
        sentence.starts_with("redis has ended by itself (signal: 9 (SIGKILL)): "),
        "{sentence}"
    );
    assert_eq!(failure(&mut services).await, sentence);
    services.stop().await;
}

#[tokio::test]
async fn what_a_crash_left_behind_does_not_hinder_the_next_start() {
    let place = Place::new();
    let folder = place.open();
    let mut services = Services::start(&folder, BOTH).await.unwrap();
    redis(&services, "SET plant celery");
    psql(&services, "create table plants (name text); insert into plants values ('celery')");
    for pid in place.processes() {
        // Postgres' helpers may have ended with their server.
        let _ = kill(pid, Signal::SIGKILL);
    }
    failure(&mut services).await;
    services.stop().await;

    // Its number belongs to another process of the same user by now.
    let pid_file = place.data.join("postgres/data/postmaster.pid");
    let left = fs::read_to_string(&pid_file).unwrap();
    let innocent = Innocent::start();
    let (_, rest) = left.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", innocent.0.id())).unwrap();

    let services = Services::start(&folder, BOTH).await.unwrap();
    assert_eq!(redis(&services, "GET plant"), "$6\r\ncelery\r\n");
    assert_eq!(psql(&services, "select name from plants"), "celery");
    services.stop().await;
}

/// A process of the user that runs Postgres.
struct Innocent(Child);

impl Innocent {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        if let Some(user) = postgres_user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        Self(command.arg("1000").current_dir("/").spawn().unwrap())
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn data_of_another_postgres_are_refused_and_kept() {
    let place = Place::new();
    let folder = place.open();
    Services::start(&folder, POSTGRES).await.unwrap().stop().await;
    let version = place.data.join("postgres/data/PG_VERSION");
    fs::write(&version, "9\n").unwrap();

    let refusal = Services::start(&folder, POSTGRES).await.unwrap_err();
    assert!(matches!(refusal, DevError::Version { data: 9, .. }), "{refusal}");
    assert_eq!(fs::read_to_string(version).unwrap(), "9\n");
}

#[tokio::test]
async fn a_server_that_does_not_start_is_quoted_and_the_other_one_ends() {
    let place = Place::new();
    let folder = place.open();
    Services::start(&folder, POSTGRES).await.unwrap().stop().await;
    fs::write(place.data.join("postgres/data/postgresql.conf"), "nonsense = 1\n").unwrap();

    let refusal = Services::start(&folder, BOTH).await.unwrap_err().to_string();
    assert!(refusal.starts_with("postgres did not start: it ended (exit status: 1)"), "{refusal}");
    assert!(refusal.contains("unrecognized configuration parameter \"nonsense\""), "{refusal}");
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn whoever_stops_waiting_for_the_start_stops_the_services() {
    let place = Place::new();
    let folder = place.open();
    let log = place.data.join("postgres.log");
    tokio::select! {
        _ = Services::start(&folder, BOTH) => panic!("it starts in no time"),
        () = async {
            // Redis runs then, and Postgres is being made.
            while !fs::read_to_string(&log).is_ok_and(|log| !log.is_empty()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    eventually("nothing runs", || place.processes().is_empty());
    eventually("all ends were taken note of", || zombies_of_ours().is_empty());
    // Half-made data are no hindrance.
    let services = Services::start(&folder, BOTH).await.unwrap();
    assert_eq!(psql(&services, "select 1"), "1");
    drop(services);
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn services_end_with_a_process_that_is_killed_and_the_next_one_goes_on() {
    let place = Place::new();
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut process = Command::new(env::current_exe().unwrap())
        .args([&format!("{module}::a_process_to_kill"), "--exact", "--nocapture"])
        .env(TO_KILL, &place.data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("the services run")));
    assert!(place.processes().len() > 2);
    process.kill().unwrap();
    process.wait().unwrap();

    // At once: it waits for the servers of the dead one, which have the same data.
    let folder = place.open();
    let services = Services::start(&folder, BOTH).await.unwrap();
    assert_eq!(redis(&services, "GET plant"), "$6\r\ncelery\r\n");
    assert_eq!(psql(&services, "select name from plants"), "celery");
    services.stop().await;
    assert_eq!(place.processes(), []);
    // They had ended in order: the kernel told them.
    let log = fs::read_to_string(place.data.join("postgres.log")).unwrap();
    assert_eq!(log.matches("database system is shut down").count(), 2, "{log}");
}

/// Part of the test above, in a process of its own.
#[tokio::test]
async fn a_process_to_kill() {
    let Some(data) = env::var_os(TO_KILL) else { return };
    let folder = Folder::open(Path::new(&data)).unwrap();
    let services = Services::start(&folder, BOTH).await.unwrap();
    redis(&services, "SET plant celery");
    psql(&services, "create table plants (name text); insert into plants values ('celery')");
    println!("the services run");
    std::future::pending::<()>().await;
}
