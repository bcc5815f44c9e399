//! Each fault of the proxy as a client of a real Redis sees it.

use std::{
    io::ErrorKind,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use umbel_broker::{BrokerError, BrokerSettings, Client};
use umbel_tests::{
    eventually::eventually,
    proxy::{Proxy, Way},
    services::RedisServer,
};

/// An answer that has not come by then does not come.
const SILENCE: Duration = Duration::from_millis(400);

const PONG: &str = "+PONG\r\n";

struct House {
    redis: RedisServer,
    proxy: Proxy,
}

impl House {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::start(redis.port(), 7).await;
        Self { redis, proxy }
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.proxy.port())).await
    }
}

/// What comes back for a command: all that was there at the first read.
async fn ask(connection: &mut TcpStream, command: &str) -> std::io::Result<String> {
    connection.write_all(format!("{command}\r\n").as_bytes()).await?;
    hear(connection).await
}

async fn hear(connection: &mut TcpStream) -> std::io::Result<String> {
    let mut buffer = [0; 256];
    let read = connection.read(&mut buffer).await?;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

async fn is_silent(connection: &mut TcpStream) -> bool {
    timeout(SILENCE, ask(connection, "PING")).await.is_err()
}

#[tokio::test]
async fn without_a_fault_bytes_pass() {
    let house = House::start().await;
    let mut connection = house.connect().await.unwrap();
    assert_eq!(ask(&mut connection, "PING").await.unwrap(), PONG);
    assert_eq!(ask(&mut connection, "QUIT").await.unwrap(), "+OK\r\n");
    assert_eq!(hear(&mut connection).await.unwrap(), "", "the server's end arrives");
}

#[tokio::test]
async fn a_delay_makes_each_way_later_by_itself() {
    let house = House::start().await;
    let mut connection = house.connect().await.unwrap();
    house.proxy.delay(Way::ToServer, Duration::from_millis(150));
    house.proxy.delay(Way::ToClient, Duration::from_millis(250));
    let began = Instant::now();
    // Two at once do not wait for each other.
    connection.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(ask(&mut connection, "PING").await.unwrap(), PONG.repeat(2));
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    house.proxy.delay(Way::ToClient, Duration::from_hours(1));
    assert!(is_silent(&mut connection).await);
    house.proxy.heal();
    let mut another = house.connect().await.unwrap();
    assert_eq!(ask(&mut another, "PING").await.unwrap(), PONG);
}

#[tokio::test]
async fn a_request_that_was_swallowed_never_reaches_the_server_and_none_after_it() {
    let house = House::start().await;
    let mut connection = house.connect().await.unwrap();
    house.proxy.swallow(Way::ToServer);
    assert!(timeout(SILENCE, ask(&mut connection, "INCR asked")).await.is_err());
    house.proxy.heal();
    assert!(is_silent(&mut connection).await);
    assert_eq!(house.redis.cli(&["EXISTS", "asked"]), "0");
    let mut another = house.connect().await.unwrap();
    assert_eq!(ask(&mut another, "PING").await.unwrap(), PONG);
}

#[tokio::test]
async fn a_reply_that_was_swallowed_belongs_to_a_request_that_was_done() {
    let house = House::start().await;
    let mut connection = house.connect().await.unwrap();
    house.proxy.swallow(Way::ToClient);
    assert!(timeout(SILENCE, ask(&mut connection, "INCR asked")).await.is_err());
    assert_eq!(house.redis.cli(&["GET", "asked"]), "1");
}

#[tokio::test]
async fn half_open_connections_stay_silent_and_the_server_thinks_its_reader_there() {
    let house = House::start().await;
    let mut before = house.connect().await.unwrap();
    assert_eq!(ask(&mut before, "PING").await.unwrap(), PONG);
    before.write_all(b"BLPOP list 30\r\n").await.unwrap();
    eventually("it is blocked", async || {
        house.redis.cli(&["INFO", "clients"]).contains("blocked_clients:1").then_some(())
    })
    .await;
    house.proxy.half_open();
    let mut meanwhile = house.connect().await.unwrap();
    assert!(is_silent(&mut meanwhile).await);
    // Given to a reader that will never know.
    assert_eq!(house.redis.cli(&["RPUSH", "list", "lost"]), "1");
    assert_eq!(house.redis.cli(&["LLEN", "list"]), "0");
    house.proxy.heal();
    assert!(is_silent(&mut meanwhile).await);
    assert!(timeout(SILENCE, hear(&mut before)).await.is_err());
    let mut after = house.connect().await.unwrap();
    assert_eq!(ask(&mut after, "PING").await.unwrap(), PONG);
}

#[tokio::test]
async fn a_reset_is_no_orderly_end() {
    let house = House::start().await;
    let mut connection = house.connect().await.unwrap();
    assert_eq!(ask(&mut connection, "PING").await.unwrap(), PONG);
    house.proxy.reset_all();
    let error = hear(&mut connection).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut another = house.connect().await.unwrap();
    assert_eq!(ask(&mut another, "PING").await.unwrap(), PONG);
}

#[tokio::test]
async fn chance_resets_some_connections_the_same_ones_by_the_same_seed() {
    let redis = RedisServer::start();
    let mut runs = Vec::new();
    for _ in 0..2 {
        let proxy = Proxy::start(redis.port(), 11).await;
        proxy.reset_sometimes(0.2);
        let mut reset = Vec::new();
        for _ in 0..40 {
            let mut connection =
                TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
            reset.push(ask(&mut connection, "PING").await.is_err());
        }
        runs.push(reset);
    }
    let count = runs[0].iter().filter(|reset| **reset).count();
    assert!((1..40).contains(&count), "{count} of 40");
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn a_reply_is_cut_after_so_many_bytes_once() {
    let house = House::start().await;
    let mut connection = house.connect().await.unwrap();
    house.redis.cli(&["SET", "stalk", "green"]);
    house.proxy.cut_next_reply(6);
    assert_eq!(ask(&mut connection, "GET stalk").await.unwrap(), "$5\r\ngr");
    assert_eq!(hear(&mut connection).await.unwrap(), "", "the connection has ended");
    let mut another = house.connect().await.unwrap();
    assert_eq!(ask(&mut another, "GET stalk").await.unwrap(), "$5\r\ngreen\r\n");
    // A cut before the first byte: done, and nobody was told.
    house.proxy.cut_next_reply(0);
    assert_eq!(ask(&mut another, "INCR asked").await.unwrap(), "");
    assert_eq!(house.redis.cli(&["GET", "asked"]), "1");
}

#[tokio::test]
async fn a_proxy_that_does_not_listen_refuses_and_comes_back_at_its_port() {
    let mut house = House::start().await;
    let mut before = house.connect().await.unwrap();
    assert_eq!(ask(&mut before, "PING").await.unwrap(), PONG);
    house.proxy.stop_listening().await;
    let error = house.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(&mut before, "PING").await.unwrap(), PONG, "connections that are there stay");
    house.proxy.listen().await;
    let mut after = house.connect().await.unwrap();
    assert_eq!(ask(&mut after, "PING").await.unwrap(), PONG);
}

#[tokio::test]
async fn a_server_that_is_away_is_a_connection_that_ends() {
    let house = House::start().await;
    house.redis.kill9();
    let mut connection = house.connect().await.unwrap();
    let answer = ask(&mut connection, "PING").await;
    assert!(answer.as_ref().map_or(true, String::is_empty), "{answer:?}");
    house.redis.restart();
    let mut after = house.connect().await.unwrap();
    assert_eq!(ask(&mut after, "PING").await.unwrap(), PONG);
}

#[tokio::test]
async fn an_answer_that_is_cut_is_to_the_broker_a_redis_that_is_away() {
    let house = House::start().await;
    let settings = BrokerSettings::new(house.proxy.url());
    let client = Client::open(&settings, "test").unwrap();
    for after in [0, 1, 3] {
        client.ping().await.unwrap();
        house.proxy.cut_next_reply(after);
        let error = client.ping().await.unwrap_err();
        assert!(matches!(error, BrokerError::Unavailable(_)), "after {after} bytes: {error:?}");
        assert!(error.is_transient());
    }
    client.ping().await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_cut_off_while_it_connects_connects_again() {
    let house = House::start().await;
    let settings = BrokerSettings::new(house.proxy.url());
    // Within each answer to what it says first.
    for after in (0..100).step_by(3) {
        let client = Client::open(&settings, "test").unwrap();
        house.proxy.cut_next_reply(after);
        // The first answers may be shorter than that.
        if let Err(error) = client.ping().await {
            assert!(error.is_transient(), "after {after} bytes: {error:?}");
        }
        house.proxy.heal();
        let answers = async || client.ping().await.is_ok().then_some(());
        eventually(&format!("it answers, cut after {after} bytes"), answers).await;
    }
}
