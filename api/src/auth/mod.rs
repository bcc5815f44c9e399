//! The door: everything under `/v1` needs a token that is believed.

mod ring_provider;
mod token;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::debug;

pub use token::{Claims, issue_token};
pub(crate) use token::{TokenError, Verifier};

use crate::{edge::Subject, problem::Problem};

/// Lets a request with a good token pass, with its [`Claims`] as extension. All others get one and
/// the same answer: what was wrong with a token is nobody's business but the log's.
pub(crate) async fn require_token(
    State(verifier): State<Arc<Verifier>>,
    mut request: Request,
    next: Next,
) -> Response {
    match bearer(request.headers()).and_then(|token| verifier.verify(token)) {
        Ok(claims) => {
            if let Some(subject) = request.extensions().get::<Subject>() {
                subject.is(&claims.sub);
            }
            request.extensions_mut().insert(claims);
            next.run(request).await
        }
        Err(error) => {
            debug!(%error, "a token was not believed");
            refusal()
        }
    }
}

fn refusal() -> Response {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED)
        .detail("a valid bearer token is needed")
        .into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// The token of the one `Authorization: Bearer …`; of two headers neither can be trusted.
fn bearer(headers: &HeaderMap) -> Result<&str, TokenError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(TokenError::Absent);
    };
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(TokenError::Absent)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(TokenError::Absent) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Extension, Router, body::Body, middleware, routing::get};
    use chrono::Utc;
    use tower::ServiceExt;

    use super::{
        token::tests::{forged, settings},
        *,
    };
    use crate::edge;

    fn router() -> Router {
        let verifier = Arc::new(Verifier::new(&settings()));
        let guarded = Router::new()
            .route("/who", get(|Extension(claims): Extension<Claims>| async { claims.sub }))
            .layer(middleware::from_fn_with_state(verifier, require_token));
        edge::around(guarded, edge::REQUEST_TIMEOUT)
    }

    async fn ask(authorization: &[&[u8]]) -> (StatusCode, HeaderMap, String) {
        let mut request = axum::http::Request::get("/who").header("x-request-id", "one");
        for value in authorization {
            request = request.header(header::AUTHORIZATION, *value);
        }
        let response = router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_subject_of_a_good_token_reaches_the_handler() {
        let token = issue_token(&settings(), "ann", Duration::from_secs(60), Utc::now()).unwrap();
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let (status, _, body) = ask(&[format!("{scheme} {token}").as_bytes()]).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, "ann"));
        }
    }

    #[tokio::test]
    async fn all_refusals_are_one_answer() {
        let good = issue_token(&settings(), "ann", Duration::from_secs(60), Utc::now()).unwrap();
        let good = format!("Bearer {good}");
        let mut cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
            ("no header", vec![]),
            ("scheme alone", vec![b"Bearer".to_vec()]),
            ("another scheme", vec![good.replace("Bearer", "Basic").into()]),
            ("no scheme", vec![good.replace("Bearer ", "").into()]),
            ("two headers", vec![good.clone().into(), good.clone().into()]),
            ("two spaces", vec![good.replace(' ', "  ").into()]),
            ("no text", vec![b"Bearer \xff\xfe".to_vec()]),
        ];
        for (why, token) in forged() {
            // A header cannot carry a line end; hyper refuses it before us.
            if !token.contains('\n') {
                cases.push((why, vec![format!("Bearer {token}").into()]));
            }
        }
        assert!(cases.len() >= 60);

        let (_, _, expected) = ask(&[]).await;
        for (why, headers) in cases {
            let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
            let (status, headers, body) = ask(&headers).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{why}");
            assert_eq!(headers[header::WWW_AUTHENTICATE], "Bearer", "{why}");
            assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json", "{why}");
            assert_eq!(body, expected, "{why}");
        }
    }
}
