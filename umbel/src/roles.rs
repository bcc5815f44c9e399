//! The three roles: each runs the same way alone and under the supervisor.

use std::{
    io::{self, Read},
    net::SocketAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context;
use futures::future::OptionFuture;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_api::{Api, Exposition, ReadinessCheck};
use umbel_beat::Beat;
use umbel_broker::Client;
use umbel_store::Db;
use umbel_worker::{Stopped, Worker};

use crate::{
    Application, Env, Setup,
    settings::Settings,
    telemetry::metrics::{self, Own},
};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    if settings.metrics {
        metrics::start()?;
    }
    let own = Own::new(role.as_str());
    match role {
        // It answers while Redis is away, with 503.
        Role::Api => tokio::select! {
            ended = api(application, settings, client.clone(), own, shutdown) => ended,
            Err(refused) = trusted => Err(refused),
        },
        // These are made before Redis is waited for: a setting that is wrong is told at once.
        Role::Worker => {
            let setup = setup(settings, client.clone())?;
            let own = own.db(setup.db.clone());
            let worker = worker(application, settings, client.clone(), setup).await?;
            let telling = tell(own, settings, shutdown.clone()).await?;
            let Some(trusted) = shutdown.run_until_cancelled(trusted).await else { return Ok(()) };
            trusted?;
            let ended = work(worker, shutdown).await;
            telling.abort();
            ended
        }
        Role::Beat => {
            let beat = Beat::new(client.clone(), (application.timetable)(&Env::of_process())?);
            let _telling = tell(own, settings, shutdown.clone()).await?;
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
    own: Own,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let api_settings = settings.api(application.name)?;
    let setup = setup(settings, client.clone())?;
    let own = own.db(setup.db.clone()).census(client.clone());
    let checks = setup.db.clone().map(database_check);
    let state = (application.open)(setup).await.context("the application cannot start")?;
    let catalog = Arc::new((application.registry)()?.catalog());
    let routes = (application.routes)(state);
    let api = Api::new(&api_settings, client, catalog, routes)?
        .readiness(checks)
        .closing(shutdown.clone());
    let own = own.api(api.metrics_text());
    let api = api.exposition(own.exposition());
    let (limits, _telling) = (&api_settings.limits, tell(own, settings, shutdown.clone()).await?);
    let listener = bind(api_settings.addr).await?;
    let served = umbel_api::serve_within(listener, api.router(), limits, shutdown);
    served.await.context("the API failed")
}

/// Lets this process tell its metrics: to its supervisor, or on a port of its own.
async fn tell(
    own: Own,
    settings: &Settings,
    shutdown: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let exposition = own.exposition();
    let serving = match std::env::var_os(SUPERVISED) {
        Some(_) => None,
        None => serve_metrics(settings, exposition, shutdown.clone()).await?,
    };
    Ok(tokio::spawn(async move {
        tokio::join!(own.run(shutdown), OptionFuture::from(serving));
    }))
}

/// Serves metrics on METRICS_PORT, where it is set.
pub(crate) async fn serve_metrics(
    settings: &Settings,
    exposition: Exposition,
    shutdown: CancellationToken,
) -> anyhow::Result<Option<impl Future<Output = ()> + Send + 'static>> {
    let Some(addr) = settings.metrics_addr()? else { return Ok(None) };
    let listener = bind(addr).await?;
    let (router, limits) = (umbel_api::metrics_router(exposition)?, settings.limits.limits());
    Ok(Some(async move {
        let served = umbel_api::serve_within(listener, router, &limits, shutdown);
        if let Err(error) = served.await {
            error!(%error, "the metrics cannot be served any more");
        }
    }))
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
    setup: Setup,
) -> anyhow::Result<Worker> {
    let worker_settings = settings.worker()?;
    let state = (application.open)(setup).await.context("the application cannot start")?;
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
