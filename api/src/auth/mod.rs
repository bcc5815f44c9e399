//! The door: everything under `/v1` needs a token that is believed, and comes no more often than
//! its subject may.

mod claims;
mod grant;
mod jwks;
mod keys;
mod ring_provider;
mod scope;
mod token;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::debug;

pub use claims::Claims;
pub use grant::{Grant, issue_token};
pub(crate) use scope::is_of_application;
pub use scope::{RoleScopes, Scope, ScopeError, Scopes};
pub(crate) use token::{TokenError, Verifier};

use crate::{
    ApiError, ApiSettings,
    edge::{self, Subject},
    problem::Problem,
    rates::Rates,
    shares::Shares,
};

/// Who may come in, how often, and how many at once.
pub(crate) struct Door {
    verifier: Verifier,
    rates: Option<Rates>,
    shares: Shares,
}

/// When published keys are looked for again that nobody has yet.
const RETRY_KEYS: Duration = Duration::from_secs(5);

impl Door {
    pub fn new(settings: &ApiSettings) -> Result<Self, ApiError> {
        let verifier = Verifier::new(&settings.jwt)?;
        let limits = &settings.limits;
        let shares = Shares::new(limits.subject_in_flight);
        Ok(Self { verifier, rates: limits.per_subject.map(Rates::new), shares })
    }
}

/// Lets a request with a good token pass, with its [`Claims`] as extension. All others get one and
/// the same answer: what was wrong with a token is nobody's business but the log's.
pub(crate) async fn require_token(
    State(door): State<Arc<Door>>,
    mut request: Request,
    next: Next,
) -> Response {
    let believed = match bearer(request.headers()) {
        Ok(token) => door.verifier.verify(token).await,
        Err(error) => Err(error),
    };
    match believed {
        Ok(claims) => {
            if let Some(subject) = request.extensions().get::<Subject>() {
                subject.is(&claims.sub);
            }
            let taken = door.rates.as_ref().map_or(Ok(()), |rates| rates.take(&claims.sub));
            if let Err(wait) = taken {
                return edge::too_often(wait).into_response();
            }
            let Some(_share) = door.shares.take(&claims.sub) else {
                return edge::too_many_at_once().into_response();
            };
            request.extensions_mut().insert(claims);
            next.run(request).await
        }
        // No judgement of the token, and told by the log when the keys were looked for.
        Err(TokenError::NoKeys) => Problem::new(StatusCode::SERVICE_UNAVAILABLE)
            .detail("the keys of the identity provider cannot be had")
            .retry_after(RETRY_KEYS)
            .into_response(),
        Err(error) => {
            debug!(%error, "a token was not believed");
            refusal()
        }
    }
}

pub(crate) fn refusal() -> Response {
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
    use crate::{Limits, edge::Edge, metrics::Metrics};

    fn router() -> Router {
        let settings = ApiSettings::new("t", ([127, 0, 0, 1], 0).into(), settings());
        let door = Arc::new(Door::new(&settings).unwrap());
        let metrics = Metrics::new().unwrap();
        let guarded = Router::new()
            .route("/who", get(|Extension(claims): Extension<Claims>| async { claims.sub }))
            .layer(middleware::from_fn_with_state(door, require_token));
        Edge::new(&Limits { per_peer: None, ..Limits::default() }, metrics).around(guarded)
    }

    async fn ask(authorization: &[&[u8]]) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get("/who").header("x-request-id", "one");
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
