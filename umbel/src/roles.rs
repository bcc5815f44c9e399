//! The three roles: each runs the same way alone and under the supervisor.

use std::{
    io::{self, Read},
    net::SocketAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use umbel_api::{Api, ReadinessCheck};
use umbel_beat::Beat;
use umbel_broker::Client;
use umbel_store::Db;
use umbel_worker::{Stopped, Worker};

use crate::{Application, Env, Setup, settings::Settings};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    Api,
    Worker,
    Beat,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Beat => "beat",
        }
    }
}

/// Set by the supervisor: standard input ends when it does.
pub(crate) const SUPERVISED: &str = "UMBEL_SUPERVISED";

/// How often a Redis that is not there yet is asked.
const START_RETRY: Duration = Duration::from_secs(1);

/// Ended at once by a second signal, as `128 + SIGTERM`.
pub(crate) const HARD_STOP: i32 = 143;

/// Runs one role until a signal, or the end of the supervisor.
pub(crate) async fn run<S>(
    role: Role,
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<()>
where
    S: Clone + Send + Sync + 'static,
{
    let shutdown = CancellationToken::new();
    tokio::spawn(on_signal(shutdown.clone())?);
    if std::env::var_os(SUPERVISED).is_some() {
        end_with_supervisor(shutdown.clone())?;
    }
    let client = Client::open(&settings.broker()?, role.as_str())?;
    let trusted = trusted(&client, settings);
    info!(redis = %settings.broker()?, "{} starts", role.as_str());
    match role {
        // It answers while Redis is away, with 503.
        Role::Api => tokio::select! {
            ended = api(application, settings, client.clone(), shutdown) => ended,
            Err(refused) = trusted => Err(refused),
        },
        // These are made before Redis is waited for: a setting that is wrong is told at once.
        Role::Worker => {
            let worker = worker(application, settings, client.clone()).await?;
            let Some(trusted) = shutdown.run_until_cancelled(trusted).await else { return Ok(()) };
            trusted?;
            work(worker, shutdown).await
        }
        Role::Beat => {
            let beat = Beat::new(client.clone(), (application.timetable)(&Env::of_process())?);
            let Some(trusted) = shutdown.run_until_cancelled(trusted).await else { return Ok(()) };
            trusted?;
            beat.run(shutdown).await;
            Ok(())
        }
    }
}

/// Waits for Redis, and refuses one that would lose tasks.
pub(crate) async fn trusted(client: &Client, settings: &Settings) -> anyhow::Result<()> {
    while let Err(error) = client.check_server(settings.allow_volatile).await {
        if !error.is_transient() {
            return Err(error.into());
        }
        warn!(redis = %settings.broker()?, %error, "waiting for redis; trying again in {START_RETRY:?}");
        sleep(START_RETRY).await;
    }
    Ok(())
}

async fn api<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
    client: Client,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let api_settings = settings.api(application.name)?;
    let setup = setup(settings, client.clone())?;
    let checks = setup.db.clone().map(database_check);
    let state = (application.open)(setup).await.context("the application cannot start")?;
    let catalog = Arc::new((application.registry)()?.catalog());
    let routes = (application.routes)(state);
    let api = Api::new(&api_settings, client, catalog, routes)?
        .readiness(checks)
        .closing(shutdown.clone());
    let (limits, metrics) = (&api_settings.limits, api.metrics_router());
    let listener = bind(api_settings.addr).await?;
    let metrics = async {
        let Some(addr) = settings.metrics_addr()? else { return Ok(()) };
        let listener = bind(addr).await?;
        let served = umbel_api::serve_within(listener, metrics, limits, shutdown.clone());
        served.await.context("the metrics cannot be served")
    };
    let requests = async {
        let served = umbel_api::serve_within(listener, api.router(), limits, shutdown.clone());
        served.await.context("the API failed")
    };
    tokio::try_join!(requests, metrics)?;
    Ok(())
}

async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!("cannot listen on {addr}; HOST, PORT and METRICS_PORT name other addresses")
    })
}

/// The database is not critical: a moment without it must not restart the container.
fn database_check(db: Db) -> ReadinessCheck {
    ReadinessCheck {
        name: "database",
        critical: false,
        check: Arc::new(move || {
            let db = db.clone();
            Box::pin(async move { db.ping().await.map_err(|error| error.to_string()) })
        }),
    }
}

async fn worker<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
    settings: &Settings,
    client: Client,
) -> anyhow::Result<Worker> {
    let worker_settings = settings.worker()?;
    let state = (application.open)(setup(settings, client.clone())?)
        .await
        .context("the application cannot start")?;
    let endpoints = (application.registry)()?.bind(state);
    Ok(Worker::new(client, endpoints, worker_settings)?)
}

async fn work(worker: Worker, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Stopped { given_back, unsettled } = worker.run(shutdown).await?;
    if unsettled > 0 {
        warn!(given_back, unsettled, "not all could be settled; it is recovered by another worker");
    }
    Ok(())
}

fn setup(settings: &Settings, client: Client) -> anyhow::Result<Setup> {
    let db = settings.database.store()?.map(|store| Db::open(&store)).transpose()?;
    Ok(Setup { env: Env::of_process(), client, db })
}

/// The first signal asks for an orderly end, the second ends the process.
pub(crate) fn on_signal(
    shutdown: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        shutdown.cancel();
        next().await;
        warn!("a second signal: ending at once");
        std::process::exit(HARD_STOP);
    })
}

/// A role must not outlive its supervisor, however that ended: it holds the other end of our
/// standard input. A thread, because nothing could cancel the read and let the runtime end.
fn end_with_supervisor(shutdown: CancellationToken) -> io::Result<()> {
    thread::Builder::new()
        .name("supervisor-watch".to_owned())
        .spawn(move || {
            let mut byte = [0];
            while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
            if !shutdown.is_cancelled() {
                warn!("the supervisor is gone; stopping");
                shutdown.cancel();
            }
        })
        .map(|_| ())
}
