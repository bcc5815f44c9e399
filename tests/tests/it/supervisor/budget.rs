//! One budget of connections, processors and memory for three roles.

use std::fs;

use umbel_broker::keys;
use umbel_proto::TaskState;
use umbel_tests::{
    chaos::{probe::Act, site::Site},
    eventually::{eventually, eventually_eq, within},
    services::PostgresServer,
};

use super::{LONG, ROLES, enqueue, group::Group, proc, ready};

/// One of the API and one of beat; of the worker one for commands, one to read, one for its
/// heartbeat, one to hear of pauses. The supervisor has none while nobody dies.
const CONNECTIONS_IDLE: usize = 6;

fn connections(site: &Site) -> usize {
    let list = site.redis.cli(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains("addr=") && !line.contains("cmd=client")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_the_whole_house_has_six_connections_to_redis() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    ready(&up).await;
    eventually_eq("six connections", CONNECTIONS_IDLE, async || connections(&site)).await;
    // A death is told over a connection that is there for that only.
    let killed = up.role("worker").unwrap();
    umbel_tests::process::send(killed, nix::sys::signal::Signal::SIGKILL);
    eventually("it is told and started again", async || {
        let told = up.log().contains("told the broker that it is dead");
        (told && up.role("worker").is_some_and(|pid| pid != killed)).then_some(())
    })
    .await;
    eventually("two are ready, one after the other", async || {
        (up.log().matches("worker is ready").count() == 2).then_some(())
    })
    .await;
    eventually_eq("six connections again", CONNECTIONS_IDLE, async || connections(&site)).await;
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pools_of_all_roles_together_stay_within_the_maximum() {
    const MOST: usize = 4;
    let (site, database) = (Site::new(), PostgresServer::shared().database());
    let url = database.url();
    let env =
        [("DATABASE_URL", url.as_str()), ("DATABASE_MAX_CONNECTIONS", "4"), ("CONCURRENCY", "16")];
    let mut handles = Vec::new();
    for _ in 0..200 {
        handles.push(enqueue(&site, Act::Go).await);
    }
    let up = site.launch("up", &env);
    let mut highest = 0;
    let count = "select count(*) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()";
    eventually("all have had their effect", async || {
        highest = highest.max(database.sql(count).trim().parse::<usize>().unwrap());
        let ended = handles.last().unwrap().record().await.unwrap()?;
        ended.state.has_ended().then_some(())
    })
    .await;
    assert!((2..=MOST).contains(&highest), "{highest} connections");
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_memory_runs_out_the_worker_goes_first() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    let [api, beat, worker] = ready(&up).await;
    let score = |pid| proc(pid, "oom_score_adj").trim().parse::<i32>().unwrap();
    let own = score(up.pid());
    assert_eq!((score(api), score(beat)), (own, own));
    assert_eq!(score(worker), (own + 500).min(1_000));
    assert!(up.stop().await.success());
    // Alone it has no siblings to spare.
    let worker = site.launch("worker", &[]);
    eventually("it is ready", async || worker.log().contains("worker is ready").then_some(()))
        .await;
    assert_eq!(score(worker.pid()), own);
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_how_many_tasks_run_at_once_and_the_pool_does() {
    let (site, database) = (Site::new(), PostgresServer::shared().database());
    let url = database.url();
    // A quarter of four is the API's.
    let env = [("DATABASE_URL", url.as_str()), ("DATABASE_MAX_CONNECTIONS", "4")];
    let up = site.launch("up", &env);
    ready(&up).await;
    assert!(up.log().contains("concurrency=3"), "{}", up.log());
    assert!(up.stop().await.success());
}

/// The threads of a runtime.
fn threads(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    names
        .filter(|name| name.starts_with("tokio-rt-worker") || name.starts_with("tokio-runtime"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_half_a_processor_there_are_few_threads_and_four_tasks_at_once() {
    let Some(group) = Group::half_a_processor() else { return };
    let site = Site::new();
    let start = |env: &[(&str, &str)]| group.start(&site.plan("up", env));
    let up = start(&[]);
    let pids = ready(&up).await;
    assert!(up.log().contains("concurrency=4"), "{}", up.log());
    assert_eq!(pids.map(threads), [1, 1, 2], "{ROLES:?}");
    assert!(up.stop().await.success());

    let up = start(&[("CONCURRENCY", "7"), ("TOKIO_WORKER_THREADS", "3")]);
    let pids = ready(&up).await;
    assert!(up.log().contains("concurrency=7"), "{}", up.log());
    assert_eq!(pids.map(threads), [3, 3, 3], "{ROLES:?}");
    assert!(up.stop().await.success());
}

/// With the API in it, at rest.
const ALL_MIB: usize = 160;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_eats_all_memory_costs_the_worker_and_not_the_api() {
    let Some(group) = Group::of_memory(ALL_MIB) else { return };
    let site = Site::new();
    let up = group.start(&site.plan("up", &[]));
    let [api, beat, _] = ready(&up).await;
    let hog = enqueue(&site, Act::Hog(4 * ALL_MIB)).await;
    let record = within(LONG, "it is a dead letter", async || {
        hog.record().await.unwrap().filter(|record| record.state.has_ended())
    })
    .await;
    assert_eq!(record.state, TaskState::Failed);
    assert_eq!((up.role("api"), up.role("beat")), (Some(api), Some(beat)), "{}", up.log());
    let tombstones = site.redis.cli(&["HVALS", keys::heartbeat()]);
    assert_eq!(tombstones.matches(" oom").count(), 3, "{tombstones}");
    assert!(up.stop().await.success());
}
