//! Hears at once when a queue of the worker is paused or goes on. What it misses while its connection
//! is broken, the ticks find.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use umbel_broker::Pauses;

/// How soon a broken connection is made again.
const RETRY: Duration = Duration::from_secs(1);

/// How soon it is tried again where Redis does not allow it: somebody may put it right.
const RETRY_REFUSED: Duration = Duration::from_secs(30);

/// Until `stop`.
pub(crate) async fn listen(pauses: Pauses, stop: CancellationToken) {
    while let Some(Err(error)) = stop.run_until_cancelled(pauses.follow()).await {
        let pause = if error.is_transient() {
            warn!(%error, "pauses are not heard of at once; listening again in {RETRY:?}");
            RETRY
        } else {
            error!(%error, "pauses are not heard of at once; trying again in {RETRY_REFUSED:?}");
            RETRY_REFUSED
        };
        stop.run_until_cancelled(sleep(pause)).await;
    }
}
