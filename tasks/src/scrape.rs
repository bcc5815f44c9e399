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

use std::{collections::HashSet, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use umbel::{
    Context, End, Handler, RetryPolicy, StoreError, Task, TaskError, TaskOptions, TaskResult,
};
use url::Url;

use crate::{
    App, address, enqueue,
    error::{ScrapeError, told_of_end},
    fetch::{FetchError, FetchedPage, Hop, Reading},
    pages::{Attempt, PageRun, Place, Scraped, Trouble},
    paid::through_scraperapi,
    politeness::WAITED_FOR,
    robots::Robots,
    scraperapi::Source,
    visit::{Patience, visit},
};

/// As long as the slowest source may take for a page, and some more for the database.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(90);

/// Reads the metadata of one page and stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScrapePage {
    /// The address of the page.
    pub url: Url,
    /// Set by the scraper itself for the pages of its sites; it must be a page of the task's owner.
    /// Without it the page is read by itself, and no link is followed.
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
        let owner = ctx.run().owner.as_deref();
        let attempt = Attempt { page, owner, task_id: ctx.task_id(), attempt: ctx.run().attempt };
        let scraped = match pages.begin(&attempt, &self.url, ctx.run().enqueued).await? {
            Some(place) => self.scrape(&attempt, place, ctx).await,
            None => self.finish(&attempt, ctx).await,
        };
        let judged = match scraped {
            Ok(scraped) => return Ok(scraped),
            Err(error) => error.judge(ctx),
        };
        // Where no attempt follows, the end of the task writes the row, and only this one knows what
        // kind of error it was. Where it cannot be noted, the row says running for a while longer
        // than is true, and nothing rests on it.
        if let Err(error) = pages.again(&attempt, judged.trouble()).await {
            warn!(%error, "could not note why a page was not read");
        }
        Err(judged.verdict)
    }

    async fn ended(self, end: &End, ctx: &Context<App>) -> TaskResult<()> {
        if address::check(&self.url).is_err() {
            // It never had a row.
            return Ok(());
        }
        let (error, class) = told_of_end(end);
        let page = self.row(ctx).await?;
        let (task, url) = (Some(ctx.task_id()), Some(self.url.as_str()));
        let owner = ctx.run().owner.as_deref();
        Ok(ctx.app().pages.fail(page, owner, task, url, &error, class).await?)
    }
}

impl ScrapePage {
    async fn row(&self, ctx: &Context<App>) -> Result<PageRun, StoreError> {
        match self.page {
            Some(page) => Ok(page),
            None => ctx.app().pages.adopt(&self.url, ctx.run().owner.as_deref()).await,
        }
    }

    async fn scrape(
        &self,
        attempt: &Attempt<'_>,
        place: Place,
        ctx: &Context<App>,
    ) -> Result<ScrapedPage, ScrapeError> {
        let pages = &ctx.app().pages;
        let Place { site_id, depth, source, robots, sitemap, .. } = place;
        // A page that somebody asked for by itself is no visit of a crawler, and has none.
        let robots = robots.unwrap_or_default();
        if !robots.allow(&self.url) {
            return self
                .skip(attempt, site_id, "robots.txt of its host asks not to", "robots", ctx)
                .await;
        }
        let fetched = match self.fetch(source.unwrap_or_default(), &robots, attempt, ctx).await {
            // A link leads to a picture or a document as often as not: nothing is wrong with that.
            Err(ScrapeError::Fetch(error @ FetchError::NotHtml { .. })) if depth > 0 => {
                return self.skip(attempt, site_id, &error.to_string(), error.class(), ctx).await;
            }
            fetched => fetched?,
        };
        let scraped = self.found(fetched, depth, &robots, sitemap.unwrap_or_default());
        match pages.succeed(attempt, site_id, &scraped).await? {
            Some(0) => {}
            Some(_) => {
                enqueue::pending_pages(pages, ctx.client(), site_id).await?;
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

    async fn fetch(
        &self,
        source: Source,
        robots: &Robots,
        attempt: &Attempt<'_>,
        ctx: &Context<App>,
    ) -> Result<FetchedPage, ScrapeError> {
        let (app, url) = (ctx.app(), &self.url);
        let delay = robots.crawl_delay_s.map(Duration::from_secs_f32);
        let patience = Patience { delay, in_place: WAITED_FOR };
        let source = &source;
        visit(ctx, url, patience, TIME_LIMIT, |trail| async move {
            match source {
                Source::Direct => Ok(app.fetcher.read_page(&trail, Reading::Whole).await?),
                // It follows redirects itself.
                Source::ScraperApi(options) => {
                    through_scraperapi(app, url, options, attempt.page.id).await.map(Hop::Arrived)
                }
            }
        })
        .await
    }

    /// What is kept of the page, with the pages of its site that it leads to: those that its links
    /// name, and behind them, of a site's own page, what the sitemaps do. Where there are more than a
    /// run has places for, the links come first.
    fn found(
        &self,
        mut fetched: FetchedPage,
        depth: u32,
        robots: &Robots,
        sitemap: Vec<Url>,
    ) -> Scraped {
        // A site is where its own page leads to: `http://example.com` may be at home on https.
        let home = if depth == 0 { &fetched.final_url } else { &self.url }.origin();
        let links = &mut fetched.page.links;
        links.retain(|link| robots.allow(link));
        let mut known: HashSet<Url> = links.iter().chain([&fetched.final_url]).cloned().collect();
        links.extend(sitemap.into_iter().filter(|url| known.insert(url.clone())));
        Scraped::new(fetched, &home)
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
            return Err(ScrapeError::Superseded("page"));
        };
        if stored.site_id.is_some() {
            enqueue::pending_pages(pages, ctx.client(), stored.site_id).await?;
        }
        Ok(ScrapedPage { id: attempt.page.id, title: stored.title })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_alone_is_enough_over_http() {
        let task: ScrapePage = serde_json::from_str(r#"{"url": "https://example.com"}"#).unwrap();
        assert_eq!(task, ScrapePage { url: "https://example.com/".parse().unwrap(), page: None });
    }
}
