//! A visit of a host: in its turn, which all workers share, and with an ear for what it answers. Where
//! it redirects, each hop is a visit too.

use std::time::Duration;

use tracing::warn;
use umbel::{Ahead, Context, Permit};
use url::Url;

use crate::{
    App,
    error::{SNOOZE_SHORTEST, ScrapeError},
    fetch::{Hop, Trail},
    politeness::{BOOKED_AHEAD, Politeness, Turn, host},
};

/// How much a visitor minds to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long the host wants from one visit to the next, where it says so.
    pub delay: Option<Duration>,
    /// A turn that comes sooner than this is waited for in place.
    pub in_place: Duration,
}

/// Has `hop` done once there is a turn at the host of `url`, and again at each host where that
/// redirects, until it arrives: all within `limit` and the fetcher's own from the first turn on. A host
/// that says it is asked too much is left alone by all workers.
pub(crate) async fn visit<T, Hopping>(
    ctx: &Context<App>,
    url: &Url,
    patience: Patience,
    limit: Duration,
    mut hop: impl FnMut(Trail) -> Hopping,
) -> Result<T, ScrapeError>
where
    Hopping: Future<Output = Result<Hop<T>, ScrapeError>>,
{
    // Each place is kept to the end: a way that leads back to a host goes on there.
    let mut places = vec![(host(url), turn(ctx, url, patience, None).await?)];
    let mut trail = ctx.app().fetcher.trail(url, limit);
    loop {
        let hopped = hop(trail.clone()).await;
        if let Some(wait) = hopped.as_ref().err().and_then(ScrapeError::wants_a_pause) {
            // Before the turn is given back: whoever has the next one would not know of it.
            if let Err(error) = Politeness::pause(ctx.client(), trail.url(), wait).await {
                warn!(%error, "the other workers could not be told to leave a host alone");
            }
        }
        match hopped? {
            Hop::Arrived(what) => return Ok(what),
            Hop::Moved { to, .. } => trail.moved(to)?,
        }
        let to = host(trail.url());
        let place = trail.in_time(turn_ahead(ctx, &trail, patience, &to, &places)).await?;
        places.push((to, place));
    }
}

/// A turn where a redirect leads. At a host that was visited on this way it does not come later than
/// so: were it deferred as at another, the way would begin anew, and a host that wants long between two
/// visits would never be seen twice on it.
async fn turn_ahead(
    ctx: &Context<App>,
    trail: &Trail,
    patience: Patience,
    to: &str,
    places: &[(String, Permit)],
) -> Result<Permit, ScrapeError> {
    let in_place = BOOKED_AHEAD.min(trail.left());
    let ahead = match places.iter().any(|(host, _)| host == to) {
        true => Ahead::AtTheLatest(BOOKED_AHEAD),
        false => Ahead::Within(in_place),
    };
    turn(ctx, trail.url(), Patience { in_place, ..patience }, Some(ahead)).await
}

async fn turn(
    ctx: &Context<App>,
    url: &Url,
    patience: Patience,
    ahead: Option<Ahead>,
) -> Result<Permit, ScrapeError> {
    let App { politeness, fetcher, .. } = ctx.app();
    match politeness.turn(ctx.client(), url, fetcher.is_own(url), patience, ahead).await? {
        Turn::Now(permit) => Ok(permit),
        Turn::Later(wait) => {
            let why = Politeness::no_turn(url);
            Err(ScrapeError::Later { wait: wait.max(SNOOZE_SHORTEST), why })
        }
    }
}
