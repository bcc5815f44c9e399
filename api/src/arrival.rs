//! How the body of a request comes in: within a time of its own, whoever reads it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, HttpBody};
use futures::{StreamExt, stream};

/// How the body of a request comes in. One that never was has come in whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrival(Arc<Arriving>);

#[derive(Debug, Default)]
struct Arriving {
    whole: AtomicBool,
    late: AtomicBool,
}

impl Arrival {
    pub fn of(body: &Body) -> Self {
        let arrival = Self::default();
        arrival.0.whole.store(body.is_end_stream(), Ordering::Relaxed);
        arrival
    }

    /// Whether nothing more is to come, for better or worse.
    pub fn is_over(&self) -> bool {
        self.0.whole.load(Ordering::Relaxed)
    }

    pub fn was_late(&self) -> bool {
        self.0.late.load(Ordering::Relaxed)
    }

    /// The body, which fails when it has not come in whole after `limit`: drip by drip it would
    /// hold its place for as long as its sender likes.
    pub fn within(&self, limit: Duration, body: Body) -> Body {
        let deadline = tokio::time::Instant::now() + limit;
        let start = (body.into_data_stream(), self.0.clone());
        Body::from_stream(stream::try_unfold(start, move |(mut chunks, arrival)| async move {
            let next = tokio::time::timeout_at(deadline, chunks.next()).await;
            if let Ok(Some(Ok(chunk))) = next {
                return Ok(Some((chunk, (chunks, arrival))));
            }
            arrival.whole.store(true, Ordering::Relaxed);
            match next {
                Ok(Some(Err(error))) => Err(error.into()),
                Ok(_) => Ok::<_, axum::BoxError>(None),
                Err(elapsed) => {
                    arrival.late.store(true, Ordering::Relaxed);
                    Err(elapsed.into())
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::Bytes,
        http::{Request, header},
        routing::post,
    };
    use tower::ServiceExt;

    use super::*;
    use crate::{Limits, edge::Edge, metrics::Metrics, problem::tests::json_of};

    #[tokio::test]
    async fn a_body_that_drips_is_given_up_as_a_whole() {
        let limits = Limits { body_timeout: Duration::from_millis(50), ..Limits::default() };
        let read =
            Router::new().route("/read", post(|body: Bytes| async move { body.len().to_string() }));
        let router = Edge::new(&limits, Metrics::new().unwrap()).around(read);
        // Each drop comes soon; all of them never end.
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let request = Request::post("/read").body(Body::from_stream(drops)).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CONNECTION], "close");
        assert_eq!(json_of(response).await["status"], 408);
    }

    #[tokio::test]
    async fn a_body_is_over_when_its_last_part_was_read() {
        let none = Arrival::of(&Body::empty());
        assert!(none.is_over());
        let body = Body::from("all of it");
        let arrival = Arrival::of(&body);
        assert!(!arrival.is_over());
        let body = arrival.within(Duration::from_secs(60), body);
        axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert!(arrival.is_over() && !arrival.was_late());
    }
}
