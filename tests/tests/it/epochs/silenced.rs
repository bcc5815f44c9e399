//! A worker whose beats are not answered, while its reads are: the others may have given away what
//! it is given, so it starts nothing.

use std::time::Instant;

use umbel_tests::{eventually::within, house::House};

use super::*;
use crate::wire::Wire;

/// So old is the last answered beat of a worker that starts nothing any more, and a little more.
const NOT_FRESH: Duration = Duration::from_secs(11);

/// A lease, and a few beats.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

/// The letters of the key that beats go to.
const BEATS: &str = "}:heartbeat";

fn beat_of(house: &House, worker: &str) -> String {
    house.redis.cli(&["HGET", umbel_broker::keys::heartbeat(), worker])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_beats_are_not_answered_starts_nothing_and_another_runs_what_it_was_given() {
    let mut house = House::start();
    let line = Wire::to(house.redis.port()).await;
    let port = format!(":{}", house.redis.port());
    let url = house.redis.url_as("worker").replace(&port, &format!(":{}", line.port()));
    let direct = house.client.clone();
    house.client = Client::open(&BrokerSettings::new(url), "test").unwrap();
    let silenced = house.worker(1);
    house.client = direct;
    eventually("it beats", async || (!beat_of(&house, &silenced.id).is_empty()).then_some(()))
        .await;

    line.mute(BEATS);
    let (mut last, mut since) = (String::new(), Instant::now());
    within(RECOVERED_WITHIN, "its last beat is old", async || {
        let beat = beat_of(&house, &silenced.id);
        if beat != last {
            (last, since) = (beat, Instant::now());
        }
        (since.elapsed() > NOT_FRESH).then_some(())
    })
    .await;
    // Untracked: then nothing but its own heartbeat tells it that it must not start.
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).untracked().await.unwrap();
    eventually("it is given the task", async || (house.queue().await.running == 1).then_some(()))
        .await;
    let other = house.worker_with(|settings| settings.lease = Duration::from_secs(12));
    assert_eq!(handle.wait(RECOVERED_WITHIN).await.unwrap(), 1);
    let record = handle.record().await.unwrap().unwrap();
    assert_eq!(record.worker.as_ref(), Some(&other.id));

    // It learns that it was declared dead, and works on under another id.
    line.mend();
    let boot = silenced.id.trim_end_matches('1');
    eventually("it works on", async || {
        let told = house.client.workers().await.unwrap();
        told.keys().any(|id| id.starts_with(boot) && *id != silenced.id).then_some(())
    })
    .await;
    other.stop().await.unwrap();
    let next = house.client.enqueue(Probe::new("next", Act::Ok)).await.unwrap();
    assert_eq!(next.wait(RECOVERED_WITHIN).await.unwrap(), 1);
    assert_eq!(house.record.order(), ["a", "next"], "each was started once");
    silenced.stop().await.unwrap();
}
