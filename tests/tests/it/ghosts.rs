//! What Redis gave to a worker that never saw it is found again, and not after a lease.

use std::time::Duration;

use umbel_broker::{Held, Settlement, Settler, Verdict, keys::Stream};
use umbel_proto::Priority;
use umbel_tests::{
    eventually::{eventually, eventually_eq, within},
    house::{House, terms},
    probe::{Act, Probe, shard},
};

const LONG: Duration = Duration::from_secs(20);

/// A read of a connection that the worker has given up, and the server has not yet.
fn read_into_nowhere(house: &House, worker: &str) {
    let stream = shard().ready(Stream::Normal);
    house.redis.cli(&["XREADGROUP", "GROUP", "workers", worker, "STREAMS", &stream, ">"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_finds_what_went_into_the_connection_before() {
    let house = House::start();
    let mut consumer = house.consumer("w", &Held::default());
    let stop = consumer.stop();
    stop.request().await.unwrap();
    assert!(consumer.fetch(1).await.unwrap().is_empty(), "connected, and nothing is held");
    // A read of the connection before still blocks at the server, and takes the next task.
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    read_into_nowhere(&house, "w");
    let found = within(LONG, "it is taken in", async || {
        let found = consumer.fetch(1).await.unwrap();
        (!found.is_empty()).then_some(found)
    })
    .await;
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ghosts_beyond_the_free_permits_are_taken_in_turn() {
    let house = House::start();
    let probes = (0..4).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).await.unwrap();
    // An earlier connection of the same worker read them and died.
    house.consumer("w", &Held::default()).fetch(4).await.unwrap();
    let held = Held::default();
    let mut consumer = house.consumer("w", &held);
    let (settler, settling) = Settler::start(house.client.clone(), "w".to_owned(), held.clone());
    for left in (0..4).rev() {
        let [one] = <[_; 1]>::try_from(consumer.fetch(1).await.unwrap()).unwrap();
        let verdict = Verdict::Complete { output: vec![1] };
        settler.settle(Settlement { delivery: one, verdict, terms: terms() }).await;
        eventually_eq("settled", left, async || house.queue().await.running).await;
    }
    drop(settler);
    settling.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_fails_half_way_loses_nothing_of_what_it_had_read() {
    let house = House::start();
    let held = Held::default();
    let mut consumer = house.consumer("w", &held);
    // So that no read waits.
    consumer.stop().request().await.unwrap();
    assert!(consumer.fetch(2).await.unwrap().is_empty(), "connected");
    let high = house.client.enqueue(Probe::new("high", Act::Ok));
    high.priority(Priority::High).await.unwrap();
    // A stream after it in order is none: the read fails after it has got the first.
    let broken = shard().ready(Stream::Low);
    house.redis.cli(&["DEL", &broken]);
    house.redis.cli(&["SET", &broken, "no stream"]);
    assert!(consumer.fetch(2).await.is_err());
    assert!(held.is_empty());
    house.redis.cli(&["DEL", &broken]);
    let found = consumer.fetch(2).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(held.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_room_gives_back_what_it_never_saw() {
    let house = House::start();
    let busy = house.worker(1);
    house.client.enqueue(Probe::new("long", Act::Hold)).await.unwrap();
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    let ghost = house.client.enqueue(Probe::new("ghost", Act::Ok)).await.unwrap();
    read_into_nowhere(&house, &busy.id);
    let other = house.worker(1);
    assert_eq!(ghost.wait(LONG).await.unwrap(), 1);
    assert_eq!(house.record.order(), ["long", "ghost"]);
    house.record.open("long");
    busy.stop().await.unwrap();
    other.stop().await.unwrap();
}
