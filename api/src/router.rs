//! The API as one value, and as one function from request to response.

use std::{fmt, sync::Arc};

use axum::{Router, http::StatusCode, middleware};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use umbel_broker::Client;
use umbel_proto::Catalog;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    ApiError, ApiSettings, ReadinessCheck,
    auth::{Verifier, require_token},
    edge,
    problem::Problem,
    routes::{
        LISTENERS_MOST, Shared, batch, dead, docs, enqueue, events,
        health::{self, Readiness, broker_check},
        queues, schedules, tasks, workers,
    },
};

/// The HTTP API of an application.
pub struct Api {
    title: String,
    verifier: Verifier,
    client: Client,
    catalog: Arc<Catalog>,
    application: OpenApiRouter,
    checks: Vec<ReadinessCheck>,
    closing: CancellationToken,
}

impl Api {
    /// Puts an API together: its own routes, and those of the application, which are served under
    /// `/v1` behind the same door.
    ///
    /// The application's routes are made with [`utoipa_axum::routes!`], so that they appear in the
    /// description and can be checked here: `/tasks…`, `/queues…`, `/dead…`, `/workers…` and
    /// `/schedules…` are the API's own. A fallback of the application is not used.
    pub fn new(
        settings: &ApiSettings,
        client: Client,
        catalog: Arc<Catalog>,
        application: OpenApiRouter,
    ) -> Result<Self, ApiError> {
        settings.check()?;
        docs::check_taken(own_routes().get_openapi(), application.get_openapi())?;
        Ok(Self {
            title: settings.title.clone(),
            verifier: Verifier::new(&settings.jwt),
            checks: vec![broker_check(client.clone())],
            client,
            catalog,
            application,
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
        let shared = Shared {
            client: self.client,
            shown: Arc::new(tasks::catalogue(&self.catalog)),
            catalog: self.catalog.clone(),
            listeners: Arc::new(Semaphore::new(LISTENERS_MOST)),
            closing: self.closing,
        };
        let readiness = Arc::new(Readiness::new(self.checks));
        let door = middleware::from_fn_with_state(Arc::new(self.verifier), require_token);
        // The fallback stands before the door, so that nobody without a token learns which paths
        // there are.
        let behind_the_door =
            own_routes().with_state(shared).merge(self.application).fallback(not_found).layer(door);
        let (router, description) = OpenApiRouter::with_openapi(docs::heading(&self.title))
            .merge(open_routes().with_state(readiness))
            .nest("/v1", behind_the_door)
            .split_for_parts();
        let router = router
            .merge(docs::pages(docs::describe(&description, &self.catalog)))
            .fallback(not_found);
        edge::around(router, edge::REQUEST_TIMEOUT)
    }
}

/// Everything under `/v1` that is not the application's.
fn own_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(tasks::list))
        .routes(routes!(batch::create))
        .routes(routes!(enqueue::create, tasks::read, tasks::cancel))
        .routes(routes!(events::follow))
        .merge(operators_routes())
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
