//! What an application hands over.

use std::{fmt, pin::Pin, sync::Arc};

use umbel_api::OpenApiRouter;
use umbel_beat::Timetable;
use umbel_broker::Client;
use umbel_store::{Db, Migration};
use umbel_worker::{Registry, RegistryError};

use crate::{Env, Setting, SettingsError, settings::NO_DATABASE};

type Opened<S> = Pin<Box<dyn Future<Output = anyhow::Result<S>> + Send>>;

/// An application: its tasks, its schedules, its endpoints, its tables, and the state they share.
///
/// ```no_run
/// # use umbel::{Application, Registry, RegistryError};
/// # fn registry() -> Result<Registry<()>, RegistryError> { Registry::builder().build() }
/// fn main() -> std::process::ExitCode {
///     umbel::run(Application::new("shop").registry(registry))
/// }
/// ```
#[derive(Clone)]
pub struct Application<S = ()> {
    pub(crate) name: &'static str,
    pub(crate) open: Arc<dyn Fn(Setup) -> Opened<S> + Send + Sync>,
    pub(crate) registry: fn() -> Result<Registry<S>, RegistryError>,
    pub(crate) timetable: fn(&Env) -> anyhow::Result<Timetable>,
    pub(crate) routes: fn(S) -> OpenApiRouter,
    pub(crate) migrations: &'static [Migration],
    pub(crate) settings: &'static [Setting],
}

/// What an application's state is made from.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The application's own settings.
    pub env: Env,
    /// Enqueues tasks.
    pub client: Client,
    pub(crate) db: Option<Db>,
}

impl Setup {
    /// The database; an error that names the setting where none was given.
    pub fn db(&self) -> Result<Db, SettingsError> {
        self.db.clone().ok_or_else(|| SettingsError(NO_DATABASE.to_owned()))
    }
}

impl Application<()> {
    /// An application without tasks yet. `name` is what its command is called in help texts, and
    /// whose migrations its tables are.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            open: Arc::new(|_| Box::pin(async { Ok(()) })),
            registry: || Registry::builder().build(),
            timetable: |_| Ok(Timetable::new().build()?),
            routes: |()| OpenApiRouter::new(),
            migrations: &[],
            settings: &[],
        }
    }

    /// Gives the application a state, which its handlers and routes share. It is made only where
    /// it is needed: in a worker and in an API. Comes first: what follows is typed by it.
    ///
    /// An error ends the process, whose supervisor tries again; a [`SettingsError`] ends both.
    pub fn state<S, F, O>(self, open: O) -> Application<S>
    where
        S: Clone + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<S>> + Send + 'static,
        O: Fn(Setup) -> F + Send + Sync + 'static,
    {
        Application {
            name: self.name,
            open: Arc::new(move |setup| Box::pin(open(setup))),
            registry: || Registry::builder().build(),
            timetable: self.timetable,
            routes: |_| OpenApiRouter::new(),
            migrations: self.migrations,
            settings: self.settings,
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Application<S> {
    /// The tasks, name → handler. A name used twice stops the boot.
    pub fn registry(mut self, registry: fn() -> Result<Registry<S>, RegistryError>) -> Self {
        self.registry = registry;
        self
    }

    /// Periodic work; it may depend on settings, of which a wrong one is a [`SettingsError`].
    pub fn timetable(mut self, timetable: fn(&Env) -> anyhow::Result<Timetable>) -> Self {
        self.timetable = timetable;
        self
    }

    /// The application's own endpoints, served under `/v1` behind the same token. `/v1/tasks…`,
    /// `/v1/queues…` are taken.
    pub fn routes(mut self, routes: fn(S) -> OpenApiRouter) -> Self {
        self.routes = routes;
        self
    }

    /// The tables, in order of their versions. An application with migrations needs DATABASE_URL.
    pub fn migrations(mut self, migrations: &'static [Migration]) -> Self {
        self.migrations = migrations;
        self
    }

    /// What it reads from the environment (`Setup::env`), so that `config` shows it and a misspelt name
    /// is told.
    pub fn settings(mut self, settings: &'static [Setting]) -> Self {
        self.settings = settings;
        self
    }
}

impl<S> fmt::Debug for Application<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Application({})", self.name)
    }
}
