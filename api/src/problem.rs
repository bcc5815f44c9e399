//! Errors as the caller sees them: RFC 9457 problem details.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    body::{Body, to_bytes},
    http::{HeaderValue, StatusCode, header, response},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

/// An answer that says what went wrong (`application/problem+json`); a handler returns it as its
/// error.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    detail: Option<String>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
struct Sent<'a> {
    /// `about:blank`: the status says what kind of problem this is.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'a str,
    /// The words of the status.
    #[schema(example = "Unprocessable Entity")]
    title: &'a str,
    #[schema(example = 422)]
    status: u16,
    /// What went wrong in this case.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    /// As in the header X-Request-ID, and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// Which parts of the request are wrong.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// One part of a request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: a path like `args.links[2].url`, or the name of a header.
    #[schema(example = "args.url")]
    pub field: String,
    /// Why it is wrong.
    pub reason: String,
}

/// The longest text that is passed on as a detail or reason: serde repeats what it was given, and
/// an answer need not carry a request back.
const TEXT_LONGEST: usize = 500;

/// The media type of a problem.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Problem {
    pub fn new(status: StatusCode) -> Self {
        Self { status, detail: None, errors: Vec::new(), retry_after: None }
    }

    /// Says what went wrong in this case; cut at 500 characters.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(cut(detail.into()));
        self
    }

    /// What it says, for an answer that holds several.
    pub(crate) fn into_parts(self) -> (StatusCode, Option<String>, Vec<FieldError>) {
        (self.status, self.detail, self.errors)
    }

    /// Names a part of the request that is wrong.
    pub fn error(mut self, error: FieldError) -> Self {
        self.errors.push(error);
        self
    }

    /// Sends `Retry-After`, in whole seconds.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl FieldError {
    /// The reason is cut at 500 characters.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: cut(reason.into()) }
    }
}

impl Problem {
    fn send(&self, path: Option<&str>, request_id: Option<&str>) -> Response {
        let sent = Sent {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail.as_deref(),
            instance: path,
            request_id,
            errors: &self.errors,
        };
        let mut response = (self.status, Json(sent)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.send(None, None);
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().into());
        }
        // For `finish`, which knows the request.
        response.extensions_mut().insert(self);
        response
    }
}

/// So that routes can say `body = Problem`.
impl ToSchema for Problem {
    fn name() -> Cow<'static, str> {
        Sent::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Sent::schemas(schemas);
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Sent::schema()
    }
}

/// Makes a problem of every error that is bare or plain text (those of axum and its layers, and of
/// handlers that return a status), and tells each which request it answers.
pub(crate) async fn finish(response: Response, path: &str, request_id: &str) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let problem = match parts.extensions.remove::<Problem>() {
        Some(problem) => problem,
        None if is_bare(&parts) => Problem { detail: text(body).await, ..Problem::new(status) },
        None => return Response::from_parts(parts, body),
    };
    // The other headers stay: Allow, Retry-After, WWW-Authenticate.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    let body = problem.send(Some(path), Some(request_id)).into_body();
    Response::from_parts(parts, body)
}

fn is_bare(parts: &response::Parts) -> bool {
    parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

/// What a plain-text error says, if it is short.
async fn text(body: Body) -> Option<String> {
    let bytes = to_bytes(body, TEXT_LONGEST).await.ok()?;
    let text = String::from_utf8(bytes.to_vec()).ok()?;
    (!text.is_empty()).then_some(text)
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(TEXT_LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) async fn json_of(response: Response) -> Value {
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_says_what_went_wrong_where_and_in_which_request() {
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS)
            .detail("queue `a` is full")
            .error(FieldError::new("args.url", "no URL"))
            .retry_after(Duration::from_secs(10));
        let response = finish(problem.into_response(), "/v1/tasks/x", "id-1").await;
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "10");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            json_of(response).await,
            json!({
                "type": "about:blank",
                "title": "Too Many Requests",
                "status": 429,
                "detail": "queue `a` is full",
                "instance": "/v1/tasks/x",
                "request_id": "id-1",
                "errors": [{"field": "args.url", "reason": "no URL"}],
            })
        );
    }

    #[tokio::test]
    async fn bare_and_plain_errors_become_problems_and_others_stay() {
        let bare = StatusCode::METHOD_NOT_ALLOWED.into_response();
        assert_eq!(json_of(finish(bare, "/", "i").await).await["title"], "Method Not Allowed");

        let plain = (StatusCode::BAD_REQUEST, "Invalid URL: x").into_response();
        let plain = json_of(finish(plain, "/", "i").await).await;
        assert_eq!((&plain["status"], &plain["detail"]), (&json!(400), &json!("Invalid URL: x")));

        let measured = (StatusCode::BAD_REQUEST, [(header::CONTENT_LENGTH, "2")], "no");
        let measured = finish(measured.into_response(), "/", "i").await;
        assert_eq!(measured.headers().get(header::CONTENT_LENGTH), None, "it was the old body's");

        let own = (StatusCode::CONFLICT, Json(json!({"mine": true}))).into_response();
        assert_eq!(json_of(finish(own, "/", "i").await).await, json!({"mine": true}));

        let fine = finish(Json("all well").into_response(), "/", "i").await;
        assert_eq!(json_of(fine).await, "all well");
    }

    #[tokio::test]
    async fn an_endless_reason_is_cut() {
        let endless = "ä".repeat(100_000);
        let problem = Problem::new(StatusCode::BAD_REQUEST)
            .detail(endless.clone())
            .error(FieldError::new("x", endless.clone()));
        let sent = json_of(problem.into_response()).await;
        assert_eq!(sent["detail"].as_str().unwrap().chars().count(), TEXT_LONGEST + 1);
        assert_eq!(sent["errors"][0]["reason"].as_str().unwrap().chars().count(), TEXT_LONGEST + 1);

        let plain = finish((StatusCode::BAD_REQUEST, endless).into_response(), "/", "i").await;
        assert_eq!(json_of(plain).await.get("detail"), None);
    }
}
