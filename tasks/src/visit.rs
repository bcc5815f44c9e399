//! One visit of a host: in its turn, which all workers share, and with an ear for what it answers.

use std::time::Duration;

use tracing::warn;
use umbel::{Context, Permit};
use url::Url;

use crate::{
    App,
    error::{SNOOZE_SHORTEST, ScrapeError},
    politeness::{Politeness, Turn},
};

/// How much a visitor minds to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long the host wants from one visit to the next, where it says so.
    pub delay: Option<Duration>,
    /// A turn that comes sooner than this is waited for in place.
    pub in_place: Duration,
}

/// Has `fetch` done once there is a turn at the host of `url`. A host that says it is asked too much
/// is left alone by all workers.
pub(crate) async fn visit<T>(
    ctx: &Context<App>,
    url: &Url,
    patience: Patience,
    fetch: impl Future<Output = Result<T, ScrapeError>>,
) -> Result<T, ScrapeError> {
    let turn = turn(ctx, url, patience).await?;
    let fetched = fetch.await;
    if let Some(wait) = fetched.as_ref().err().and_then(ScrapeError::wants_a_pause) {
        // Before the turn is given back: whoever has the next one would not know of it.
        if let Err(error) = Politeness::pause(ctx.client(), url, wait).await {
            warn!(%error, "the other workers could not be told to leave a host alone");
        }
    }
    drop(turn);
    fetched
}

async fn turn(ctx: &Context<App>, url: &Url, patience: Patience) -> Result<Permit, ScrapeError> {
    let App { politeness, fetcher, .. } = ctx.app();
    match politeness.turn(ctx.client(), url, fetcher.is_own(url), patience).await? {
        Turn::Now(permit) => Ok(permit),
        Turn::Later(wait) => {
            let why = Politeness::no_turn(url);
            Err(ScrapeError::Later { wait: wait.max(SNOOZE_SHORTEST), why })
        }
    }
}
