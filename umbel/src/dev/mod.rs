//! The private services of `umbel dev`: a real Redis and a real Postgres as children, on unix
//! sockets, in a data folder of their own.
//!
//! They live as long as one thread does, which starts them, watches them and ends them. The kernel
//! ends them with that thread, and so with this process, even where it is killed: the signal at a
//! parent's death is about the thread that started the child, not about its process.

mod error;
mod folder;
mod postgres;
mod programs;
mod redis;
mod server;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    task::spawn_blocking,
};
use tracing::{error, info};

use self::server::{Server, Stop, end};
pub(crate) use self::{error::DevError, folder::Folder};
use crate::Env;

/// How often it is looked whether the services still run; their clients notice at once anyway.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Which services are to be started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    pub(crate) redis: bool,
    pub(crate) postgres: bool,
}

/// The services that run. They end when this is dropped, which waits for them; better ask them to
/// with [`stop`](Self::stop).
#[derive(Debug)]
pub(crate) struct Services {
    addresses: Addresses,
    failed: watch::Receiver<Option<String>>,
    /// Says by its end that it is time to end.
    stop: Option<mpsc::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Addresses {
    redis_socket: Option<PathBuf>,
    redis_url: Option<String>,
    database_url: Option<String>,
}

impl Services {
    /// Starts what is wanted and waits until it is ready. Whoever stops waiting stops the services.
    pub(crate) async fn start(folder: &Folder, wants: Wants) -> Result<Self, DevError> {
        let env = Env::of_process();
        if wants.redis {
            redis::check_disk(&env)?;
        }
        let data = folder.path().to_owned();
        let (stop, stopped) = mpsc::channel();
        let (started, addresses) = oneshot::channel();
        let (failure, failed) = watch::channel(None);
        let thread = thread::Builder::new()
            .name("umbel-services".to_owned())
            .spawn(move || keep(&data, wants, &env, &Stop(stopped), started, &failure))
            .map_err(|source| DevError::Spawn { name: "a thread", source })?;
        let addresses = addresses.await.unwrap_or(Err(DevError::Stopped))?;
        Ok(Self { addresses, failed, stop: Some(stop), thread: Some(thread) })
    }

    /// `unix:/path/to/redis.sock`
    pub(crate) fn redis_url(&self) -> Option<&str> {
        self.addresses.redis_url.as_deref()
    }

    /// For `redis-cli -s`.
    pub(crate) fn redis_socket(&self) -> Option<&Path> {
        self.addresses.redis_socket.as_deref()
    }

    /// `postgres://umbel@localhost:5432/umbel?host=/path/to/sockets`
    pub(crate) fn database_url(&self) -> Option<&str> {
        self.addresses.database_url.as_deref()
    }

    /// Ends the services in order and waits until they have ended, which takes at most half a
    /// minute: then they are killed.
    pub(crate) async fn stop(mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && spawn_blocking(|| thread.join()).await.is_ok_and(|joined| joined.is_ok())
        {
            return;
        }
        error!("the thread of the private services ended badly");
    }

    /// Waits for the unexpected end of a service; returns a sentence about it, again and again.
    pub(crate) async fn failed(&mut self) -> String {
        match self.failed.wait_for(Option::is_some).await {
            Ok(sentence) => sentence.clone().unwrap_or_default(),
            Err(_) => "the thread of the private services is gone".to_owned(),
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by then, and the kernel has ended the services.
            let _ = thread.join();
        }
    }
}

/// The life of the thread.
fn keep(
    data: &Path,
    wants: Wants,
    env: &Env,
    stop: &Stop,
    started: oneshot::Sender<Result<Addresses, DevError>>,
    failure: &watch::Sender<Option<String>>,
) {
    let mut servers = Vec::new();
    match start_all(data, wants, env, stop, &mut servers) {
        // Nobody to tell: they have stopped waiting, and with it the services.
        Ok(addresses) => drop(started.send(Ok(addresses))),
        Err(error) => {
            end(&mut servers);
            drop(started.send(Err(error)));
        }
    }
    while stop.pause(WATCH_EVERY).is_ok() {
        if failure.borrow().is_none()
            && let Some(sentence) = first_failure(&mut servers)
        {
            failure.send_replace(Some(sentence));
        }
    }
    end(&mut servers);
}

fn start_all(
    data: &Path,
    wants: Wants,
    env: &Env,
    stop: &Stop,
    servers: &mut Vec<Server>,
) -> Result<Addresses, DevError> {
    let mut addresses = Addresses::default();
    if wants.redis {
        let (server, socket) = redis::start(data, env, stop)?;
        info!("redis listens at {}", socket.display());
        servers.push(server);
        addresses.redis_url = Some(format!("unix:{}", socket.display()));
        addresses.redis_socket = Some(socket);
    }
    if wants.postgres {
        let (server, url) = postgres::start(data, stop)?;
        info!("postgres listens at {url}");
        servers.push(server);
        addresses.database_url = Some(url);
    }
    Ok(addresses)
}

fn first_failure(servers: &mut [Server]) -> Option<String> {
    servers.iter_mut().find_map(|server| {
        let how = server.ended()?;
        Some(format!("{} has ended by itself ({how}): see {}", server.name, server.log.display()))
    })
}
