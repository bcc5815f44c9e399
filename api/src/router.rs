//! The API as one value, and as one function from request to response.

use std::{fmt, sync::Arc};

use axum::{Router, http::StatusCode, middleware};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use umbel_broker::Client;
use umbel_proto::Catalog;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    ApiError, ApiSettings, Limits, ReadinessCheck, access,
    auth::{Door, require_token},
    declared::{Declared, require_declared},
    edge::Edge,
    metrics::{Exposition, Metrics, MetricsText, Told},
    patience::{self, Patience},
    problem::Problem,
    routes::{
        LISTENERS_MOST, Shared, batch, dead, docs, enqueue, events,
        health::{self, Readiness, broker_check},
        metrics, queues, schedules, tasks, workers,
    },
    shares::Shares,
};

/// The HTTP API of an application.
pub struct Api {
    title: String,
    door: Door,
    limits: Limits,
    metrics: Metrics,
    metrics_elsewhere: bool,
    exposition: Option<Exposition>,
    client: Client,
    catalog: Arc<Catalog>,
    application: OpenApiRouter,
    declared: Declared,
    checks: Vec<ReadinessCheck>,
    closing: CancellationToken,
}

impl Api {
    /// Puts an API together: its own routes, and those of the application, which are served under
    /// `/v1` behind the same door.
    ///
    /// The application's routes are made with [`utoipa_axum::routes!`], so that they appear in the
    /// description and can be checked here: `/tasks…`, `/queues…`, `/dead…`, `/workers…` and
    /// `/schedules…` are the API's own. A fallback of the application is not used. A route asks for
    /// the scopes that its description names (`security(("bearer" = ["sites:read"]))`), and for a
    /// token alone where it names none.
    pub fn new(
        settings: &ApiSettings,
        client: Client,
        catalog: Arc<Catalog>,
        application: OpenApiRouter,
    ) -> Result<Self, ApiError> {
        settings.check()?;
        let (open, own, metrics) = (open_routes(), own_routes(), metrics_routes());
        let (open, own, metrics) = (open.get_openapi(), own.get_openapi(), metrics.get_openapi());
        access::check(open, own, metrics)?;
        docs::check_taken(own, &[open, metrics], application.get_openapi())?;
        let declared = Declared::of(application.get_openapi(), &settings.jwt)?;
        Ok(Self {
            title: settings.title.clone(),
            door: Door::new(settings)?,
            limits: settings.limits.clone(),
            metrics: Metrics::new()?,
            metrics_elsewhere: settings.metrics_elsewhere,
            exposition: None,
            checks: vec![broker_check(client.clone())],
            client,
            catalog,
            application,
            declared,
            closing: CancellationToken::new(),
        })
    }

    /// Lets those who follow a task go when the server stops; without it they hold a shutdown up.
    pub fn closing(mut self, closing: CancellationToken) -> Self {
        self.closing = closing;
        self
    }

    /// Adds what `/readyz` looks at, beside the broker.
    pub fn readiness(mut self, checks: impl IntoIterator<Item = ReadinessCheck>) -> Self {
        self.checks.extend(checks);
        self
    }

    /// The API as a function from request to response; [`serve`](crate::serve) gives it a socket.
    pub fn router(self) -> Router {
        let patience = Arc::new(Patience::new(self.client.clone()));
        let shared = Shared {
            client: self.client,
            shown: Arc::new(tasks::catalogue(&self.catalog)),
            catalog: self.catalog.clone(),
            listeners: Arc::new(Semaphore::new(LISTENERS_MOST)),
            following: Shares::new(self.limits.subject_in_flight),
            patience: patience.clone(),
            closing: self.closing,
        };
        let readiness = Arc::new(Readiness::new(self.checks));
        let door = middleware::from_fn_with_state(Arc::new(self.door), require_token);
        let scope = middleware::from_fn(access::require_scope);
        let own = patient_routes()
            .with_state(shared.clone())
            .route_layer(middleware::from_fn_with_state(patience, patience::wait_with_redis))
            .merge(batch_routes().with_state(shared))
            .route_layer(scope.clone());
        // The fallback stands before the door, so that nobody without a token learns which paths
        // there are.
        let declared = middleware::from_fn_with_state(self.declared, require_declared);
        let application = self.application.layer(declared);
        let behind_the_door = own.merge(application).fallback(not_found).layer(door.clone());
        let mut all = OpenApiRouter::with_openapi(docs::heading(&self.title))
            .merge(open_routes().with_state(readiness))
            .nest("/v1", behind_the_door);
        if !self.metrics_elsewhere {
            let told = Told { own: self.metrics.clone(), more: self.exposition.clone() };
            let metrics = metrics_routes().with_state(told);
            all = all.merge(metrics.route_layer(scope).route_layer(door));
        }
        let (router, description) = all.split_for_parts();
        let router = router
            .merge(docs::pages(docs::describe(&description, &self.catalog)))
            .fallback(not_found);
        Edge::new(&self.limits, self.metrics).around(router)
    }

    /// `/metrics` alone and for everybody who reaches it: for a port of its own, which nobody
    /// outside may reach.
    pub fn metrics_router(&self) -> Router {
        let told = Told { own: self.metrics.clone(), more: self.exposition.clone() };
        metrics_routes().with_state(told).split_for_parts().0
    }

    /// What the API counts of itself.
    pub fn metrics_text(&self) -> MetricsText {
        MetricsText(self.metrics.clone())
    }

    /// Answers `/metrics` with this, which is to hold [`metrics_text`](Self::metrics_text) too.
    pub fn exposition(mut self, exposition: Exposition) -> Self {
        self.exposition = Some(exposition);
        self
    }
}

/// As [`Api::metrics_router`], of a process without an API.
pub fn metrics_router(exposition: Exposition) -> Result<Router, ApiError> {
    let told = Told { own: Metrics::new()?, more: Some(exposition) };
    Ok(metrics_routes().with_state(told).split_for_parts().0)
}

/// Everything under `/v1` that is not the application's.
fn own_routes() -> OpenApiRouter<Shared> {
    patient_routes().merge(batch_routes())
}

/// Those that wait for Redis once.
fn patient_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(tasks::list))
        .routes(routes!(enqueue::create, tasks::read, tasks::cancel))
        .routes(routes!(events::follow))
        .merge(operators_routes())
}

/// Waits for each of its calls by itself.
fn batch_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(batch::create))
}

/// Those by which somebody looks after the whole.
fn operators_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(queues::list))
        .routes(routes!(queues::read))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(dead::list, dead::remove_all))
        .routes(routes!(dead::redrive_all))
        .routes(routes!(dead::read, dead::remove))
        .routes(routes!(dead::redrive))
        .routes(routes!(workers::list))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::read))
}

/// What needs no token.
fn open_routes() -> OpenApiRouter<Arc<Readiness>> {
    OpenApiRouter::default().routes(routes!(health::livez)).routes(routes!(health::readyz))
}

/// What is for operators.
fn metrics_routes() -> OpenApiRouter<Told> {
    OpenApiRouter::default().routes(routes!(metrics::read))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND)
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("title", &self.title).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
