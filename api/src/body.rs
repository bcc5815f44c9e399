//! JSON bodies whose mistakes are problems.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{FieldError, Problem};

/// A JSON body read as `T`; for the routes of applications too. No JSON: 400; another media type:
/// 415; too large: 413; JSON that is no `T`: 422, with the field.
#[derive(Debug, Clone, Copy)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(json) = Json::<Value>::from_request(request, state).await.map_err(unreadable)?;
        serde_path_to_error::deserialize(json).map(Self).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "body" } else { &path };
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY)
                .detail("the body is JSON, but not what is expected here")
                .error(FieldError::new(field, error.inner().to_string()))
        })
    }
}

fn unreadable(rejection: JsonRejection) -> Problem {
    let problem = Problem::new(rejection.status());
    match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            problem.detail("the body must come as `Content-Type: application/json`")
        }
        StatusCode::PAYLOAD_TOO_LARGE => problem.detail("the body is over what is taken here"),
        _ => problem.detail(rejection.body_text()),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request as HttpRequest, response::IntoResponse};
    use serde::Deserialize;

    use super::*;
    use crate::problem::tests::json_of;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[serde(rename = "count")]
        _count: u8,
        #[serde(rename = "lines", default)]
        _lines: Vec<Line>,
    }

    #[derive(Debug, Deserialize)]
    struct Line {
        #[serde(rename = "price")]
        _price: u8,
    }

    async fn refused(kind: &str, body: &str) -> Value {
        let request = HttpRequest::post("/")
            .header("content-type", kind)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let problem = JsonBody::<Order>::from_request(request, &()).await.unwrap_err();
        json_of(problem.into_response()).await
    }

    #[tokio::test]
    async fn the_status_tells_bad_json_from_bad_content() {
        for cut in ["", "{", "{\"count\": 1", "{\"count\": 1} x", "nonsense"] {
            assert_eq!(refused("application/json", cut).await["status"], 400, "{cut}");
        }
        let deep = "[".repeat(10_000);
        assert_eq!(refused("application/json", &deep).await["status"], 400);
        assert_eq!(refused("text/plain", "{\"count\": 1}").await["status"], 415);
        assert_eq!(refused("application/json", "[]").await["status"], 422);
    }

    #[tokio::test]
    async fn the_wrong_field_is_named() {
        for (body, field) in [
            (r#"{"count": 300}"#, "count"),
            (r#"{"count": 1, "lines": [{"price": 1}, {"price": "x"}]}"#, "lines[1].price"),
            (r#"{"count": 1, "cuont": 1}"#, "cuont"),
            (r#"{}"#, "body"),
        ] {
            let problem = refused("application/json", body).await;
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
    }
}
