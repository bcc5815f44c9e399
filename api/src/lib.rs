//! The HTTP API: enqueue a task, see what became of it; look after queues, dead letters, workers and
//! schedules; and an application's own routes behind the same door.
//!
//! - [`Api`]: settings, broker, catalogue and routes as one [`axum::Router`]; [`serve`]: a socket
//! - [`JwtSettings`], [`Claims`], [`Scope`]: who may come in, and do what; [`Grant`]: a token
//! - [`Limits`]: how much may come in
//! - [`Problem`], [`JsonBody`]: errors and bodies, for the routes of applications too
//! - [`ReadinessCheck`]: what `/readyz` looks at

mod access;
mod arrival;
mod auth;
mod body;
mod connection;
mod declared;
mod edge;
mod error;
mod metrics;
mod patience;
mod peer;
mod problem;
mod rates;
mod router;
mod routes;
mod serve;
mod settings;
mod shares;

pub use auth::{Claims, Grant, RoleScopes, Scope, ScopeError, Scopes, issue_token};
pub use body::JsonBody;
pub use edge::RequestId;
pub use error::ApiError;
pub use metrics::{Exposition, MetricsText};
pub use problem::{FieldError, Problem};
pub use router::{Api, metrics_router};
pub use routes::health::ReadinessCheck;
pub use serve::{serve, serve_within};
pub use settings::{ApiSettings, JwksSettings, JwtSettings, Limits};
pub use utoipa_axum::router::OpenApiRouter;
