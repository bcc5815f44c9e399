//! `umbel dev`: the whole house with a Redis and a Postgres of its own.

use std::{fs, net::TcpListener, path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use umbel_tests::{
    eventually::{eventually, within},
    process::{Launch, Process, children, is_alive, send},
    services::{PostgresServer, RedisServer},
};

/// A first start makes a database cluster.
const READY: Duration = Duration::from_secs(60);

/// A data folder, gone when dropped.
struct Data(PathBuf);

impl Data {
    fn new() -> Self {
        let name = format!("umbel-dev-{}", uuid::Uuid::new_v4().simple());
        Self(std::env::temp_dir().join(name))
    }

    fn launch(&self) -> Launch {
        Launch::new("umbel", &["dev"]).env("UMBEL_DATA", self.0.display()).env("PORT", 0)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // Nothing is there yet where the start was refused, and a test that failed has other
        // worries.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The value that a line of `dev` gives.
fn value(printed: &str, name: &str) -> Option<String> {
    let start = format!("{name}=");
    printed.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

async fn ready(dev: &Process) {
    within(READY, "dev is ready", async || value(&dev.printed(), "TOKEN")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_brings_its_own_services_and_leaves_nothing_running() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let data = Data::new();
    // Left over from a deployment; not the way to the private one.
    let launch = data.launch().env("DATABASE_DIRECT_URL", "postgres://u@127.0.0.1:1/d");
    let dev = launch.start();
    ready(&dev).await;
    let printed = dev.printed();
    let [api, token, socket] =
        ["API_URL", "TOKEN", "REDIS_SOCKET"].map(|name| value(&printed, name).unwrap());
    let queues = reqwest::Client::new().get(format!("{api}/v1/queues")).bearer_auth(&token);
    assert_eq!(queues.send().await.unwrap().status(), StatusCode::OK);

    let second = launch.output();
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&dev.pid().to_string()), "{said}");

    assert_eq!(dev.stop().await.code(), Some(0));
    let connected = std::os::unix::net::UnixStream::connect(&socket);
    assert!(connected.is_err(), "the private Redis has ended");

    // What was there is there again.
    let again = launch.start();
    ready(&again).await;
    assert_eq!(again.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_tells_the_addresses_of_its_own_services_and_none_that_was_given() {
    let redis = RedisServer::start();
    redis.cli(&["CONFIG", "SET", "requirepass", "s3cret"]);
    let given_redis = redis.url().replace("redis://", "redis://:s3cret@");
    let database = PostgresServer::shared().database();
    let given_database = database.url().replace("postgres@", "postgres:s3cret@");
    for (name, given, told) in [
        ("REDIS_URL", given_redis, ["API_URL", "DATABASE_URL", "TOKEN"].as_slice()),
        ("DATABASE_URL", given_database, &["API_URL", "REDIS_SOCKET", "REDIS_URL", "TOKEN"]),
    ] {
        let data = Data::new();
        let dev = data.launch().env(name, given).start();
        ready(&dev).await;
        let printed = dev.printed();
        let names: Vec<&str> =
            printed.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert_eq!(names, told, "{printed}");
        assert!(!printed.contains("s3cret") && !dev.log().contains("s3cret"), "{}", dev.log());
        assert_eq!(dev.stop().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_ends_with_1_when_one_of_its_services_has_died() {
    for (service, in_its_command) in [("redis", "redis.sock"), ("postgres", "/postgres -D")] {
        let data = Data::new();
        let mut dev = data.launch().start();
        ready(&dev).await;
        let started = children(dev.pid());
        send(server(&dev, in_its_command), Signal::SIGKILL);
        assert_eq!(dev.ended().await.code(), Some(1));
        let sentence = format!("error: {service} has ended by itself (signal: 9 (SIGKILL))");
        assert!(dev.log().contains(&sentence), "{sentence} in {}", dev.log());
        eventually("nothing is left running", async || {
            (!started.iter().any(|pid| is_alive(*pid))).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_refuses_an_address_where_somebody_else_listens() {
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let data = Data::new();
    let mut dev = data.launch().env("PORT", port).start();
    assert_eq!(dev.ended().await.code(), Some(2));
    let said = dev.log();
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("PORT"), "{said}");
    assert_eq!(dev.printed(), "");
}

/// The private server of this name among the children of `dev`.
fn server(dev: &Process, in_its_command: &str) -> u32 {
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(in_its_command)
    };
    children(dev.pid()).into_iter().find(is_it).expect(in_its_command)
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_ends_its_services_last_and_leaves_none_when_it_is_killed() {
    let data = Data::new();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut dev = data.launch().start();
        ready(&dev).await;
        let [redis, postgres] = ["redis.sock", "/postgres -D"].map(|word| server(&dev, word));
        let roles = ["api", "beat", "worker"].map(|role| dev.role(role).unwrap());
        dev.signal(signal);
        eventually("its services end", async || {
            (!is_alive(redis) || !is_alive(postgres)).then_some(())
        })
        .await;
        if signal == Signal::SIGTERM {
            assert!(!roles.into_iter().any(is_alive), "{}", dev.log());
            assert_eq!(dev.ended().await.code(), Some(0));
        }
        eventually("nothing is left", async || {
            (!roles.into_iter().chain([redis, postgres]).any(is_alive)).then_some(())
        })
        .await;
        assert!(dev.has_ended().is_some());
    }
}
