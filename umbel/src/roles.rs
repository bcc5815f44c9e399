//! The three roles: each runs the same way alone and under the supervisor.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::OptionFuture;
use tokio::{net::TcpListener, runtime, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_api::{Api, Exposition, ReadinessCheck};
use umbel_beat::{Beat, Timetable};
use umbel_broker::Client;
use umbel_store::Db;
use umbel_worker::{Registry, Stopped, Worker};

use crate::{
    Application, Env, Setup,
    lifeline::{end_with_supervisor, is_supervised, tell_ready},
    memory, quota,
    settings::Settings,
    signals::{Asked, HARD_STOP},
    telemetry::metrics::{self, Own},
};

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

    /// A runtime with as many threads as the role can use of the processors that there are.
    pub fn runtime(self) -> runtime::Builder {
        let mut builder = runtime::Builder::new_multi_thread();
        // Who sets it knows better; the runtime itself reads it.
        if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
            let cpus = quota::cpus();
            builder.worker_threads(match self {
                Self::Api => quota::threads(cpus),
                Self::Worker => quota::worker_threads(cpus),
                // It looks at a clock.
                Self::Beat => 1,
            });
        }
        builder
    }
}

/// How often a Redis that is not there yet is asked.
const START_RETRY: Duration = Duration::from_secs(1);

/// Runs one role until a signal, or the end of the supervisor.
pub(crate) async fn run<S>(
    role: Role,
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<()>
where
    S: Clone + Send + Sync + 'static,
{
    let Asked { stop: shutdown, at_once } = Asked::by_signals()?;
    tokio::spawn(async move {
        at_once.cancelled().await;
        std::process::exit(HARD_STOP);
    });
    if is_supervised() {
        end_with_supervisor(shutdown.clone())?;
        if matches!(role, Role::Worker) {
            memory::go_first();
        }
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
            // Until the end of the drain, which is when it is looked at most.
            let drained = CancellationToken::new();
            let _drained = drained.clone().drop_guard();
            let _telling = tell(own, settings, drained).await?;
            let Some(trusted) = shutdown.run_until_cancelled(trusted).await else { return Ok(()) };
            trusted?;
            tell_ready();
            work(worker, shutdown).await
        }
        Role::Beat => {
            let beat = Beat::new(client.clone(), timetable(application)?);
            let _telling = tell(own, settings, shutdown.clone()).await?;
            let Some(trusted) = shutdown.run_until_cancelled(trusted).await else { return Ok(()) };
            trusted?;
            tell_ready();
            beat.run(shutdown).await;
            Ok(())
        }
    }
}

pub(crate) fn registry<S: Clone + Send + Sync + 'static>(
    application: &Application<S>,
) -> anyhow::Result<Registry<S>> {
    (application.registry)().context("the tasks of this application cannot be registered")
}

pub(crate) fn timetable<S>(application: &Application<S>) -> anyhow::Result<Timetable> {
    (application.timetable)(&Env::of_process())
        .context("the timetable of this application cannot be made")
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
    let database = setup.db.clone().map(database_check);
    let checks = database.into_iter().chain([stop_check(shutdown.clone())]);
    let state = (application.open)(setup).await.context("the application cannot start")?;
    let catalog = Arc::new(registry(application)?.catalog());
    let routes = (application.routes)(state);
    let api = Api::new(&api_settings, client, catalog, routes)?
        .readiness(checks)
        .closing(shutdown.clone());
    let closed = linger(shutdown, settings.unready_for);
    let own = own.api(api.metrics_text());
    let api = api.exposition(own.exposition());
    let listener = bind(api_settings.addr).await?;
    let _telling = tell(own, settings, closed.clone()).await?;
    tell_ready();
    let served = umbel_api::serve_within(listener, api.router(), &api_settings.limits, closed);
    served.await.context("the API failed")
}

/// Lets this process tell its metrics: to its supervisor, or on a port of its own.
async fn tell(
    own: Own,
    settings: &Settings,
    shutdown: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let serving = match is_supervised() {
        true => None,
        false => serve_metrics(settings, own.exposition(), shutdown.clone()).await?,
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

/// An API that is asked to stop is not ready from then on, and goes on answering for a while: who sends
/// it requests may need a moment to see that.
fn stop_check(shutdown: CancellationToken) -> ReadinessCheck {
    ReadinessCheck {
        name: "serving",
        critical: true,
        check: Arc::new(move || {
            let stopping = shutdown.is_cancelled();
            Box::pin(async move {
                if stopping { Err("this process is stopping".to_owned()) } else { Ok(()) }
            })
        }),
    }
}

/// Cancelled so long after `shutdown`.
fn linger(shutdown: CancellationToken, time: Duration) -> CancellationToken {
    let closed = CancellationToken::new();
    let close = closed.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        sleep(time).await;
        close.cancel();
    });
    closed
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
    let endpoints = registry(application)?.bind(state);
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
