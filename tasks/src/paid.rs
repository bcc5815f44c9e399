//! A page that ScraperAPI fetches: asked for where the service is not stopped and the budget of the
//! day lasts, counted in the [ledger](crate::ledger), and stopped for all workers where it says so.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::warn;
use url::Url;

use crate::{
    App,
    error::{SNOOZE_SHORTEST, ScrapeError},
    fetch::FetchedPage,
    scraperapi::{Refused, ScraperApiOptions},
};

/// The name of the service in the ledger.
const NAME: &str = "scraperapi";

/// The longest wait for a source that is stopped or out of its budget: it is asked anew daily.
const DEFERRED_LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Pages that were deferred together come back one after the other.
const SPREAD_S: u64 = 10;
/// How long a source rests that asks for a pause and does not say how long.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_LONGEST: Duration = Duration::from_secs(300);
/// How long a source rests that is out of credits or refuses the key: somebody has to act, and
/// then the work goes on by itself.
const STOP: Duration = Duration::from_secs(60 * 60);

/// Has ScraperAPI fetch the page, if it may be asked and paid.
pub(crate) async fn through_scraperapi(
    app: &App,
    url: &Url,
    options: &ScraperApiOptions,
    page: i64,
) -> Result<FetchedPage, ScrapeError> {
    let Some(service) = &app.scraperapi else {
        return Err(ScrapeError::NoKey);
    };
    let cost = options.estimate();
    if let Some(budget) = service.daily_credits().filter(|budget| cost > *budget) {
        return Err(ScrapeError::Budget { cost, budget });
    }
    let now = Utc::now();
    let later = |until: DateTime<Utc>, why: String| {
        let spread = Duration::from_secs(page.unsigned_abs() % SPREAD_S);
        let wait = (until - now).to_std().unwrap_or_default() + spread;
        ScrapeError::Later { wait: wait.clamp(SNOOZE_SHORTEST, DEFERRED_LONGEST), why }
    };
    let reserved = app.ledger.reserve(NAME, cost, service.daily_credits(), now).await?;
    let reserved = reserved.map_err(|stopped| later(stopped.until, stopped.why))?;
    let answer = service.read_page(&app.fetcher, url, options).await;
    app.ledger.settle(&reserved, answer.cost).await?;
    let refused = match answer.result {
        Ok(page) => return Ok(page),
        Err(Refused::Page(error)) => return Err(error.into()),
        Err(refused) => refused,
    };
    let (wait, why) = match &refused {
        Refused::Pause { wait } => (wait.unwrap_or(PAUSE).min(PAUSE_LONGEST), refused.to_string()),
        Refused::OutOfCredits | Refused::Key => (STOP, refused.to_string()),
        _ => return Err(ScrapeError::Source(refused)),
    };
    warn!(source = NAME, ?wait, "{why}: it is not asked for a while");
    app.ledger.stop(NAME, wait, &why).await?;
    Err(later(now + wait, why))
}
