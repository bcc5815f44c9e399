//! The whole house as it is deployed: under one supervisor, or, where `UMBEL_TEST_SPLIT` is set, as
//! services of their own: one API, two workers, two beats. What a test sees of it is the same.

use std::{
    env,
    process::ExitStatus,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::sys::signal::Signal;

use crate::process::{Launch, Process};

const SPLIT: &str = "UMBEL_TEST_SPLIT";

const ROLES: [&str; 5] = ["api", "worker", "worker", "beat", "beat"];

#[derive(Debug)]
pub enum Deployment {
    Together(Process),
    Split(Mutex<Vec<Service>>),
}

/// One process of a platform, which starts it again when it has died.
#[derive(Debug)]
pub struct Service {
    role: &'static str,
    launch: Launch,
    process: Process,
    /// The log of those before.
    log: String,
}

impl Service {
    fn start(role: &'static str, up: &Launch) -> Self {
        let launch = up.with_args(&[role]);
        Self { role, process: launch.start(), launch, log: String::new() }
    }

    fn keep(&mut self) {
        if self.process.has_ended().is_some() {
            self.log.push_str(&self.process.log());
            self.process = self.launch.start();
        }
    }
}

impl Deployment {
    /// Starts what `up` would, as one or as many. Split, the tables are made first.
    pub fn start(up: &Launch) -> Self {
        if env::var_os(SPLIT).is_none() {
            return Self::Together(up.start());
        }
        let migrated = up.with_args(&["migrate"]).output();
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        Self::Split(Mutex::new(ROLES.map(|role| Service::start(role, up)).into()))
    }

    /// A process of a role.
    pub fn role(&self, role: &str) -> Option<u32> {
        match self {
            Self::Together(up) => up.role(role),
            Self::Split(services) => {
                let mut services = lock(services);
                services.iter_mut().for_each(Service::keep);
                services.iter().find(|one| one.role == role).map(|one| one.process.pid())
            }
        }
    }

    /// What all processes have logged so far.
    pub fn log(&self) -> String {
        match self {
            Self::Together(up) => up.log(),
            Self::Split(services) => lock(services)
                .iter()
                .map(|service| format!("{}{}", service.log, service.process.log()))
                .collect(),
        }
    }

    /// Asks all to end, and waits for it; of how they ended the worst.
    pub async fn stop(self) -> ExitStatus {
        let services = match self {
            Self::Together(up) => return up.stop().await,
            Self::Split(services) => services.into_inner().unwrap_or_else(PoisonError::into_inner),
        };
        let mut worst = ExitStatus::default();
        for service in &services {
            service.process.signal(Signal::SIGTERM);
        }
        for mut service in services {
            let ended = service.process.ended().await;
            worst = if ended.success() { worst } else { ended };
        }
        worst
    }
}

fn lock(services: &Mutex<Vec<Service>>) -> MutexGuard<'_, Vec<Service>> {
    services.lock().unwrap_or_else(PoisonError::into_inner)
}
