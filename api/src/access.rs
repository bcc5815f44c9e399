//! Which route asks what of a token: one table. A route that is not in it does not start.

use std::collections::BTreeSet;

use axum::{
    RequestExt,
    extract::{MatchedPath, RawPathParams, Request},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{
    OpenApi,
    path::{Operation, PathItem},
};

use crate::{ApiError, Claims, Scope, auth, problem::Problem};

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// No token.
    Nothing,
    /// A token that holds the scope.
    Scope(Scope),
    /// As well, and one that may do so with the task that the path names as `{task}`. To others
    /// the task does not exist.
    ScopeForTask(Scope),
}

/// One route.
#[derive(Debug)]
pub(crate) struct Row {
    pub method: &'static str,
    pub path: &'static str,
    pub needs: Needs,
}

const fn row(method: &'static str, path: &'static str, needs: Needs) -> Row {
    Row { method, path, needs }
}

/// All routes of the API. Those of an application say themselves what they ask for
/// ([`declared`](crate::declared)).
pub(crate) const TABLE: &[Row] = &[
    row("GET", "/livez", Needs::Nothing),
    row("GET", "/readyz", Needs::Nothing),
    row("GET", METRICS, Needs::Scope(Scope::Admin)),
    row("GET", "/v1/tasks", Needs::Scope(Scope::Read)),
    row("POST", "/v1/tasks/batch", Needs::Scope(Scope::Enqueue)),
    row("POST", "/v1/tasks/{task}", Needs::ScopeForTask(Scope::Enqueue)),
    row("GET", "/v1/tasks/{task}", Needs::Scope(Scope::Read)),
    row("DELETE", "/v1/tasks/{task}", Needs::Scope(Scope::Cancel)),
    row("GET", "/v1/tasks/{task}/events", Needs::Scope(Scope::Read)),
    row("GET", "/v1/queues", Needs::Scope(Scope::Read)),
    row("GET", "/v1/queues/{queue}", Needs::Scope(Scope::Read)),
    row("POST", "/v1/queues/{queue}/pause", Needs::Scope(Scope::Admin)),
    row("POST", "/v1/queues/{queue}/resume", Needs::Scope(Scope::Admin)),
    row("GET", "/v1/dead", Needs::Scope(Scope::Admin)),
    row("DELETE", "/v1/dead", Needs::Scope(Scope::Admin)),
    row("POST", "/v1/dead/redrive", Needs::Scope(Scope::Admin)),
    row("GET", "/v1/dead/{queue}/{letter}", Needs::Scope(Scope::Admin)),
    row("DELETE", "/v1/dead/{queue}/{letter}", Needs::Scope(Scope::Admin)),
    row("POST", "/v1/dead/{queue}/{letter}/redrive", Needs::Scope(Scope::Admin)),
    row("GET", "/v1/workers", Needs::Scope(Scope::Admin)),
    row("GET", "/v1/schedules", Needs::Scope(Scope::Admin)),
    row("GET", "/v1/schedules/{schedule}", Needs::Scope(Scope::Admin)),
];

/// It is not there where metrics have a port of their own.
pub(crate) const METRICS: &str = "/metrics";

/// Lets a request pass whose token holds what the table asks for. Stands behind the door, around
/// the API's own routes and no others.
pub(crate) async fn require_scope(mut request: Request, next: Next) -> Response {
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else {
        return next.run(request).await;
    };
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let Some(needs) = needs(method.as_str(), path.as_str()) else {
        return not_allowed(path.as_str());
    };
    let scope = match needs {
        Needs::Nothing => return next.run(request).await,
        Needs::Scope(scope) | Needs::ScopeForTask(scope) => scope,
    };
    // Without claims the door was left out: nobody passes.
    let Some(claims) = request.extensions().get::<Claims>().cloned() else {
        return auth::refusal();
    };
    if !claims.allows(scope) {
        return forbidden(scope.as_str());
    }
    if let Needs::ScopeForTask(_) = needs {
        match request.extract_parts::<RawPathParams>().await {
            Ok(params) => {
                let named = params.iter().find(|(name, _)| *name == "task");
                if !named.is_some_and(|(_, task)| claims.allows_task(task)) {
                    return no_such_task().into_response();
                }
            }
            Err(rejection) => return rejection.into_response(),
        }
    }
    next.run(request).await
}

fn needs(method: &str, path: &str) -> Option<Needs> {
    TABLE.iter().find(|row| row.method == method && row.path == path).map(|row| row.needs)
}

/// RFC 6750, 3.1.
pub(crate) fn forbidden(scope: &str) -> Response {
    let mut response = Problem::new(StatusCode::FORBIDDEN)
        .detail(format!("the token does not hold the scope `{scope}`"))
        .into_response();
    let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
    if let Ok(value) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// Of a name that no task has, or none that is for HTTP, or one that the caller may not enqueue: which
/// of these, nobody is told.
pub(crate) fn no_such_task() -> Problem {
    Problem::new(StatusCode::NOT_FOUND).detail("no task of this name can be enqueued here")
}

/// A method that the table does not have never reaches a handler, should there be one.
fn not_allowed(path: &str) -> Response {
    let known: Vec<&str> = TABLE
        .iter()
        .filter(|row| row.path == path)
        .flat_map(|row| if row.method == "GET" { vec!["GET", "HEAD"] } else { vec![row.method] })
        .collect();
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED).into_response();
    if let Ok(value) = HeaderValue::from_str(&known.join(",")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// Refuses routes that the table does not have, and lines of it that are no routes. `open`: those
/// without a door; `guarded`: those behind it, without their prefix `/v1`.
pub(crate) fn check(open: &OpenApi, guarded: &OpenApi, metrics: &OpenApi) -> Result<(), ApiError> {
    let (open, behind) = (routes("", open), routes("/v1", guarded));
    let is_open = |row: &&Row| row.needs == Needs::Nothing;
    let rows = |wanted: &dyn Fn(&&Row) -> bool| -> BTreeSet<(String, String)> {
        let rows = TABLE.iter().filter(|row| wanted(row));
        rows.map(|row| (row.method.to_owned(), row.path.to_owned())).collect()
    };
    let guarded: BTreeSet<_> = behind.union(&routes("", metrics)).cloned().collect();
    let odd = open
        .symmetric_difference(&rows(&is_open))
        .chain(guarded.symmetric_difference(&rows(&|row| !is_open(row))))
        .next()
        .cloned();
    match odd {
        Some((method, path)) => Err(ApiError::NoAccess { method, path }),
        None => Ok(()),
    }
}

fn routes(prefix: &str, api: &OpenApi) -> BTreeSet<(String, String)> {
    operations(prefix, api).into_iter().map(|(method, path, _)| (method, path)).collect()
}

/// All operations of a description, with their methods and paths.
pub(crate) fn operations<'a>(
    prefix: &str,
    api: &'a OpenApi,
) -> Vec<(String, String, &'a Operation)> {
    let of = |path: &str, item: &'a PathItem| {
        let methods = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
            ("HEAD", &item.head),
            ("OPTIONS", &item.options),
            ("TRACE", &item.trace),
        ];
        let path = format!("{prefix}{path}");
        let there = methods.into_iter().filter_map(|(method, it)| Some((method, it.as_ref()?)));
        there.map(|(method, it)| (method.to_owned(), path.clone(), it)).collect::<Vec<_>>()
    };
    api.paths.paths.iter().flat_map(|(path, item)| of(path, item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_documentation_is_this_one() {
        let text = include_str!("../../docs/ACCESS.md");
        let table = text.split("| route | needs |\n|---|---|\n").nth(1).unwrap();
        let told: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
        let rows = TABLE.iter().map(|Row { method, path, needs }| {
            let needs = match needs {
                Needs::Nothing => "–".to_owned(),
                Needs::Scope(scope) => format!("`{scope}`"),
                Needs::ScopeForTask(scope) => format!("`{scope}` for the task"),
            };
            format!("| `{method} {path}` | {needs} |")
        });
        assert_eq!(told, rows.collect::<Vec<_>>());
    }
}
