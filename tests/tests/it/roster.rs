//! Who works, and at what, as the workers themselves tell.

use std::time::Duration;

use chrono::Utc;
use nix::sys::signal::Signal;
use umbel_broker::roster::{WorkerInfo, WorkerStatus};
use umbel_tests::{
    chaos::{
        probe::{Act as Harm, QUEUE, Trial},
        site::Site,
    },
    eventually::{eventually, eventually_eq},
    house::House,
    probe::{Act, Probe},
    process::send,
};

const LONG: Duration = Duration::from_secs(20);

async fn told(house: &House, worker: &str) -> Option<WorkerInfo> {
    let living = house.client.living_workers().await.unwrap();
    living.into_iter().find(|one| one.id == worker).map(|one| one.info)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_worker_tells_who_it_is_and_what_it_runs_until_that_ends() {
    let house = House::start();
    let worker = house.worker(3);
    let id = worker.id.clone();
    let began = Utc::now();
    let held = house.client.enqueue(Probe::new("held", Act::Hold)).await.unwrap();
    let info = eventually("it tells of its task", async || {
        told(&house, &id).await.filter(|info| info.running_count == 1)
    })
    .await;
    assert_eq!((&*info.host, info.pid, info.concurrency), ("test", std::process::id(), 3));
    assert_eq!(info.queues, ["default"]);
    assert!(info.beat.unwrap() >= info.started.unwrap());
    let [running] = <[_; 1]>::try_from(info.running).unwrap();
    assert_eq!((&*running.id, &*running.task, running.attempt), (held.id().as_str(), "probe", 1));
    assert!(running.since >= began && running.since <= Utc::now());

    house.record.open("held");
    held.wait(LONG).await.unwrap();
    eventually("it runs nothing", async || {
        told(&house, &id).await.filter(|info| info.running_count == 0 && info.running.is_empty())
    })
    .await;
    worker.stop().await.unwrap();
    assert_eq!(told(&house, &id).await, None, "it signed off");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_tasks_some_are_told_and_all_are_counted_with_no_command_more() {
    let house = House::start();
    let worker = house.worker(100);
    let id = worker.id.clone();
    let probes = (0..100).map(|n| Probe::new(&format!("n{n}"), Act::Hold));
    house.client.enqueue_many(probes).await.unwrap();
    let info = eventually("all run", async || {
        told(&house, &id).await.filter(|info| info.running_count == 100)
    })
    .await;
    assert_eq!(info.running.len(), 64);
    // Whatever it runs, it is one field of one hash, written by the script of the heartbeat.
    let calls = |name: &str| -> u64 {
        let stats = house.redis.cli(&["INFO", "commandstats"]);
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    // Each beat is one HINCRBY and one HSET; nothing else here writes a hash: nothing is tracked.
    let (beats, written) = (calls("hincrby"), calls("hset"));
    eventually("some beats more", async || (calls("hincrby") >= beats + 3).then_some(())).await;
    let (more_beats, more_written) = (calls("hincrby") - beats, calls("hset") - written);
    assert!(more_written <= more_beats + 1, "{more_written} writes in {more_beats} beats");
    for n in 0..100 {
        house.record.open(&format!("n{n}"));
    }
    eventually_eq("nothing runs", 0, async || house.queue().await.running).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_process_died_is_not_among_the_living_and_its_successor_is() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    let living = async || -> Vec<WorkerStatus> { site.client.living_workers().await.unwrap() };
    site.client.enqueue(Trial::new(Harm::Sleep(60_000))).await.unwrap();
    let first = eventually("it works", async || {
        let mut living = living().await;
        living.pop().filter(|one| one.info.running_count == 1)
    })
    .await;
    let pid = up.role("worker").unwrap();
    assert_eq!((first.info.pid, &*first.info.queues), (pid, &[QUEUE.to_owned()][..]));
    send(pid, Signal::SIGKILL);
    let second = eventually("another one is alone", async || {
        let mut living = living().await;
        living.pop().filter(|one| living.is_empty() && one.id != first.id)
    })
    .await;
    assert_ne!((second.info.pid, second.info.boot), (first.info.pid, first.info.boot));
    assert!(up.stop().await.success());
}
