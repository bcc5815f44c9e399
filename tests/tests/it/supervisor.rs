//! The supervisor as a real process: what it gives its roles, how it starts and ends them, and what it
//! does when they die.

mod budget;
mod gives_up;
mod group;
mod lines;
mod orphans;
mod stops;

use std::{fs, time::Duration};

use umbel::TaskHandle;
use umbel_tests::{
    chaos::{
        probe::{Act, Trial},
        site::Site,
    },
    eventually::eventually,
    process::{Process, children},
};

const ROLES: [&str; 3] = ["api", "beat", "worker"];

/// Set: what needs rights that not every machine gives (a namespace, a control group) is left out.
const UNPRIVILEGED: &str = "UMBEL_TEST_UNPRIVILEGED";

async fn enqueue(site: &Site, act: Act) -> TaskHandle<u32> {
    site.client.enqueue(Trial::new(act)).await.unwrap()
}

/// The processes of all roles, once each of them is ready.
async fn ready(up: &Process) -> [u32; 3] {
    eventually("all roles are ready", async || {
        let log = up.log();
        let is_ready = ["listening", "worker is ready", "beat starts"];
        let roles = ROLES.map(|role| up.role(role));
        let all =
            roles.iter().all(Option::is_some) && is_ready.iter().all(|said| log.contains(said));
        all.then(|| roles.map(Option::unwrap))
    })
    .await
}

fn proc(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// The children of a process that have ended, and that nobody has taken note of.
fn zombies(pid: u32) -> Vec<u32> {
    children(pid).into_iter().filter(|child| proc(*child, "status").contains("State:\tZ")).collect()
}

/// Where in a log something stands for the first time.
fn at(log: &str, said: &str) -> usize {
    log.find(said).unwrap_or_else(|| panic!("`{said}` is not in {log}"))
}

/// Within a grace time of seconds: a stop takes no longer, whatever goes on.
const SOON: Duration = Duration::from_secs(10);

/// Three deaths, with the waits before the restarts.
const LONG: Duration = Duration::from_secs(60);
