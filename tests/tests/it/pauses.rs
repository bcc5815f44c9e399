//! A paused queue: nothing of it is started, nothing of it is lost, and it goes on where it was.

use std::time::{Duration, Instant};

use chrono::Utc;
use nix::sys::signal::Signal;
use umbel_broker::{NewTask, keys::Stream};
use umbel_proto::{QueueName, TaskState};
use umbel_tests::{
    chaos::{
        probe::{Act as Harm, QUEUE, Trial},
        site::Site,
    },
    eventually::{eventually, eventually_eq, stays, within},
    house::House,
    probe::{Act, Probe, shard},
    process::send,
    services::RedisServer,
};

const LONG: Duration = Duration::from_secs(20);

/// What workers may need to hear of a pause.
const HEARD: Duration = Duration::from_secs(1);

async fn pause(house: &House) {
    let queue = shard().queue().clone();
    assert!(house.client.pause(&queue, "ann", "it is closed", Utc::now()).await.unwrap());
}

async fn resume(house: &House) {
    assert!(house.client.resume(shard().queue()).await.unwrap());
}

async fn enqueue(house: &House, name: &str, act: Act) -> umbel_broker::TaskHandle<u32> {
    house.client.enqueue(Probe::new(name, act)).await.unwrap()
}

/// How many reads of workers block.
fn blocked(redis: &RedisServer) -> usize {
    let clients = redis.cli(&["CLIENT", "LIST"]);
    clients
        .lines()
        .filter(|line| line.contains(" cmd=xreadgroup") && line.contains(" flags=b"))
        .count()
}

/// How many workers hear what is said of the queue.
fn listening(redis: &RedisServer, channel: &str) -> String {
    let answer = redis.cli(&["PUBSUB", "NUMSUB", channel]);
    answer.lines().last().unwrap_or_default().to_owned()
}

async fn all_listen(house: &House, workers: usize) {
    let all = workers.to_string();
    eventually_eq("all listen", all, async || listening(&house.redis, &shard().wake())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_whose_reads_block_stop_within_a_second_and_go_on_at_once() {
    let house = House::start();
    let workers = [house.worker(2), house.worker(2), house.worker(2)];
    all_listen(&house, 3).await;
    eventually_eq("all reads block", 3, async || blocked(&house.redis)).await;
    pause(&house).await;
    within(HEARD, "no read blocks", async || (blocked(&house.redis) == 0).then_some(())).await;
    for n in 0..10 {
        enqueue(&house, &format!("n{n}"), Act::Ok).await;
    }
    stays((10, 0), async || {
        let queue = house.queue().await;
        (queue.queued, queue.running)
    })
    .await;
    assert!(house.record.order().is_empty());
    resume(&house).await;
    within(HEARD, "all have run", async || (house.record.order().len() == 10).then_some(())).await;
    for worker in workers {
        worker.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_stream_of_work_nothing_is_started_a_second_after_the_pause() {
    let house = House::start();
    let workers = [house.worker(2), house.worker(2)];
    all_listen(&house, 2).await;
    let mut late = Vec::new();
    let mut paused: Option<Instant> = None;
    for n in 0..400 {
        let heard = paused.is_some_and(|at| at.elapsed() >= HEARD);
        let name = format!("n{n}");
        enqueue(&house, &name, Act::Ok).await;
        if heard {
            late.push(name);
        }
        if late.len() >= 20 {
            break;
        }
        if n == 50 {
            eventually("work goes on", async || (house.record.order().len() > 20).then_some(()))
                .await;
            pause(&house).await;
            paused = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(late.len(), 20, "the test was too short for its machine");
    let ran = house.record.order();
    assert!(late.iter().all(|name| !ran.contains(name)), "{late:?} in {ran:?}");
    resume(&house).await;
    eventually("nothing was lost", async || {
        let queue = house.queue().await;
        (queue.queued + queue.running == 0).then_some(())
    })
    .await;
    let mut ran = house.record.order();
    ran.sort_unstable();
    let runs = ran.len();
    ran.dedup();
    assert_eq!(runs, ran.len(), "each has run once");
    assert!(late.iter().all(|name| ran.contains(name)));
    for worker in workers {
        worker.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_ends_as_ever_and_what_becomes_due_waits() {
    let house = House::start();
    let worker = house.worker(4);
    let held = enqueue(&house, "held", Act::Hold).await;
    let failing = enqueue(&house, "failing", Act::FailFirst(1)).await;
    eventually("both have begun", async || (house.record.order().len() >= 2).then_some(())).await;
    assert_eq!(failing.wait(LONG).await.unwrap(), 2);
    all_listen(&house, 1).await;
    pause(&house).await;
    let delayed = house.client.enqueue(Probe::new("delayed", Act::Ok));
    let delayed = delayed.delay(Duration::from_millis(300)).await.unwrap();
    eventually_eq("it is due", 1, async || house.queue().await.queued).await;
    assert_eq!(delayed.record().await.unwrap().unwrap().state, TaskState::Queued);
    house.record.open("held");
    assert_eq!(held.wait(LONG).await.unwrap(), 1, "a pause does not touch what runs");
    stays(1, async || house.queue().await.queued).await;
    resume(&house).await;
    assert_eq!(delayed.wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_workers_and_redis_and_what_was_given_back_waits() {
    let house = House::start();
    let worker = house.worker(1);
    let held = enqueue(&house, "held", Act::Hold).await;
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    pause(&house).await;
    assert_eq!(worker.stop().await.unwrap().given_back, 1);
    assert_eq!(house.redis.cli(&["XLEN", &shard().ready(Stream::Recovered)]), "1");

    house.redis.stop();
    house.redis.restart();
    let paused =
        eventually("redis answers", async || house.client.pause_of(shard().queue()).await.ok())
            .await
            .expect("it is paused still");
    assert_eq!((&*paused.by, &*paused.why), ("ann", "it is closed"));
    assert!(Utc::now() - paused.since < chrono::TimeDelta::minutes(5));
    // A second word does not change who it was.
    assert!(!house.client.pause(shard().queue(), "bob", "me too", Utc::now()).await.unwrap());
    assert_eq!(house.client.pause_of(shard().queue()).await.unwrap(), Some(paused));

    let worker = house.worker(1);
    all_listen(&house, 1).await;
    stays((1, 1), async || (house.queue().await.queued, house.record.order().len())).await;
    house.redis.kill9();
    house.redis.restart();
    eventually("redis answers", async || house.client.ping().await.ok()).await;
    all_listen(&house, 1).await;
    stays((1, 1), async || (house.queue().await.queued, house.record.order().len())).await;
    resume(&house).await;
    house.record.open("held");
    assert_eq!(held.wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_nobody_heard_of_is_found_by_the_ticks() {
    let house = House::start();
    let worker = house.worker(1);
    all_listen(&house, 1).await;
    eventually_eq("the read blocks", 1, async || blocked(&house.redis)).await;
    // By hand, and so without a word on the channel.
    house.redis.cli(&["HSET", &shard().control(), "paused", "1"]);
    within(Duration::from_secs(8), "no read blocks", async || {
        (blocked(&house.redis) == 0).then_some(())
    })
    .await;
    let waits = enqueue(&house, "waits", Act::Ok).await;
    stays(1, async || house.queue().await.queued).await;
    house.redis.cli(&["HDEL", &shard().control(), "paused"]);
    assert_eq!(waits.wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

/// As with the list of users of an older release.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_listen_works_and_heeds_a_pause_all_the_same() {
    let house = House::on(RedisServer::start_restricted());
    house.redis.cli(&["ACL", "SETUSER", "worker", "-subscribe"]);
    let worker = house.worker(1);
    assert_eq!(enqueue(&house, "before", Act::Ok).await.wait(LONG).await.unwrap(), 1);
    eventually_eq("the read blocks", 1, async || blocked(&house.redis)).await;
    pause(&house).await;
    within(Duration::from_secs(8), "no read blocks", async || {
        (blocked(&house.redis) == 0).then_some(())
    })
    .await;
    let waits = enqueue(&house, "waits", Act::Ok).await;
    stays(1, async || house.queue().await.queued).await;
    resume(&house).await;
    assert_eq!(waits.wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
    let denied = house.redis.denied();
    assert!(denied.iter().all(|line| line == "worker command subscribe"), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_one_queue_is_none_of_another_and_it_goes_on_while_the_read_blocks() {
    let house = House::start();
    let other: QueueName = "other".parse().unwrap();
    let queues = vec![shard().queue().clone(), other.clone()];
    let worker = house.worker_with(|settings| {
        settings.queues = queues;
        settings.concurrency = 1;
    });
    all_listen(&house, 1).await;
    assert!(house.client.pause(&other, "ann", "only this one", Utc::now()).await.unwrap());
    let mut new = NewTask::of(&Probe::new("there", Act::Ok)).unwrap();
    new.queue = other.clone();
    house.client.submit(new).await.unwrap();
    assert_eq!(enqueue(&house, "here", Act::Ok).await.wait(LONG).await.unwrap(), 1);
    assert_eq!(house.client.queue_status(&other).await.unwrap().queued, 1);
    assert_eq!(house.record.order(), ["here"]);
    eventually_eq("the read blocks", 1, async || blocked(&house.redis)).await;
    assert!(house.client.resume(&other).await.unwrap());
    within(HEARD, "it runs", async || (house.record.order().len() == 2).then_some(())).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_held_of_a_paused_queue_waits_and_runs_again_afterwards() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    let queue: QueueName = QUEUE.parse().unwrap();
    let handle = site.client.enqueue(Trial::new(Harm::Sleep(3_000))).await.unwrap();
    eventually("it runs", async || (site.starts(handle.id()).len() == 1).then_some(())).await;
    assert!(site.client.pause(&queue, "ann", "something is wrong", Utc::now()).await.unwrap());
    let killed = up.role("worker").unwrap();
    send(killed, Signal::SIGKILL);
    let ready = format!("umbel:{{{QUEUE}}}:ready:recovered");
    eventually_eq("it waits again", "1".to_owned(), async || site.redis.cli(&["XLEN", &ready]))
        .await;
    // The worker that took the place of the killed one is there, and knows.
    let wake = format!("umbel:{{{QUEUE}}}:wake");
    eventually("another worker is here", async || {
        let another = up.role("worker").is_some_and(|pid| pid != killed);
        (another && listening(&site.redis, &wake) == "1").then_some(())
    })
    .await;
    stays(1, async || site.starts(handle.id()).len()).await;
    assert_eq!(site.client.queue_status(&queue).await.unwrap().queued, 1);
    assert!(site.client.resume(&queue).await.unwrap());
    assert_eq!(handle.wait(LONG).await.unwrap(), 1, "a kill from outside burns no attempt");
    assert_eq!(site.starts(handle.id()).len(), 2);
    assert!(up.stop().await.success());
}

/// A task that runs alone waits in its worker until nothing else runs there.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_worker_for_room_is_given_back_when_its_queue_is_paused() {
    let house = House::start();
    let worker = house.worker(2);
    enqueue(&house, "held", Act::Hold).await;
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    all_listen(&house, 1).await;
    // As one that was there when two workers died.
    let suspect = NewTask::of(&Probe::new("suspect", Act::Ok)).unwrap();
    let id = format!("default-{}", uuid::Uuid::now_v7());
    let env = umbel_proto::codec::encode(&umbel_proto::Body {
        args: suspect.args,
        ..umbel_proto::Body::default()
    });
    let mut add = redis::cmd("XADD");
    add.arg(shard().ready(Stream::Normal)).arg("*").arg("id").arg(&id).arg("task").arg("probe");
    add.arg("attempt").arg(1).arg("crashes").arg(2).arg("enqueued").arg(1).arg("version").arg(1);
    add.arg("env").arg(env.unwrap());
    let mut raw = redis::Client::open(house.redis.url()).unwrap().get_connection().unwrap();
    add.exec(&mut raw).unwrap();
    eventually_eq("the worker has both", 2, async || house.queue().await.running).await;

    let hgets = || -> u64 {
        let stats = house.redis.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hget:calls="));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    let before = hgets();
    pause(&house).await;
    eventually("the worker has asked", async || (hgets() > before).then_some(())).await;
    house.record.open("held");
    eventually_eq("it is given back", "1".to_owned(), async || {
        house.redis.cli(&["XLEN", &shard().ready(Stream::Recovered)])
    })
    .await;
    stays((1, 0), async || {
        let queue = house.queue().await;
        (queue.queued, queue.running)
    })
    .await;
    assert_eq!(house.record.order(), ["held"]);
    resume(&house).await;
    eventually("it runs", async || (house.record.order().len() == 2).then_some(())).await;
    worker.stop().await.unwrap();
}

/// What an idle worker sends: a read in 5 s, a heartbeat and a tick in 3 s, and with each heartbeat a
/// look at the queues and who reads them; to hear of pauses it sends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_asks_little_and_to_hear_of_pauses_nothing() {
    const LOOKED: Duration = Duration::from_secs(15);
    let house = House::start();
    let worker = house.worker(4);
    all_listen(&house, 1).await;
    eventually_eq("the read blocks", 1, async || blocked(&house.redis)).await;
    let sent = || -> u64 {
        let stats = house.redis.cli(&["INFO", "commandstats"]);
        // Not what scripts call: that is not sent.
        let of_workers = ["evalsha", "xreadgroup", "hkeys", "subscribe", "client|unblock"];
        stats
            .lines()
            .filter_map(|line| line.trim().strip_prefix("cmdstat_")?.split_once(":calls="))
            .filter(|(name, _)| of_workers.contains(name))
            .filter_map(|(_, rest)| rest.split(',').next()?.parse::<u64>().ok())
            .sum()
    };
    let before = sent();
    tokio::time::sleep(LOOKED).await;
    let sent = sent() - before;
    // 3 reads, 5 heartbeats, 5 ticks, 10 looks, and one more of each at the edges.
    assert!((10..=28).contains(&sent), "{sent} commands in {LOOKED:?}");
    worker.stop().await.unwrap();
}
