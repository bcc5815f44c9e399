//! One budget of connections, processors and memory for three roles.

use std::{fs, path::PathBuf, time::Duration};

use umbel_tests::{
    chaos::{probe::Act, site::Site},
    eventually::{eventually, eventually_eq},
    process::Process,
    services::PostgresServer,
};

use super::{ROLES, UNPRIVILEGED, enqueue, proc, ready};

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

/// A control group with a quota of half a processor, removed when dropped.
struct HalfACpu(PathBuf);

impl HalfACpu {
    fn new() -> std::io::Result<Self> {
        let name = format!("umbel-test-{}", uuid::Uuid::new_v4().simple());
        let second = PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
        let group = match second {
            true => PathBuf::from("/sys/fs/cgroup").join(name),
            false => PathBuf::from("/sys/fs/cgroup/cpu").join(name),
        };
        fs::create_dir(&group)?;
        let group = Self(group);
        match second {
            true => fs::write(group.0.join("cpu.max"), "50000 100000")?,
            false => {
                fs::write(group.0.join("cpu.cfs_period_us"), "100000")?;
                fs::write(group.0.join("cpu.cfs_quota_us"), "50000")?;
            }
        }
        Ok(group)
    }

    fn launcher(&self) -> [String; 4] {
        let enter = format!(r#"echo $$ >{}/cgroup.procs && exec "$@""#, self.0.display());
        ["sh".to_owned(), "-c".to_owned(), enter, "sh".to_owned()]
    }
}

impl Drop for HalfACpu {
    fn drop(&mut self) {
        // The last process may be about to leave; a folder that stays costs nothing.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
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
    if std::env::var_os(UNPRIVILEGED).is_some() {
        return eprintln!("left out: {UNPRIVILEGED} is set");
    }
    let group = HalfACpu::new().unwrap_or_else(|error| {
        panic!("no control group can be made here ({error}): {UNPRIVILEGED}=1 leaves this out")
    });
    let site = Site::new();
    let launcher = group.launcher();
    let start = |env: &[(&str, &str)]| -> Process {
        let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
        site.plan("up", env).under(&launcher).start()
    };
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
