//! The task `pages.scrape`: reads one page, stores what it says, and finds further pages.
//!
//! What is left behind where its worker dies, and who goes on:
//!
//! - before the page is stored: a row that is running. The task, in its next delivery, fetches
//!   the page again.
//! - after that: the metadata, and the pages it leads to as pending rows. The task finds its page
//!   stored and enqueues what is pending.
//! - after these are enqueued: tasks that the broker has, and rows that are pending still. The
//!   task, or the next sweep, enqueues them under the same keys, which name the same tasks.
//!
//! No transaction is open while a page is fetched, and none while the broker is asked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use umbel::{
    BrokerError, Context, End, Handler, RetryPolicy, StoreError, Task, TaskError, TaskOptions,
    TaskResult,
};
use url::Url;

use crate::{
    App, address,
    fetch::{FetchError, Reading},
    pages::{Attempt, PageRun, Place, Scraped},
    sweep::{EnqueueError, enqueue_pending},
};

/// Three times what a fetch may take, so that a slow database is not taken for a slow page.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A host that asks for patience is given this much of it; then it has failed like any other, or
/// its page would keep the next run of its site waiting for ever.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Sooner than this nobody means, and much later the page is better tried than believed.
const SNOOZE_SHORTEST: Duration = Duration::from_secs(1);
const SNOOZE_LONGEST: Duration = Duration::from_secs(15 * 60);

/// Reads the metadata of one page and stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScrapePage {
    /// The address of the page.
    pub url: Url,
    /// Set by the scraper itself for the pages of its sites. Without it the page is read by
    /// itself, and no link is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<PageRun>,
}

/// A page that was scraped; what it says is in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScrapedPage {
    /// The page's row.
    pub id: i64,
    pub title: Option<String>,
}

impl Task for ScrapePage {
    const NAME: &'static str = "pages.scrape";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT
        .queue("scrape")
        .max_attempts(5)
        .time_limit(TIME_LIMIT)
        .retry(RetryPolicy::exponential(Duration::from_secs(1), Duration::from_secs(60)))
        .over_http();
    type Output = ScrapedPage;
}

impl Handler<App> for ScrapePage {
    async fn run(self, ctx: &Context<App>) -> TaskResult<ScrapedPage> {
        let pages = &ctx.app().pages;
        if let Err(refusal) = address::check(&self.url) {
            return Err(TaskError::fatal(refusal));
        }
        let page = self.row(ctx).await?;
        let attempt = Attempt { page, task_id: ctx.task_id(), attempt: ctx.run().attempt };
        let scraped = match pages.begin(&attempt, &self.url, ctx.run().enqueued).await? {
            Some(place) => self.scrape(&attempt, place, ctx).await,
            None => self.finish(&attempt, ctx).await,
        };
        let error = match scraped {
            Ok(scraped) => return Ok(scraped),
            Err(error) => error,
        };
        let told = told(&error);
        let verdict = error.verdict(Utc::now(), ctx.run().enqueued);
        let goes_on = match verdict {
            TaskError::Retry(_) => !ctx.is_last_attempt(),
            TaskError::Snooze(_) => true,
            TaskError::Fatal(_) => false,
        };
        if goes_on && let Err(error) = pages.again(&attempt, &told).await {
            // The row says running for a while longer than is true; nothing rests on it.
            warn!(%error, "could not note that the page waits for another attempt");
        }
        Err(verdict)
    }

    async fn ended(self, end: &End, ctx: &Context<App>) -> TaskResult<()> {
        if address::check(&self.url).is_err() {
            // It never had a row.
            return Ok(());
        }
        let error = match end {
            End::Failed { error, .. } => error.clone(),
            End::Cancelled { by } => format!("cancelled by {by}"),
            End::Expired => "its start came too late".to_owned(),
            other => format!("{other:?}"),
        };
        let page = self.row(ctx).await?;
        let (task, url) = (Some(ctx.task_id()), Some(self.url.as_str()));
        Ok(ctx.app().pages.fail(page, task, url, &error).await?)
    }
}

impl ScrapePage {
    async fn row(&self, ctx: &Context<App>) -> Result<PageRun, StoreError> {
        match self.page {
            Some(page) => Ok(page),
            None => ctx.app().pages.adopt(&self.url).await,
        }
    }

    async fn scrape(
        &self,
        attempt: &Attempt<'_>,
        Place { site_id, depth, .. }: Place,
        ctx: &Context<App>,
    ) -> Result<ScrapedPage, ScrapeError> {
        let App { fetcher, pages, .. } = ctx.app();
        let fetched = fetcher.read_page(&self.url, Reading::Whole).await?;
        // A site is where its own page leads to: `http://example.com` may be at home on https.
        let home = if depth == 0 { &fetched.final_url } else { &self.url }.origin();
        let scraped = Scraped::new(fetched, &home);
        match pages.succeed(attempt, site_id, &scraped).await? {
            Some(0) => {}
            Some(_) => {
                enqueue_pending(pages, ctx.client(), site_id).await?;
            }
            // Two tasks may ask for one address at once: its row belongs to the one that began
            // last, and this one has read the page all the same.
            None if site_id.is_none() => {}
            None => return self.finish(attempt, ctx).await,
        }
        Ok(ScrapedPage { id: attempt.page.id, title: scraped.metadata.title })
    }

    /// Ends what an earlier delivery of this task began and could not say.
    async fn finish(
        &self,
        attempt: &Attempt<'_>,
        ctx: &Context<App>,
    ) -> Result<ScrapedPage, ScrapeError> {
        let pages = &ctx.app().pages;
        let Some(stored) = pages.stored(attempt).await? else {
            return Err(ScrapeError::Superseded);
        };
        if stored.site_id.is_some() {
            enqueue_pending(pages, ctx.client(), stored.site_id).await?;
        }
        Ok(ScrapedPage { id: attempt.page.id, title: stored.title })
    }
}

/// Why a page was not scraped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the page cannot be stored")]
    Store(#[from] StoreError),
    #[error("the pages it leads to cannot be enqueued")]
    Broker(#[from] BrokerError),
    /// The row is gone, belongs to a later run, or has another address.
    #[error("there is no such page in that run of its site")]
    Superseded,
}

impl From<EnqueueError> for ScrapeError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Store(error) => Self::Store(error),
            EnqueueError::Broker(error) => Self::Broker(error),
        }
    }
}

impl ScrapeError {
    fn verdict(self, now: DateTime<Utc>, enqueued: DateTime<Utc>) -> TaskError {
        match self {
            Self::Superseded => TaskError::fatal(self),
            Self::Fetch(error) if error.is_fatal() => TaskError::fatal(error),
            Self::Fetch(error) => match error.retry_after() {
                Some(wait) if (now - enqueued).to_std().unwrap_or_default() < PATIENCE => {
                    TaskError::snooze(wait.clamp(SNOOZE_SHORTEST, SNOOZE_LONGEST))
                }
                _ => error.into(),
            },
            Self::Store(_) | Self::Broker(_) => self.into(),
        }
    }
}

/// The error with its sources, as the row has it until the next attempt.
fn told(error: &ScrapeError) -> String {
    let mut told = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        told = format!("{told}: {error}");
        source = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> ScrapeError {
        let retry_after = retry_after.map(Duration::from_secs);
        ScrapeError::Fetch(FetchError::Status { status, retry_after })
    }

    fn verdict(error: ScrapeError, age: TimeDelta) -> TaskError {
        let enqueued = DateTime::UNIX_EPOCH;
        error.verdict(enqueued + age, enqueued)
    }

    #[test]
    fn a_page_that_is_not_there_is_given_up_and_one_in_trouble_is_tried_again() {
        let now = TimeDelta::zero();
        assert!(matches!(verdict(status(404, Some(9)), now), TaskError::Fatal(_)));
        assert!(matches!(verdict(ScrapeError::Superseded, now), TaskError::Fatal(_)));
        assert!(matches!(verdict(status(500, None), now), TaskError::Retry(_)));
        let timed_out = FetchError::TimedOut { limit: Duration::from_secs(1) };
        assert!(matches!(verdict(timed_out.into(), now), TaskError::Retry(_)));
        let full = ScrapeError::Broker(BrokerError::Refused("OOM".to_owned()));
        assert!(matches!(verdict(full, now), TaskError::Retry(_)));
    }

    #[test]
    fn a_host_that_asks_for_patience_has_it_within_limits() {
        for (asked, waited) in [(0, 1), (90, 90), (86_400, 900)] {
            let TaskError::Snooze(wait) = verdict(status(429, Some(asked)), TimeDelta::zero())
            else {
                panic!("{asked} s must be waited for");
            };
            assert_eq!(wait.as_secs(), waited);
        }
        assert!(matches!(verdict(status(503, Some(9)), TimeDelta::hours(1)), TaskError::Retry(_)));
    }

    #[test]
    fn a_row_tells_an_error_with_its_sources() {
        let error = ScrapeError::Broker(BrokerError::Refused("OOM".to_owned()));
        assert_eq!(
            told(&error),
            "the pages it leads to cannot be enqueued: redis refuses for now: OOM"
        );
    }

    #[test]
    fn an_address_alone_is_enough_over_http() {
        let task: ScrapePage = serde_json::from_str(r#"{"url": "https://example.com"}"#).unwrap();
        assert_eq!(task, ScrapePage { url: "https://example.com/".parse().unwrap(), page: None });
    }
}
