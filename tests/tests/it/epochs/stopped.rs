//! A real process that is stopped with an answer in its socket that it has not read: the task is
//! given to another, and the stopped one does not start it when it goes on.

use std::time::Instant;

use nix::sys::signal::Signal;
use umbel_broker::keys::{self, Shard};
use umbel_tests::{
    chaos::{
        probe::{Act, QUEUE, Trial},
        site::Site,
    },
    eventually::within,
    process::Process,
};

use super::*;

/// Longer than a lease: the others have taken what it held.
const STOPPED_FOR: Duration = Duration::from_secs(20);

/// A lease, and a few beats.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

/// How often it is tried to stop a process while its read is blocked.
const TRIES: usize = 10;

/// The worker ids that a process has told of, the first one first.
fn ids_of(site: &Site, process: &Process) -> Vec<String> {
    let told = site.redis.cli(&["HGETALL", keys::worker_info()]);
    let lines: Vec<&str> = told.lines().collect();
    let is_its = |info: &str| info.contains(&format!("\"pid\":{},", process.pid()));
    let its = lines.chunks_exact(2).filter(|pair| is_its(pair[1]));
    its.map(|pair| pair[0].to_owned()).collect()
}

fn is_blocked(site: &Site, worker: &str) -> bool {
    let clients = site.redis.cli(&["CLIENT", "LIST"]);
    let name = format!("name=umbel:worker:{worker}");
    clients.lines().any(|line| line.contains(&name) && line.contains("flags=b"))
}

fn holds(site: &Site, worker: &str) -> bool {
    let stream = Shard::first(&QUEUE.parse().unwrap()).ready(Stream::Normal);
    let ask = ["XPENDING", &stream, keys::GROUP, "-", "+", "10", worker];
    !site.redis.cli(&ask).is_empty()
}

/// Untracked: then nothing but the worker's own heartbeat tells it that it must not start.
async fn enqueue(site: &Site) -> TaskId {
    let trial = Trial::new(Act::Go);
    site.client.enqueue(trial).untracked().await.unwrap().id().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_with_an_unread_answer_starts_nothing_of_it_when_it_goes_on() {
    let site = Site::new();
    let stopped = site.launch("worker", &[]);
    let id = within(RECOVERED_WITHIN, "it is ready", async || {
        let id = ids_of(&site, &stopped).pop()?;
        is_blocked(&site, &id).then_some(id)
    })
    .await;
    let (task, since) = read_while_stopped(&site, &stopped, &id).await;

    let other = site.launch("worker", &[]);
    within(RECOVERED_WITHIN, "another runs it", async || {
        (site.starts(&task) == [other.pid()]).then_some(())
    })
    .await;
    tokio::time::sleep(STOPPED_FOR.saturating_sub(since.elapsed())).await;
    stopped.signal(Signal::SIGCONT);
    // It has found that it was declared dead, has ended that life, and works on under another id.
    within(RECOVERED_WITHIN, "it works on", async || {
        let ids = ids_of(&site, &stopped);
        ids.iter().any(|other| *other != id && is_blocked(&site, other)).then_some(())
    })
    .await;
    assert_eq!(site.starts(&task), [other.pid()]);
    // Both are there for what comes.
    other.stop().await;
    let next = enqueue(&site).await;
    within(RECOVERED_WITHIN, "it runs what comes", async || {
        (site.starts(&next) == [stopped.pid()]).then_some(())
    })
    .await;
    assert_eq!(site.starts(&task).len(), 1);
    stopped.stop().await;
}

/// Stops the process, and enqueues a task that Redis then gives to its blocked read.
async fn read_while_stopped(site: &Site, process: &Process, id: &str) -> (TaskId, Instant) {
    for _ in 0..TRIES {
        eventually("its read is blocked", async || is_blocked(site, id).then_some(())).await;
        process.signal(Signal::SIGSTOP);
        let since = Instant::now();
        let task = enqueue(site).await;
        if holds(site, id) {
            return (task, since);
        }
        // Its read had ended by itself; it is run as any other.
        process.signal(Signal::SIGCONT);
        eventually("it is run", async || (site.starts(&task).len() == 1).then_some(())).await;
    }
    panic!("no read was blocked when the process was stopped")
}
