//! How it ends: in order, by every signal that asks for it, or at once.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use umbel_tests::{
    chaos::{probe::Act, site::Site},
    eventually::{eventually, eventually_eq, within},
    process::{free_port, is_alive, send},
};

use super::{SOON, at, enqueue, ready};

fn client() -> reqwest::Client {
    // Another test of this process may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn status(http: &reqwest::Client, port: u16, path: &str) -> Option<StatusCode> {
    let answer = http.get(format!("http://127.0.0.1:{port}{path}")).send().await;
    answer.ok().map(|answer| answer.status())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_ends_first_and_the_worker_last_with_its_task_done() {
    let (site, http, port) = (Site::new(), client(), free_port());
    let mut up = site.launch("up", &[("PORT", &port.to_string())]);
    let [api, beat, worker] = ready(&up).await;
    let task = enqueue(&site, Act::Sleep(4_000)).await;
    eventually("it runs", async || (site.starts(task.id()).len() == 1).then_some(())).await;
    up.signal(Signal::SIGTERM);
    eventually("nobody answers, and the task runs on", async || {
        let gone = !is_alive(api) && !is_alive(beat) && is_alive(worker);
        (gone && status(&http, port, "/livez").await.is_none()).then_some(())
    })
    .await;
    assert!(!task.record().await.unwrap().unwrap().state.has_ended());
    assert_eq!(up.ended().await.code(), Some(0));
    assert_eq!(task.wait(SOON).await.unwrap(), 1);
    let log = up.log();
    let steps = [
        "is asked to end role=\"api\"",
        "ended role=\"api\"",
        "is asked to end role=\"beat\"",
        "ended role=\"beat\"",
        "is asked to end role=\"worker\"",
        "ended role=\"worker\"",
        "everything has ended",
    ];
    assert!(steps.map(|step| at(&log, step)).is_sorted(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_to_end_can_first_be_taken_out_of_the_balancer() {
    let (site, http, port) = (Site::new(), client(), free_port());
    let mut api = site.launch("api", &[("PORT", &port.to_string()), ("UNREADY_FOR", "3s")]);
    let ready = async || status(&http, port, "/readyz").await;
    eventually_eq("it is ready", Some(StatusCode::OK), ready).await;
    api.signal(Signal::SIGTERM);
    eventually_eq("it is not ready", Some(StatusCode::SERVICE_UNAVAILABLE), ready).await;
    assert_eq!(status(&http, port, "/livez").await, Some(StatusCode::OK), "it answers");
    assert_eq!(api.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_ask_for_an_end_get_an_orderly_one() {
    let site = Site::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        for role in ["up", "worker"] {
            let mut process = site.launch(role, &[]);
            let log = async || process.log().contains("worker is ready").then_some(());
            eventually("the worker is ready", log).await;
            process.signal(signal);
            assert_eq!(process.ended().await.code(), Some(0), "{signal} {role}: {}", process.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_all_processes_at_once_cuts_no_drain_short() {
    let site = Site::new();
    let mut up = site.launch("up", &[]);
    let pids = ready(&up).await;
    let task = enqueue(&site, Act::Sleep(2_000)).await;
    eventually("it runs", async || (site.starts(task.id()).len() == 1).then_some(())).await;
    for pid in pids {
        send(pid, Signal::SIGTERM);
    }
    up.signal(Signal::SIGTERM);
    assert_eq!(up.ended().await.code(), Some(0), "{}", up.log());
    assert_eq!(task.wait(SOON).await.unwrap(), 1);
    assert_eq!(site.starts(task.id()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_nohup_the_end_of_the_terminal_is_nothing() {
    let site = Site::new();
    let launch = site.plan("up", &[]).under(&["sh", "-c", r#"trap "" HUP; exec "$@""#, "sh"]);
    let up = launch.start();
    ready(&up).await;
    up.signal(Signal::SIGHUP);
    let task = enqueue(&site, Act::Go).await;
    assert_eq!(task.wait(SOON).await.unwrap(), 1);
    assert!(!up.log().contains("stopping"), "{}", up.log());
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_all_at_once_and_what_ran_is_run_again() {
    let site = Site::new();
    let mut up = site.launch("up", &[]);
    let pids = ready(&up).await;
    let task = enqueue(&site, Act::Sleep(10_000)).await;
    eventually("it runs", async || (site.starts(task.id()).len() == 1).then_some(())).await;
    up.signal(Signal::SIGINT);
    eventually("the worker drains", async || {
        up.log().contains("is asked to end role=\"worker\"").then_some(())
    })
    .await;
    let asked = Instant::now();
    up.signal(Signal::SIGINT);
    assert_eq!(up.ended().await.code(), Some(143), "{}", up.log());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(!pids.into_iter().any(is_alive));
    // It was told of the death: no lease has to pass.
    let worker = site.launch("worker", &[]);
    within(SOON, "it runs again", async || (site.starts(task.id()).len() == 2).then_some(())).await;
    assert_eq!(task.record().await.unwrap().unwrap().attempt, 1);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_do_not_outlive_their_supervisor() {
    let site = Site::new();
    let up = site.launch("up", &[]);
    let pids = ready(&up).await;
    up.signal(Signal::SIGKILL);
    eventually("all have ended", async || (!pids.into_iter().any(is_alive)).then_some(())).await;
}
