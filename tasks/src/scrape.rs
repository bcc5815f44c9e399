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

use std::{collections::HashSet, ops::ControlFlow, time::Duration};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use umbel::{
    BrokerError, Context, End, Handler, Permit, RetryPolicy, StoreError, Task, TaskError,
    TaskOptions, TaskResult,
};
use url::Url;

use crate::{
    App, address,
    fetch::{FetchError, FetchedPage, Reading},
    pages::{Attempt, PageRun, Place, Scraped, Trouble},
    politeness::{Politeness, Turn},
    robots::{MAX_FILE_BYTES, Robots},
    scraperapi::{Refused, ScraperApiOptions, Source},
    sitemap,
    sweep::{EnqueueError, enqueue_pending},
};

/// As long as the slowest source may take for a page, and some more for the database.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(110);

/// How long a host may take to say what it asks of visitors.
pub(crate) const ROBOTS_TIMEOUT: Duration = Duration::from_secs(10);

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
        let (told, class, status) = (told(&error), error.class(), error.http_status());
        let verdict = error.verdict(Utc::now(), ctx.run().enqueued);
        let goes_on = match verdict {
            TaskError::Retry(_) => !ctx.is_last_attempt(),
            TaskError::Snooze(_) => true,
            TaskError::Fatal(_) => false,
        };
        let trouble = Trouble { error: &told, error_class: Some(class), error_status: status };
        if !goes_on {
            // The end of the task writes the text; what kind it was only this attempt knows.
            if let Err(error) = pages.again(&attempt, trouble).await {
                warn!(%error, "could not note why the page failed");
            }
        } else if let Err(error) = pages.again(&attempt, trouble).await {
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
        let (error, class) = match end {
            // What kind of error it was the last attempt has noted, if it came to that.
            End::Failed { why: "fatal" | "attempts", error } => (error.clone(), None),
            End::Failed { why, error } => (error.clone(), Some(*why)),
            End::Cancelled { by } => (format!("cancelled by {by}"), Some("cancelled")),
            End::Expired => ("its start came too late".to_owned(), Some("expired")),
            other => (format!("{other:?}"), None),
        };
        let page = self.row(ctx).await?;
        let (task, url) = (Some(ctx.task_id()), Some(self.url.as_str()));
        Ok(ctx.app().pages.fail(page, task, url, &error, class).await?)
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
        place: Place,
        ctx: &Context<App>,
    ) -> Result<ScrapedPage, ScrapeError> {
        let pages = &ctx.app().pages;
        let Place { site_id, depth, .. } = place;
        let robots = self.robots(&place, ctx.app()).await?;
        if !robots.allow(&self.url) {
            return self
                .skip(attempt, site_id, "robots.txt of its host asks not to", "robots", ctx)
                .await;
        }
        let turn = turn(ctx, &self.url, &robots).await?;
        let fetched = match place.source.unwrap_or_default() {
            Source::Direct => {
                ctx.app().fetcher.read_page(&self.url, Reading::Whole).await.map_err(Into::into)
            }
            Source::ScraperApi(options) => {
                through_scraperapi(ctx.app(), &self.url, &options, attempt.page.id).await
            }
        };
        drop(turn);
        if let Err(error) = &fetched {
            heed(ctx, &self.url, error).await;
        }
        let mut fetched = match fetched {
            // A link leads to a picture or a document as often as not: nothing is wrong with that.
            Err(ScrapeError::Fetch(error @ FetchError::NotHtml { .. })) if depth > 0 => {
                return self.skip(attempt, site_id, &error.to_string(), error.class(), ctx).await;
            }
            fetched => fetched?,
        };
        fetched.page.links.retain(|link| robots.allow(link));
        if depth == 0 && place.follows == Some(true) {
            let home = &fetched.final_url;
            let good = |url: &Url| url.origin() == home.origin() && robots.allow(url);
            let wanted = place.max_pages.unwrap_or_default() as usize;
            let named = &robots.sitemaps;
            let found = sitemap::pages(&ctx.app().fetcher, home, named, wanted, good).await;
            // Behind the links: where there are more than a run has places for, those come first.
            let mut links: HashSet<Url> =
                fetched.page.links.iter().chain([home]).cloned().collect();
            fetched.page.links.extend(found.into_iter().filter(|url| links.insert(url.clone())));
        }
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
            // The same of a page of a site: whoever has its row stores it, and this task has done
            // what it was asked for.
            None if pages.is_another_ones(attempt).await? => {}
            None => return self.finish(attempt, ctx).await,
        }
        Ok(ScrapedPage { id: attempt.page.id, title: scraped.metadata.title })
    }

    /// What the host asks of its visitors: asked for when a run begins, and kept for its other
    /// pages. A page that somebody asked for by itself is no visit of a crawler.
    async fn robots(&self, place: &Place, app: &App) -> Result<Robots, ScrapeError> {
        let Some(site) = place.site_id else { return Ok(Robots::default()) };
        if place.depth > 0 {
            return Ok(place.robots.clone().unwrap_or_default());
        }
        let mut file = Vec::new();
        let at = self.url.join("/robots.txt").map_err(|_| FetchError::BadRedirect)?;
        let reading = app.fetcher.read_file(&at, MAX_FILE_BYTES, |bytes| {
            file.extend_from_slice(bytes);
            ControlFlow::Continue(())
        });
        let limit = FetchError::TimedOut { limit: ROBOTS_TIMEOUT };
        let read = tokio::time::timeout(ROBOTS_TIMEOUT, reading).await.unwrap_or(Err(limit));
        let robots = match read {
            Ok(_) => {
                let agent = &app.settings.fetch.user_agent;
                Robots::parse(&String::from_utf8_lossy(&file), agent)
            }
            // There is none, or no address of this host is ever asked: the page will say so.
            Err(error) if error.is_fatal() => Robots::default(),
            // A host that ScraperAPI is asked for may well not answer us.
            Err(_) if matches!(place.source, Some(Source::ScraperApi(_))) => Robots::default(),
            // It may be there and forbid the page, which is not visited before that is known.
            Err(error) => return Err(error.into()),
        };
        app.pages.keep_robots(site, &robots).await?;
        Ok(robots)
    }

    async fn skip(
        &self,
        attempt: &Attempt<'_>,
        site_id: Option<i64>,
        error: &str,
        class: &str,
        ctx: &Context<App>,
    ) -> Result<ScrapedPage, ScrapeError> {
        let trouble = Trouble { error, error_class: Some(class), error_status: None };
        ctx.app().pages.skip(attempt, site_id, trouble).await?;
        Ok(ScrapedPage { id: attempt.page.id, title: None })
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

/// Asked before each fetch: a turn at the host, to be held while it lasts.
async fn turn(ctx: &Context<App>, url: &Url, robots: &Robots) -> Result<Permit, ScrapeError> {
    let App { politeness, fetcher, .. } = ctx.app();
    let delay = robots.crawl_delay_s.map(Duration::from_secs_f32);
    match politeness.turn(ctx.client(), url, fetcher.is_own(url), delay).await? {
        Turn::Now(permit) => Ok(permit),
        Turn::Later(wait) => {
            let why = "its host is visited by others now".to_owned();
            Err(ScrapeError::Later { wait: wait.max(SNOOZE_SHORTEST), why })
        }
    }
}

/// A host that is asked too much is left alone by all workers.
async fn heed(ctx: &Context<App>, url: &Url, error: &ScrapeError) {
    let ScrapeError::Fetch(error @ FetchError::Status { status: 429 | 503, .. }) = error else {
        return;
    };
    if error.http_status() == Some(503) && error.retry_after().is_none() {
        // It has trouble of its own.
        return;
    }
    if let Err(error) = Politeness::pause(ctx.client(), url, error.retry_after()).await {
        warn!(%error, "the other workers could not be told to leave a host alone");
    }
}

/// Has ScraperAPI fetch the page, if it may be asked and paid.
async fn through_scraperapi(
    app: &App,
    url: &Url,
    options: &ScraperApiOptions,
    page: i64,
) -> Result<FetchedPage, ScrapeError> {
    const NAME: &str = "scraperapi";
    let Some(service) = &app.scraperapi else {
        return Err(ScrapeError::NoKey);
    };
    let now = Utc::now();
    let later = |until: DateTime<Utc>, why: String| {
        let spread = Duration::from_secs(page.unsigned_abs() % SPREAD_S);
        let wait = (until - now).to_std().unwrap_or_default() + spread;
        ScrapeError::Later { wait: wait.clamp(SNOOZE_SHORTEST, DEFERRED_LONGEST), why }
    };
    let reserved =
        app.ledger.reserve(NAME, options.estimate(), service.daily_credits(), now).await?;
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

/// Why a page was not scraped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Source(Refused),
    /// The source of the site is stopped, or its budget is spent. Costs no attempt.
    #[error("{why}")]
    Later { wait: Duration, why: String },
    /// The site is to be fetched by a service that nobody has set up.
    #[error("the site is fetched by scraperapi, and SCRAPERAPI_KEY is not set")]
    NoKey,
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
    /// One word for what went wrong, for the row.
    fn class(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.class(),
            Self::Source(refused) => refused.class(),
            Self::Later { .. } => "deferred",
            Self::NoKey => "source-key",
            Self::Store(_) => "store",
            Self::Broker(_) => "broker",
            Self::Superseded => "superseded",
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Self::Fetch(error) => error.http_status(),
            _ => None,
        }
    }

    fn verdict(self, now: DateTime<Utc>, enqueued: DateTime<Utc>) -> TaskError {
        match self {
            Self::Superseded | Self::NoKey => TaskError::fatal(self),
            Self::Source(Refused::Request) => TaskError::fatal(self),
            Self::Source(_) => self.into(),
            Self::Later { wait, .. } => TaskError::snooze(wait),
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
