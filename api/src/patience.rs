//! How long a request waits for Redis: as long as it takes where Redis lives, a second at most
//! where it has fallen silent.
//!
//! A Redis that is gone refuses connections, and the caller hears of it at once. One that is silent
//! (a hung server, a lost route) keeps its callers for the whole time-out of an answer, and with
//! them the places of all other requests.
//!
//! A batch asks more than once, and tells what was taken before the silence: it waits for each call
//! by itself.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{pin, select, sync::Mutex, time::timeout};
use tracing::warn;
use umbel_broker::Client;

use crate::{arrival::Arrival, problem::Problem, routes::RETRY_UNAVAILABLE};

/// Redis answers in milliseconds; who has waited this long asks whether it is there.
const ASK_AFTER: Duration = Duration::from_millis(250);

/// Together with [`ASK_AFTER`] less than a second, which is what callers are promised.
const PING_LIMIT: Duration = Duration::from_millis(600);

/// What asks whether Redis is there.
#[derive(Debug)]
pub(crate) struct Patience {
    client: Client,
    /// Held by the one look that lasts as long as the client itself waits.
    looking: Arc<Mutex<()>>,
}

impl Patience {
    pub fn new(client: Client) -> Self {
        Self { client, looking: Arc::default() }
    }

    /// Waits for an answer while Redis is there; else says so.
    pub async fn wait<T>(&self, answer: impl Future<Output = T>) -> Result<T, Problem> {
        self.wait_after(|| true, answer).await
    }

    /// As [`wait`](Self::wait), of what does not ask Redis before `has_begun`.
    async fn wait_after<T>(
        &self,
        has_begun: impl Fn() -> bool,
        answer: impl Future<Output = T>,
    ) -> Result<T, Problem> {
        pin!(answer);
        loop {
            if let Ok(answer) = timeout(ASK_AFTER, &mut answer).await {
                return Ok(answer);
            }
            if !has_begun() {
                continue;
            }
            let is_there = select! {
                answer = &mut answer => return Ok(answer),
                is_there = self.is_there() => is_there,
            };
            if !is_there {
                self.look_on();
                return Err(silent());
            }
        }
    }

    async fn is_there(&self) -> bool {
        matches!(timeout(PING_LIMIT, self.client.ping()).await, Ok(Ok(())))
    }

    /// The client gives a silent connection up when an answer takes too long, and we give the
    /// request up before: so one look is left behind that waits.
    fn look_on(&self) {
        let Ok(looking) = self.looking.clone().try_lock_owned() else { return };
        let client = self.client.clone();
        tokio::spawn(async move {
            if let Err(error) = client.queue_names().await {
                warn!(%error, "redis is silent");
            }
            drop(looking);
        });
    }
}

/// Waits for the answer while Redis is there.
pub(crate) async fn wait_with_redis(
    State(patience): State<Arc<Patience>>,
    request: Request,
    next: Next,
) -> Response {
    let arrival = request.extensions().get::<Arrival>().cloned();
    // Who is slow to say what is wanted does not wait for Redis.
    let has_come = || arrival.as_ref().is_none_or(Arrival::is_over);
    patience.wait_after(has_come, next.run(request)).await.unwrap_or_else(Problem::into_response)
}

fn silent() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE)
        .detail(
            "the broker does not answer; what was asked for may have been carried out all the \
             same: repeat it with the same Idempotency-Key",
        )
        .retry_after(RETRY_UNAVAILABLE)
}
