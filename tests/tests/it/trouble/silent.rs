//! Redis says nothing: it is frozen, or nothing comes through to it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::time::sleep;
use umbel_broker::{BrokerError, BrokerSettings, Client};
use umbel_tests::{
    eventually::{eventually, within},
    house::House,
    probe::{Act, Probe},
    proxy::Proxy,
};

use super::{AtWork, LONG, send};

/// Longer than a read and every other call are waited for, shorter than what a lease could notice.
const FROZEN: Duration = Duration::from_secs(8);

/// A call is given up after three seconds; a busy machine takes a little longer.
const GIVEN_UP: Duration = Duration::from_secs(6);

/// Five seconds of a blocked read, two of patience, a new connection, and a busy machine.
const NOTICED: Duration = Duration::from_secs(15);

/// Enqueues under a key, into silence: nobody knows whether it was taken.
async fn enqueue_in_vain(client: &Client) {
    let began = Instant::now();
    let order = client.enqueue(Probe::new("order", Act::Ok)).idempotency_key("order");
    let error = order.await.unwrap_err();
    assert!(matches!(error, BrokerError::Unavailable(_)) && error.is_transient(), "{error:?}");
    assert!(began.elapsed() < GIVEN_UP, "{:?}", began.elapsed());
}

/// Asks for the same again, and sees it run once.
async fn enqueue_again(at_work: &AtWork) {
    let order = eventually("redis answers again", async || {
        let order = at_work.house.client.enqueue(Probe::new("order", Act::Ok));
        order.idempotency_key("order").await.ok()
    })
    .await;
    assert_eq!(order.wait(LONG).await.unwrap(), 1);
    assert_eq!(at_work.house.record.attempts_of("order"), [1], "one key, one task, one run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_frozen_for_longer_than_a_read_goes_on_where_it_was() {
    let at_work = AtWork::start().await;
    send(at_work.redis().pid(), Signal::SIGSTOP);
    let began = Instant::now();
    enqueue_in_vain(&at_work.house.client).await;
    at_work.house.record.open("held");
    sleep(FROZEN.saturating_sub(began.elapsed())).await;
    send(at_work.redis().pid(), Signal::SIGCONT);
    enqueue_again(&at_work).await;
    let beats = at_work.redis().cli(&["HVALS", "umbel:{workers}:heartbeat"]);
    assert!(!beats.contains("dead"), "nobody was declared dead: {beats}");
    at_work.goes_on("8 s frozen").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_dead_and_do_not_say_so_are_given_up() {
    let mut house = House::start();
    let proxy = Proxy::start(house.redis.port(), 7).await;
    let direct = house.redis.url_as("worker");
    let through = direct.replace(&house.redis.port().to_string(), &proxy.port().to_string());
    house.client = Client::open(&BrokerSettings::new(through), "test").unwrap();
    let at_work = AtWork::on(house).await;
    // All that there are, and new ones too for a while.
    proxy.half_open();
    enqueue_in_vain(&at_work.house.client).await;
    proxy.heal();
    let healed = Instant::now();
    // The read that is dead takes a task that nobody will see there.
    let direct = Client::open(&BrokerSettings::new(direct), "test").unwrap();
    let ghost = direct.enqueue(Probe::new("ghost", Act::Ok)).await.unwrap();
    within(NOTICED, "it is found", async || {
        (at_work.house.record.attempts_of("ghost") == [1]).then_some(())
    })
    .await;
    println!("dead connections: a task that went into one ran after {:.1?}", healed.elapsed());
    assert_eq!(ghost.wait(LONG).await.unwrap(), 1);
    enqueue_again(&at_work).await;
    at_work.house.record.open("held");
    at_work.goes_on("dead connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_redis_closes_are_made_again() {
    let at_work = AtWork::start().await;
    for _ in 0..5 {
        at_work.redis().cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        let task = eventually("redis answers again", async || {
            at_work.house.client.enqueue(Probe::new("a", Act::Ok)).await.ok()
        })
        .await;
        assert_eq!(task.wait(LONG).await.unwrap(), 1);
    }
    at_work.house.record.open("held");
    at_work.goes_on("closed connections").await;
}
