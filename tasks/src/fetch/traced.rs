//! What a trace and the metrics have of a fetch: the host, the status and how much came. Never an
//! address: its path and query may hold what is nobody's business. And no host is told of the trace:
//! what we do inside is no business of strangers.

use std::future::Future;

use umbel::telemetry::{self, Fetch};
use url::Url;

use super::{FetchError, Hop};

/// Makes one request in a span of its own. `told` says of what came its status, where it is known, and size.
pub(crate) async fn traced<T>(
    url: &Url,
    fetch: impl Future<Output = Result<Hop<T>, FetchError>>,
    told: impl FnOnce(&T) -> (Option<u16>, usize),
) -> Result<Hop<T>, FetchError> {
    telemetry::fetch(url.host_str().unwrap_or_default(), async {
        let fetched = fetch.await;
        let fetch = match &fetched {
            Ok(Hop::Moved { status, .. }) => {
                Fetch { status: Some(*status), bytes: 0, failed: None }
            }
            Ok(Hop::Arrived(what)) => {
                let (status, bytes) = told(what);
                Fetch { status, bytes: bytes as u64, failed: None }
            }
            Err(error) => {
                let status = match error {
                    FetchError::Status { status, .. } => Some(*status),
                    _ => None,
                };
                Fetch { status, bytes: 0, failed: Some(error.class()) }
            }
        };
        (fetched, fetch)
    })
    .await
}
