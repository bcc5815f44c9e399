//! The lists are measured: a tour through all that a role does, and what the server counted.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use umbel_broker::{
    Acquired, BrokerSettings, CallOptions, Cancel, Client, Held, LimitRules, NewTask, PurgeKind,
    When,
    dead::LetterFilter,
    liveness::{Cause, Heartbeat},
    schedules::EntryRecord,
};
use umbel_proto::TaskId;
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::House,
    probe::{Act, LATER, Probe, shard},
    services::RedisServer,
};

use super::commands;

const LONG: Duration = Duration::from_secs(20);

/// The commands that the server has run since [`forget`], as access lists name them.
fn used(redis: &RedisServer) -> BTreeSet<String> {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let name = |line: &str| {
        let (name, _) = line.trim().strip_prefix("cmdstat_")?.split_once(':')?;
        (name != "config|resetstat").then(|| name.to_owned())
    };
    stats.lines().filter_map(name).collect()
}

fn forget(redis: &RedisServer) {
    // Loaded again by whoever needs them.
    redis.cli(&["SCRIPT", "FLUSH"]);
    redis.cli(&["CONFIG", "RESETSTAT"]);
}

/// What `+@connection -@admin -@dangerous` allows, which differs from version to version.
fn of_connections(redis: &RedisServer) -> BTreeSet<String> {
    let category = |name: &str| -> BTreeSet<String> {
        redis.cli(&["ACL", "CAT", name]).lines().map(str::to_owned).collect()
    };
    let (connection, admin, dangerous) =
        (category("connection"), category("admin"), category("dangerous"));
    connection
        .into_iter()
        .filter(|name| !admin.contains(name) && !dangerous.contains(name))
        .collect()
}

/// Holds what was used on a tour against the list of a user.
fn compare(redis: &RedisServer, user: &str) {
    let (used, listed, connections) = (used(redis), commands(user), of_connections(redis));
    let missing: Vec<&String> = used
        .iter()
        .filter(|name| !listed.contains(*name) && !connections.contains(*name))
        .collect();
    assert!(missing.is_empty(), "`{user}` needs in deploy/redis-users.acl: {missing:?}");
    let spare: Vec<&String> = listed.difference(&used).collect();
    assert!(spare.is_empty(), "`{user}` does not use on this tour: {spare:?}");
}

fn client(redis: &RedisServer) -> Client {
    Client::open(&BrokerSettings::new(redis.url()), "test").unwrap()
}

/// A queue whose cap is looked at, where something is parked.
async fn queue_in_use() -> (House, TaskId) {
    let house = House::on(RedisServer::start_with(&[], &[]));
    house.redis.cli(&["HSET", "umbel:{default}:control", "cap", "1000"]);
    house.client.show_entries(&[entry("sweep", Utc::now())]).await.unwrap();
    let parked = park(&house).await;
    for _ in 0..2 {
        bury(&house).await;
    }
    (house, parked)
}

/// A tracked task that fails for good.
async fn bury(house: &House) {
    let worker = house.worker(1);
    let handle = house.client.enqueue(Probe::new("lost", Act::Fatal("no".to_owned())));
    house.ended(handle.await.unwrap().id()).await;
    worker.stop().await.unwrap();
}

fn entry(name: &str, seen: DateTime<Utc>) -> EntryRecord {
    EntryRecord {
        name: name.to_owned(),
        schedule: "every 1s".to_owned(),
        zone: None,
        task: "probe".parse().unwrap(),
        queue: shard().queue().clone(),
        seen: Some(seen),
    }
}

async fn park(house: &House) -> TaskId {
    let worker = house.worker(1);
    let mut new = NewTask::of(&Probe::new("later", Act::Ok)).unwrap();
    new.task = LATER.parse().unwrap();
    new.call.tracked = true;
    let id = house.client.submit(new).await.unwrap().id;
    eventually_eq("it is parked", 1, async || house.queue().await.parked).await;
    worker.stop().await.unwrap();
    id
}

/// Every way in, and a look at all of it.
async fn enqueue_and_look(client: &Client) {
    let mut now = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    now.call = CallOptions {
        tracked: true,
        idempotency_key: Some("order-7".to_owned()),
        ..CallOptions::default()
    };
    let mut later = now.clone();
    later.call.idempotency_key = None;
    later.call.when = Some(When::In(LONG));
    let id = client.submit(now).await.unwrap().id;
    client.submit(later).await.unwrap();
    assert!(client.task(&id).await.unwrap().is_some());
    let queues = client.queues().await.unwrap();
    assert!(queues.iter().any(|queue| queue.queued > 0 && queue.delayed > 0), "{queues:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_may_enqueue_look_and_cancel_and_no_more() {
    let (house, parked) = queue_in_use().await;
    let runs = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let held = Held::default();
    let taken = house.consumer("w", &held).fetch(1).await.unwrap();
    house.client.start("w", &held, taken, Utc::now()).await.unwrap();
    forget(&house.redis);
    let client = client(&house.redis);
    client.check_server(false).await.unwrap();
    client.ping().await.unwrap();
    enqueue_and_look(&client).await;
    let mut keyed = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    keyed.call.idempotency_key = Some("http:order-7".to_owned());
    client.claim_key(&keyed).await.unwrap();
    for (id, met) in [(&parked, Cancel::Waiting), (runs.id(), Cancel::Running)] {
        assert_eq!(client.cancel(id, "ann").await.unwrap(), Some(met));
    }
    look_after(&client).await;
    // The metrics of queues.
    client.server_time().await.unwrap();
    client.oldest_wait(shard().queue(), Utc::now()).await.unwrap();
    compare(&house.redis, "api");
}

/// What an operator does over the API, with a dead letter in the queue.
async fn look_after(client: &Client) {
    let (queue, all) = (shard().queue().clone(), LetterFilter::default());
    assert!(client.pause(&queue, "ann", "it is closed", Utc::now()).await.unwrap());
    assert!(client.queue_status(&queue).await.unwrap().paused.is_some());
    assert!(client.resume(&queue).await.unwrap());
    let letters = client.dead_letters(&queue, &all, None, 1).await.unwrap().letters;
    let letter = letters[0].letter;
    assert!(client.dead_letter(&queue, letter).await.unwrap().is_some());
    assert!(client.redrive(&queue, letter).await.unwrap().is_some());
    assert_eq!(client.redrive_all(&queue, &all, None).await.unwrap().done, 1);
    assert!(!client.delete_letter(&queue, letter).await.unwrap());
    client.delete_letters(&queue, &all, None).await.unwrap();
    client.living_workers().await.unwrap();
    client.schedules(Utc::now()).await.unwrap();
    client.schedule("sweep", 1, Utc::now()).await.unwrap().unwrap();
}

/// What the verbs of the terminal ask.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_look_at_all_and_act_and_no_more() {
    let (house, parked) = queue_in_use().await;
    let queue = shard().queue().clone();
    let rules = LimitRules::new().at_once(1);
    let Acquired::Granted(permit) = house.client.acquire("host", "a", &rules).await.unwrap() else {
        panic!("nobody else asks")
    };
    forget(&house.redis);
    let client = client(&house.redis);
    client.server_status().await.unwrap();
    client.ping().await.unwrap();
    enqueue_and_look(&client).await;
    assert_eq!(client.limits(None, 10).await.unwrap().len(), 1);
    assert!(client.whereabouts(&parked).await.unwrap().open.is_some());
    assert!(!client.ready_tasks(&queue, 10).await.unwrap().is_empty());
    assert!(!client.delayed_tasks(&queue, 10).await.unwrap().is_empty());
    assert_eq!(client.parked_tasks(&queue, 10).await.unwrap().len(), 1);
    client.held_tasks(&queue, 10).await.unwrap();
    assert_eq!(client.cancel(&parked, "ann").await.unwrap(), Some(Cancel::Waiting));
    look_after(&client).await;
    for kind in [PurgeKind::Queued, PurgeKind::Delayed, PurgeKind::Parked] {
        let mut purge = client.purge(&queue, kind, "ann").await.unwrap();
        while purge.step().await.unwrap().is_some() {}
    }
    assert!(client.whereabouts(&parked).await.unwrap().record.is_some());
    compare(&house.redis, "operator");
    permit.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beat_may_claim_slots_and_enqueue_and_no_more() {
    let (house, _) = queue_in_use().await;
    forget(&house.redis);
    let client = client(&house.redis);
    client.check_server(false).await.unwrap();
    client.server_time().await.unwrap();
    let mut task = NewTask::of(&Probe::new("a", Act::Ok)).unwrap();
    task.call.when = Some(When::In(LONG));
    let now = Utc::now();
    let gone = entry("gone", now - TimeDelta::days(8));
    client.show_entries(&[entry("sweep", now), gone]).await.unwrap();
    client.show_next(&[("sweep", now)]).await.unwrap();
    client.forget_entries(now).await.unwrap();
    for slot in [now, now + LONG] {
        assert!(client.claim_slot("sweep", slot, &task).await.unwrap());
    }
    assert!(client.last_slot("sweep").await.unwrap().is_some());
    assert_eq!(client.open_intents().await.unwrap().len(), 2);
    client.fire_slot("sweep", now, task, now).await.unwrap();
    client.miss_slot("sweep", now + LONG, now).await.unwrap();
    compare(&house.redis, "beat");
}

/// A worker, its supervisor, and what its tasks do: with `umbel up` all roles are one user.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_do_what_the_protocol_needs_and_no_more() {
    let (house, _) = queue_in_use().await;
    forget(&house.redis);
    house.client.check_server(false).await.unwrap();
    house.client.ping().await.unwrap();
    enqueue_and_look(&house.client).await;
    look_after(&house.client).await;
    every_verdict(&house).await;
    deaths(&house).await;
    let rules = LimitRules::new().at_once(1);
    let Acquired::Granted(permit) = house.client.acquire("host", "a", &rules).await.unwrap() else {
        panic!("nobody else asks")
    };
    permit.release().await;
    compare(&house.redis, "worker");
    for other in ["api", "beat"] {
        assert!(commands(other).is_subset(&commands("worker")), "{other}");
    }
}

/// Tasks that end in every way, the parked one among them, and one that is given back.
async fn every_verdict(house: &House) {
    let worker = house.newer_worker(4);
    for act in [Act::Ok, Act::FailFirst(1), Act::Snooze(1), Act::Fatal("no".to_owned())] {
        let handle = house.client.enqueue(Probe::new("a", act)).await.unwrap();
        house.ended(handle.id()).await;
    }
    let unwanted = house.client.enqueue(Probe::new("a", Act::Ok)).delay(LONG).await.unwrap();
    house.client.cancel(unwanted.id(), "ann").await.unwrap();
    house.ended(unwanted.id()).await;
    let forgotten = house.client.enqueue(Probe::new("forgotten", Act::Ok));
    let forgotten = forgotten.result_ttl(Duration::ZERO).await.unwrap();
    eventually("nothing is kept of it", async || {
        house.client.task(forgotten.id()).await.unwrap().is_none().then_some(())
    })
    .await;
    eventually_eq("nothing is parked", 0, async || house.queue().await.parked).await;
    house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    eventually("it runs", async || house.record.order().contains(&"held".to_owned()).then_some(()))
        .await;
    // Asked for its blocked read to end, and given back what does not end.
    assert_eq!(worker.stop().await.unwrap().given_back, 1);
}

/// A worker that dies with a task, what its supervisor says of it, and what is left of it.
async fn deaths(house: &House) {
    let boot = "0123456789abcdef";
    let worker = format!("host-{boot}-1");
    let beat = house.client.heartbeat(&worker, "{}").await.unwrap();
    assert!(matches!(beat, Heartbeat::Alive(_)));
    let held = Held::default();
    let mut consumer = house.consumer(&worker, &held);
    let taken = consumer.fetch(4).await.unwrap();
    assert!(!taken.is_empty());
    // One of them is a ghost without a body.
    house.redis.cli(&[
        "XDEL",
        &shard().ready(umbel_broker::keys::Stream::Recovered),
        taken[0].entry(),
    ]);
    let mut again = house.consumer(&worker, &Held::default());
    again.stop().request().await.unwrap();
    again.fetch(4).await.unwrap();
    assert!(!house.client.declare_dead(&worker, "7", &Cause::Silent, Utc::now()).await.unwrap());
    let cause = Cause::Crashed("SIGSEGV".to_owned());
    let dead = house.client.boot_ended(boot, &cause, Utc::now()).await.unwrap();
    assert_eq!(dead, [(worker.clone(), cause)]);
    assert!(house.client.consumers(&shard()).await.unwrap().contains(&worker));
    house.client.recover_all(&shard(), &worker, true).await.unwrap();
    assert!(!house.client.consumers(&shard()).await.unwrap().contains(&worker));
    house.client.forget_worker(&worker).await.unwrap();
    house.client.workers().await.unwrap();
}
