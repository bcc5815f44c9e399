//! Processes that tasks have left behind end as children of the supervisor.

use std::process::Command;

use nix::{sys::signal::Signal, unistd::geteuid};
use umbel_broker::keys;
use umbel_tests::{
    chaos::{probe::Act, site::Site},
    eventually::{eventually, within},
    process::{children, send},
};

use super::{LONG, SOON, UNPRIVILEGED, enqueue, proc, ready, zombies};

const COUNT: u32 = 20;

/// How many children of a process are left-behind programs of the probe.
fn adopted(pid: u32) -> usize {
    children(pid).iter().filter(|child| proc(**child, "comm").trim() == "sleep").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_leave_no_zombies_and_take_no_exit_code_along() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    let [api, ..] = ready(&up).await;
    let orphans = enqueue(&site, Act::Orphans(COUNT)).await;
    eventually("they are the supervisor's", async || (adopted(up.pid()) > 0).then_some(())).await;
    assert_eq!(orphans.wait(SOON).await.unwrap(), 1);
    // Roles end among them.
    let crash = enqueue(&site, Act::Abort).await;
    within(LONG, "three workers have died of it", async || {
        crash.record().await.unwrap().filter(|record| record.state.has_ended())
    })
    .await;
    send(api, Signal::SIGABRT);
    eventually("all is told", async || {
        up.log().contains("died role=\"api\" cause=crashed SIGABRT").then_some(())
    })
    .await;
    eventually("no zombie is left", async || {
        (adopted(up.pid()) == 0 && zombies(up.pid()).is_empty()).then_some(())
    })
    .await;
    let (log, tombstones) = (up.log(), site.redis.cli(&["HVALS", keys::heartbeat()]));
    assert_eq!(tombstones.matches("crashed SIGABRT").count(), 3, "{tombstones}");
    assert!(!log.contains("is gone") && !tombstones.contains("unseen"), "{log}");
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn as_process_1_it_reaps_drains_and_ends_with_0() {
    if std::env::var_os(UNPRIVILEGED).is_some() {
        return eprintln!("left out: {UNPRIVILEGED} is set");
    }
    let mut unshare = vec!["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !geteuid().is_root() {
        unshare.push("--map-root-user");
    }
    let tried = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output().unwrap();
    assert!(
        tried.status.success(),
        "no namespace of processes can be made here ({}): {UNPRIVILEGED}=1 leaves this out",
        String::from_utf8_lossy(&tried.stderr).trim()
    );
    let site = Site::new();
    let mut outside = site.plan("up", &[]).under(&unshare).start();
    let up = eventually("it runs", async || children(outside.pid()).first().copied()).await;
    eventually("its worker is ready", async || {
        outside.log().contains("worker is ready").then_some(())
    })
    .await;
    assert!(
        proc(up, "status").lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    );
    let orphans = enqueue(&site, Act::Orphans(COUNT)).await;
    eventually("they are its own", async || (adopted(up) > 0).then_some(())).await;
    assert_eq!(orphans.wait(SOON).await.unwrap(), 1);
    eventually("no zombie is left", async || {
        (adopted(up) == 0 && zombies(up).is_empty()).then_some(())
    })
    .await;
    send(up, Signal::SIGTERM);
    assert_eq!(outside.ended().await.code(), Some(0), "{}", outside.log());
    assert!(outside.log().contains("everything has ended"), "{}", outside.log());
}
