//! Metrics: what the crates count in this process, as Prometheus reads it, on a port of its own, on
//! the API, or through the supervisor, which asks its roles and puts together what they tell.

use std::{
    env, fmt, io,
    os::linux::net::SocketAddrExt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use umbel_api::Exposition;
use umbel_store::Db;

use super::{
    census::Census,
    exposition::{merged, sample},
    process,
};
use crate::{
    roles::serve_metrics,
    settings::{Settings, boot_id},
    supervise::SuperviseError,
};

/// From an answer out of memory to the longest runs.
const SECONDS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// Batches of settles, of which none is longer than the last.
const BATCHES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// How often what was recorded is added up. Until then each time of each run is kept by itself.
const ADD_UP_EVERY: Duration = Duration::from_secs(1);

/// How long a role may take to tell; the reader gives up after ten seconds.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// What a role may tell at most: several times what the bounds of all series come to.
const TOLD_MOST: u64 = 16 << 20;

/// How long somebody may take to read what is told to him.
const TELL_LIMIT: Duration = Duration::from_secs(5);

/// After a connection could not be accepted for want of files or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// Under which name the supervisor hears its roles, and under which they hear it: given by it, in the
/// names of sockets that are no files, with a part that nobody guesses.
pub(crate) const SOCKETS: &str = "UMBEL_METRICS_SOCKETS";

/// Installs the recorder of this process, so that the crates count from now on.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_tasks".to_owned()), &BATCHES)?
        .install_recorder()?;
    umbel_broker::meters::switch_on();
    Ok(handle)
}

/// The recorder of this process, once there is one.
static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// As [`install`], once.
pub(crate) fn start() -> Result<(), BuildError> {
    if HANDLE.get().is_none() {
        let _ = HANDLE.set(install()?);
    }
    Ok(())
}

/// What this process tells of itself.
#[derive(Clone)]
pub(crate) struct Own(Arc<Sources>);

struct Sources {
    role: &'static str,
    census: Option<Census>,
    api: Option<umbel_api::MetricsText>,
    db: Option<Db>,
    /// Whether nobody else tells of the container.
    container: bool,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Own").field(&self.0.role).finish()
    }
}

impl Own {
    pub fn new(role: &'static str) -> Self {
        let container = env::var_os(SOCKETS).is_none();
        Self(Arc::new(Sources { role, census: None, api: None, db: None, container }))
    }

    fn with(self, change: impl FnOnce(&mut Sources)) -> Self {
        let mut sources = Arc::into_inner(self.0).expect("nobody else has it yet");
        change(&mut sources);
        Self(Arc::new(sources))
    }

    pub fn census(self, client: umbel_broker::Client) -> Self {
        self.with(|sources| sources.census = Some(Census::new(client)))
    }

    pub fn api(self, text: umbel_api::MetricsText) -> Self {
        self.with(|sources| sources.api = Some(text))
    }

    pub fn db(self, db: Option<Db>) -> Self {
        self.with(|sources| sources.db = db)
    }

    /// All of it, without a label for the role.
    async fn text(&self) -> String {
        let Sources { census, api, db, container, .. } = &*self.0;
        if let Some(census) = census {
            census.take().await;
        }
        let mut text = HANDLE.get().map(PrometheusHandle::render).unwrap_or_default();
        text.push('\n');
        if let Some(api) = api {
            text.push_str(&api.render());
        }
        if let Some(usage) = db.as_ref().map(Db::usage) {
            for (name, help, value) in [
                ("umbel_postgres_connections_used", "Connections in use", usage.used),
                (
                    "umbel_postgres_connections_idle",
                    "Connections that are open and free",
                    usage.idle,
                ),
                ("umbel_postgres_connections_max", "Connections that may be open", usage.most),
            ] {
                sample(&mut text, name, "gauge", help, value);
            }
        }
        text.push_str(&process::process());
        if *container {
            text.push_str(&process::container());
        }
        text
    }

    /// For whoever asks this process: of the whole house where it has a supervisor, of itself else.
    pub fn exposition(&self) -> Exposition {
        let own = self.clone();
        Arc::new(move || {
            let own = own.clone();
            async move {
                if let Some(sockets) = Sockets::given() {
                    match sockets.ask(SUPERVISOR).await {
                        Ok(text) => return text,
                        Err(error) => warn!(%error, "the supervisor does not tell its metrics"),
                    }
                }
                merged([(own.0.role, own.text().await.as_str())])
            }
            .boxed()
        })
    }

    /// Adds up what is recorded, and tells the supervisor, where there is one, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let adding = async {
            let mut ticks = interval(ADD_UP_EVERY);
            while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
                if let Some(handle) = HANDLE.get() {
                    handle.run_upkeep();
                }
            }
        };
        let telling = async {
            let Some(sockets) = Sockets::given() else { return };
            let tell = || async { self.text().await };
            shutdown.run_until_cancelled(sockets.tell(self.0.role, tell)).await;
        };
        tokio::join!(adding, telling);
    }
}

/// The supervisor's own word among those of its roles.
const SUPERVISOR: &str = "supervisor";

/// The private sockets of one house: each role tells on one, and the supervisor on another.
#[derive(Debug, Clone)]
pub(crate) struct Sockets(String);

impl Sockets {
    pub fn new() -> Self {
        Self(format!("umbel-metrics-{}{}", boot_id(), boot_id()))
    }

    /// Those of the supervisor of this process.
    fn given() -> Option<Self> {
        env::var(SOCKETS).ok().map(Self)
    }

    /// As a role finds them in its environment.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn addr(&self, of: &str) -> io::Result<std::os::unix::net::SocketAddr> {
        std::os::unix::net::SocketAddr::from_abstract_name(format!("{}-{of}", self.0))
    }

    /// What one of the house tells.
    async fn ask(&self, of: &str) -> io::Result<String> {
        let asked = async {
            let stream = std::os::unix::net::UnixStream::connect_addr(&self.addr(of)?)?;
            stream.set_nonblocking(true)?;
            let mut text = String::new();
            UnixStream::from_std(stream)?.take(TOLD_MOST).read_to_string(&mut text).await?;
            Ok(text)
        };
        timeout(ASK_LIMIT, asked)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
    }

    /// Tells whoever connects, one after the other.
    async fn tell<F: Future<Output = String>>(&self, of: &str, text: impl Fn() -> F) {
        let listener = self.addr(of).and_then(|addr| {
            let listener = std::os::unix::net::UnixListener::bind_addr(&addr)?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        });
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "the metrics of this role cannot be told"),
        };
        loop {
            let mut stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "nobody can ask for metrics; trying again in {ACCEPT_AGAIN:?}");
                    sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let text = text().await;
            let told = timeout(TELL_LIMIT, stream.write_all(text.as_bytes())).await;
            if !matches!(told, Ok(Ok(()))) {
                debug!("somebody asked for metrics and did not stay");
            }
        }
    }

    /// What the whole house tells: its roles, as far as they run, and the supervisor itself.
    async fn whole(&self, roles: &[&str], own: &Own) -> String {
        let told = join_all(roles.iter().map(|role| self.ask(role))).await;
        let mut mine = own.text().await;
        for (role, told) in roles.iter().zip(&told) {
            let up = u8::from(told.is_ok());
            // Under one heading; it is merged.
            mine.push_str(&format!(
                "# HELP umbel_role_up Whether a role of this supervisor answers\n\
                 # TYPE umbel_role_up gauge\numbel_role_up{{child=\"{role}\"}} {up}\n"
            ));
        }
        let texts = roles
            .iter()
            .zip(&told)
            .filter_map(|(role, told)| Some((*role, told.as_ref().ok()?.as_str())));
        merged(texts.chain([(SUPERVISOR, mine.as_str())]))
    }
}

/// The supervisor's part: it tells its roles, and whoever asks on a port of its own.
#[derive(Debug, Clone)]
pub(crate) struct House {
    sockets: Sockets,
    roles: Vec<&'static str>,
    own: Own,
}

impl House {
    pub fn new(roles: &[&'static str]) -> Self {
        Self { sockets: Sockets::new(), roles: roles.to_vec(), own: Own::new(SUPERVISOR) }
    }

    pub fn sockets(&self) -> &str {
        self.sockets.as_str()
    }

    pub fn exposition(&self) -> Exposition {
        let house = self.clone();
        Arc::new(move || {
            let house = house.clone();
            async move { house.sockets.whole(&house.roles, &house.own).await }.boxed()
        })
    }

    /// Tells the roles, and whoever asks on METRICS_PORT, until `shutdown`.
    pub async fn start(
        &self,
        settings: &Settings,
        shutdown: CancellationToken,
    ) -> Result<(), SuperviseError> {
        let started = async {
            if settings.metrics {
                start()?;
            }
            serve_metrics(settings, self.exposition(), shutdown.clone()).await
        };
        if let Some(serving) = started.await.map_err(SuperviseError::Metrics)? {
            tokio::spawn(serving);
        }
        let house = self.clone();
        tokio::spawn(async move {
            let whole = || async { house.sockets.whole(&house.roles, &house.own).await };
            let telling = house.sockets.tell(SUPERVISOR, whole);
            tokio::join!(
                shutdown.run_until_cancelled(telling),
                house.own.clone().run(shutdown.clone())
            );
        });
        Ok(())
    }
}
