//! What a worker's process takes with it when it dies, hangs or is killed, as real processes.

use std::time::Duration;

use nix::sys::signal::Signal;
use umbel::TaskHandle;
use umbel_broker::keys;
use umbel_proto::TaskState;
use umbel_tests::{
    chaos::{
        probe::{Act, Trial},
        site::Site,
    },
    eventually::{eventually, within},
    process::send,
};

/// Under the shortest lease: what happens within it, no lease has brought about.
const NO_LEASE: Duration = Duration::from_secs(10);

/// Three deaths, with the waits before the restarts.
const LONG: Duration = Duration::from_secs(60);

async fn enqueue(site: &Site, act: Act) -> TaskHandle<u32> {
    site.client.enqueue(Trial::new(act)).await.unwrap()
}

fn tombstones(site: &Site) -> String {
    site.redis.cli(&["HVALS", keys::heartbeat()])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_held_runs_again_at_once_and_nothing_is_charged() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    let handle = enqueue(&site, Act::Sleep(3_000)).await;
    eventually("it runs", async || (site.starts(handle.id()).len() == 1).then_some(())).await;
    send(up.role("worker").unwrap(), Signal::SIGKILL);
    within(NO_LEASE, "it runs again", async || (site.starts(handle.id()).len() == 2).then_some(()))
        .await;
    let tombstones = tombstones(&site);
    assert!(tombstones.contains("killed SIGKILL"), "{tombstones}");
    let entry = site.redis.cli(&["XRANGE", "umbel:{chaos}:ready:recovered", "-", "+"]);
    let fields: Vec<&str> = entry.lines().map(str::trim).collect();
    let crashes = fields.iter().position(|field| *field == "crashes").unwrap();
    assert_eq!(fields[crashes + 1], "0", "{entry}");
    assert_eq!(handle.wait(LONG).await.unwrap(), 1);
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_its_process_is_buried_after_three_deaths_and_its_neighbours_are_not() {
    let site = Site::new();
    let mut neighbours = Vec::new();
    for _ in 0..20 {
        neighbours.push(enqueue(&site, Act::Sleep(20)).await);
    }
    let poison = enqueue(&site, Act::Abort).await;
    for _ in 0..20 {
        neighbours.push(enqueue(&site, Act::Sleep(20)).await);
    }
    let up = site.launch("up", &[]);
    let record = within(LONG, "the poison is buried", async || {
        poison.record().await.unwrap().filter(|record| record.state.has_ended())
    })
    .await;
    assert_eq!(record.state, TaskState::Failed);
    let pids = site.starts(poison.id());
    assert_eq!(pids.len(), 3, "one start a death: {pids:?}");
    for neighbour in &neighbours {
        assert_eq!(neighbour.wait(LONG).await.unwrap(), 1, "no attempt was burnt");
    }
    let dead = site.redis.cli(&["XRANGE", "umbel:{chaos}:dead", "-", "+"]);
    assert_eq!(dead.matches("why").count(), 1, "{dead}");
    assert!(dead.contains("crash"), "{dead}");
    let tombstones = tombstones(&site);
    assert_eq!(tombstones.matches("crashed SIGABRT").count(), 3, "{tombstones}");
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_exits_its_process_is_buried_whatever_code_it_takes() {
    let site = Site::new();
    // As if all were well, and as if a setting were wrong.
    for code in [0, 2] {
        let poison = enqueue(&site, Act::Exit(code)).await;
        let mut up = site.launch("up", &[]);
        let record = within(LONG, "the poison is buried", async || {
            poison.record().await.unwrap().filter(|record| record.state.has_ended())
        })
        .await;
        assert_eq!(record.state, TaskState::Failed);
        assert_eq!(site.starts(poison.id()).len(), 3, "one start a death");
        assert!(up.has_ended().is_none(), "{}", up.log());
        let told = tombstones(&site);
        assert_eq!(told.matches(&format!("crashed exit code {code}")).count(), 3, "{told}");
        assert!(up.stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_block_every_thread_are_not_started_elsewhere() {
    let site = Site::new();
    let worker = |env: &[(&str, &str)]| site.launch("worker", env);
    let first = worker(&[("CONCURRENCY", "2"), ("TOKIO_WORKER_THREADS", "2")]);
    let mut handles = Vec::new();
    // Five leases, on all threads that there are.
    for _ in 0..2 {
        handles.push(enqueue(&site, Act::Block(61_000)).await);
    }
    eventually("both threads are blocked", async || {
        (site.history().lines.len() == 2).then_some(())
    })
    .await;
    let second = worker(&[]);
    for handle in &handles {
        within(2 * LONG, "it has ended", async || {
            handle.record().await.unwrap().filter(|record| record.state.has_ended())
        })
        .await;
        assert_eq!(site.starts(handle.id()).len(), 1);
    }
    assert!(!tombstones(&site).contains("dead"), "{}", tombstones(&site));
    assert!(first.stop().await.success());
    assert!(second.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs_longer_than_any_limit_ends_itself_and_says_why() {
    let site = Site::new();
    let mut worker = site.launch("worker", &[("HANG_LIMIT", "5s"), ("CONCURRENCY", "16")]);
    for _ in 0..16 {
        let trial = Trial::new(Act::Block(600_000));
        site.client.enqueue(trial).time_limit(Duration::from_secs(1)).await.unwrap();
    }
    let status = worker.ended().await;
    assert_eq!(status.code(), Some(70), "{}", worker.log());
    assert!(worker.log().contains("HANG_LIMIT"), "{}", worker.log());
}
