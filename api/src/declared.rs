//! What the routes of an application ask of a token: the scopes that their descriptions name.
//!
//! ```
//! #[utoipa::path(get, path = "/sites", security(("bearer" = ["sites:read"])))]
//! async fn list_sites() {}
//! ```
//!
//! One word in one place: what `/openapi.json` says is what is asked for.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use utoipa::openapi::{OpenApi, security::SecurityRequirement};

use crate::{
    ApiError, Claims, JwtSettings, Scope,
    access::{forbidden, operations},
    auth::{self, is_of_application},
    routes::docs::BEARER,
};

/// The scopes of each route, by method and path, all of which a token must hold. A route that names
/// none asks for a token alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declared(Arc<BTreeMap<(String, String), Vec<String>>>);

impl Declared {
    /// Reads what an application's routes ask for; refuses a scope that no token can hold, and one
    /// of the settings that no route asks for.
    pub fn of(application: &OpenApi, jwt: &JwtSettings) -> Result<Self, ApiError> {
        let mut declared = BTreeMap::new();
        for (method, path, operation) in operations("/v1", application) {
            let scopes: Vec<String> =
                operation.security.iter().flatten().flat_map(scopes_of).collect();
            let odd = scopes.iter().find(|scope| {
                scope.parse::<Scope>().is_err() && !is_of_application(scope.as_str())
            });
            if let Some(scope) = odd {
                return Err(ApiError::ScopeOfRoute { scope: scope.clone(), method, path });
            }
            declared.insert((method, path), scopes);
        }
        let is_known = |scope: &&str| declared.values().flatten().any(|known| known == scope);
        let given = jwt.role_scopes.all().chain([&jwt.default_scopes]);
        let unknown = given.flat_map(|scopes| scopes.of_application()).find(|it| !is_known(it));
        match unknown {
            Some(scope) => Err(ApiError::NobodyAsks { scope: scope.to_owned() }),
            None => Ok(Self(Arc::new(declared))),
        }
    }

    fn missing(&self, method: &Method, path: &str, claims: &Claims) -> Option<&str> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let asked = self.0.get(&(method.to_string(), path.to_owned()))?;
        asked.iter().map(String::as_str).find(|scope| !claims.allows_named(scope))
    }
}

/// Lets a request pass whose token holds what the route asks for. Stands behind the door, around
/// the application's routes.
pub(crate) async fn require_declared(
    State(declared): State<Declared>,
    request: Request,
    next: Next,
) -> Response {
    let extensions = request.extensions();
    let Some(path) = extensions.get::<MatchedPath>() else {
        return next.run(request).await;
    };
    // Without claims the door was left out: nobody passes.
    let Some(claims) = extensions.get::<Claims>() else {
        return auth::refusal();
    };
    match declared.missing(request.method(), path.as_str(), claims) {
        Some(scope) => forbidden(scope),
        None => next.run(request).await,
    }
}

/// What a requirement says is to be had of the library only as it is written.
fn scopes_of(requirement: &SecurityRequirement) -> Vec<String> {
    let mut written = serde_json::to_value(requirement).unwrap_or_default();
    serde_json::from_value(written[BEARER].take()).unwrap_or_default()
}
