//! `/metrics`: what the API counts of itself, and what it is given to tell beside it.

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{metrics::Told, problem::Problem};

/// The media type of the text form of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the API counts of itself
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read(State(told): State<Told>) -> Response {
    ([(header::CONTENT_TYPE, TEXT)], told.text().await).into_response()
}
