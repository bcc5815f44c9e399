//! Deaths of roles: which are lived with, and which end all.

use nix::sys::signal::Signal;
use umbel_proto::TaskState;
use umbel_tests::{
    chaos::{
        probe::{Act, HISTORY, TWICE},
        site::Site,
    },
    eventually::{eventually, within},
    process::{free_port, is_alive, send},
    services::PostgresServer,
};

use super::{LONG, at, enqueue, ready};

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_never_comes_up_is_given_up_aloud() {
    let site = Site::new();
    // The state of the application cannot be made: in API and worker.
    let env = [(HISTORY, "/nowhere/history"), ("RESTART_LIMIT", "2")];
    let mut up = site.launch("up", &env);
    assert_eq!(up.ended().await.code(), Some(1));
    let log = up.log();
    assert!(log.contains("died 2 times in a row before it was ready: giving up"), "{log}");
    assert!(log.contains("the application cannot start"), "{log}");
    // Beat was well, and ended in order.
    let ended = at(&log, "ended role=\"beat\"");
    assert!(at(&log, "starting again in 500ms") < ended, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_that_a_task_causes_never_make_it_give_up() {
    let site = Site::new();
    let poison = enqueue(&site, Act::Abort).await;
    let up = site.launch("up", &[("RESTART_LIMIT", "1")]);
    let [api, beat, _] = ready(&up).await;
    let record = within(LONG, "the poison is buried", async || {
        poison.record().await.unwrap().filter(|record| record.state.has_ended())
    })
    .await;
    assert_eq!(record.state, TaskState::Failed);
    assert_eq!(site.starts(poison.id()).len(), 3);
    assert_eq!((up.role("api"), up.role("beat")), (Some(api), Some(beat)), "they live on");
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_dies_takes_no_other_along() {
    let site = Site::new();
    let up = site.launch("up", &[("PORT", &free_port().to_string())]);
    let mut pids = ready(&up).await;
    for (n, role) in super::ROLES.into_iter().enumerate() {
        send(pids[n], Signal::SIGKILL);
        let successor =
            eventually("it is started again", async || up.role(role).filter(|pid| *pid != pids[n]))
                .await;
        pids[n] = successor;
        assert_eq!(super::ROLES.map(|role| up.role(role)), pids.map(Some), "{role}");
    }
    assert!(pids.into_iter().all(is_alive));
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_program_ends_it_with_2_and_a_sentence() {
    let site = Site::new();
    for role in ["up", "worker", "api"] {
        let mut process = site.launch(role, &[(TWICE, "1")]);
        assert_eq!(process.ended().await.code(), Some(2), "{role}: {}", process.log());
        let log = process.log();
        assert!(
            log.contains("cannot be registered: two tasks are called `trial`"),
            "{role}: {log}"
        );
        assert!(!log.contains("starting again"), "{role}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_comes_first_then_the_tables_then_the_roles() {
    let (site, database) = (Site::new(), PostgresServer::shared().database());
    let url = database.url();
    site.redis.stop();
    let up = site.launch("up", &[("DATABASE_URL", &url)]);
    eventually("redis is waited for", async || {
        up.log().contains("waiting for redis").then_some(())
    })
    .await;
    assert!(!up.log().contains("up to date") && !up.log().contains("started"), "{}", up.log());
    site.redis.restart();
    ready(&up).await;
    let log = up.log();
    assert!(at(&log, "waiting for redis") < at(&log, "the tables are up to date"), "{log}");
    assert!(at(&log, "the tables are up to date") < at(&log, "started role="), "{log}");
    assert!(up.stop().await.success());
}
