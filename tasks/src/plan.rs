//! The task `sites.scrape`: plans a run of a site, and hands its own page over.
//!
//! It asks the host what it wants of visitors (robots.txt) and which pages there are (sitemaps), and
//! keeps both in the row of the site. The own page comes first, because it tells where the site is at
//! home, and its links before what the sitemaps name; the task that reads it enters both.
//!
//! What is left behind where its worker dies, and who goes on:
//!
//! - before the plan is stored: a row that is running. The task, in its next delivery, plans again.
//! - after that: the own page as a pending row. The task finds its run planned and enqueues it.
//! - after it is enqueued: the task, or the next sweep, enqueues it under the same key, which names
//!   the same task.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::warn;
use umbel::{Context, End, Handler, RetryPolicy, Task, TaskError, TaskOptions, TaskResult};
use url::Url;

use crate::{
    App, address, enqueue,
    error::{ScrapeError, chain, told_of_end},
    fetch::{FetchError, Hop},
    pages::Trouble,
    politeness::WAITED_FOR,
    robots::{MAX_FILE_BYTES, Robots},
    site_run::{Plan, SiteAttempt, SitePlace, SiteRun},
    sitemap::{self, Maps},
    visit::{Patience, visit},
};

/// How long a host may take to say what it asks of visitors.
const ROBOTS_TIMEOUT: Duration = Duration::from_secs(10);

/// For the turns at the host, and for the database.
const AROUND: Duration = Duration::from_secs(20);

const TIME_LIMIT: Duration =
    Duration::from_secs(ROBOTS_TIMEOUT.as_secs() + sitemap::TIMEOUT.as_secs() + AROUND.as_secs());

/// Plans a run of a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScrapeSite {
    /// The address of the site.
    pub url: Url,
    /// The run that a sweep has begun.
    pub site: SiteRun,
}

/// A site that was planned; the pages that were read of it are in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedSite {
    /// The site's row.
    pub id: i64,
    /// How many pages its sitemaps name, of those that a run has places for.
    pub named: usize,
}

impl Task for ScrapeSite {
    const NAME: &'static str = "sites.scrape";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT
        .queue("scrape")
        .max_attempts(5)
        .time_limit(TIME_LIMIT)
        .retry(RetryPolicy::exponential(Duration::from_secs(1), Duration::from_secs(60)));
    type Output = PlannedSite;
}

impl Handler<App> for ScrapeSite {
    async fn run(self, ctx: &Context<App>) -> TaskResult<PlannedSite> {
        let sites = &ctx.app().sites;
        if let Err(refusal) = address::check(&self.url) {
            return Err(TaskError::fatal(refusal));
        }
        let attempt =
            SiteAttempt { site: self.site, task_id: ctx.task_id(), attempt: ctx.run().attempt };
        let planned = match sites.begin(&attempt, &self.url, ctx.run().enqueued).await? {
            Some(place) => self.plan(&attempt, place, ctx).await,
            None => self.finish(ctx, 0).await,
        };
        let judged = match planned {
            Ok(planned) => return Ok(planned),
            Err(error) => error.judge(ctx),
        };
        // Where no attempt follows, the end of the task writes the row, and only this one knows what
        // kind of error it was. Where it cannot be noted, the row says running for a while longer
        // than is true, and nothing rests on it.
        if let Err(error) = sites.again(&attempt, judged.trouble()).await {
            warn!(%error, "could not note why a site was not planned");
        }
        Err(judged.verdict)
    }

    async fn ended(self, end: &End, ctx: &Context<App>) -> TaskResult<()> {
        let (error, class) = told_of_end(end);
        let (task, url) = (Some(ctx.task_id()), Some(self.url.as_str()));
        Ok(ctx.app().sites.fail(self.site, task, url, &error, class).await?)
    }
}

impl ScrapeSite {
    async fn plan(
        &self,
        attempt: &SiteAttempt<'_>,
        place: SitePlace,
        ctx: &Context<App>,
    ) -> Result<PlannedSite, ScrapeError> {
        let sites = &ctx.app().sites;
        let robots = self.robots(&place, ctx).await?;
        if !robots.allow(&self.url) {
            let error = "robots.txt of its host asks not to";
            let trouble = Trouble { error, error_class: Some("robots"), error_status: None };
            sites.skip(attempt, &robots, trouble).await?;
            return Ok(PlannedSite { id: self.site.id, named: 0 });
        }
        // The own page has the first place of a run.
        let others = match place.max_depth {
            0 => 0,
            _ => place.max_pages.saturating_sub(1) as usize,
        };
        let maps = self.sitemaps(&place, &robots, others, ctx).await?;
        let named = maps.pages.len();
        let plan = Plan { robots, sitemap: maps.pages, sitemap_error: maps.error };
        sites.plan(attempt, &plan).await?;
        self.finish(ctx, named).await
    }

    /// Hands the own page over, which an earlier delivery may have done.
    async fn finish(&self, ctx: &Context<App>, named: usize) -> Result<PlannedSite, ScrapeError> {
        let App { sites, pages, .. } = ctx.app();
        if !sites.is_planned(self.site).await? {
            return Err(ScrapeError::Superseded("site"));
        }
        enqueue::pending_pages(pages, ctx.client(), Some(self.site.id)).await?;
        Ok(PlannedSite { id: self.site.id, named })
    }

    /// What the host asks of its visitors.
    async fn robots(&self, place: &SitePlace, ctx: &Context<App>) -> Result<Robots, ScrapeError> {
        let App { fetcher, settings, .. } = ctx.app();
        let at = self.url.join("/robots.txt").map_err(|_| FetchError::BadRedirect)?;
        let patience = Patience { delay: None, in_place: WAITED_FOR };
        let reading = visit(ctx, &at, patience, ROBOTS_TIMEOUT, |trail| async move {
            let mut file = Vec::new();
            let reading = fetcher.read_file(&trail, MAX_FILE_BYTES, |bytes| {
                file.extend_from_slice(bytes);
                ControlFlow::Continue(())
            });
            match reading.await {
                Ok(hop) => Ok(hop.map(|_| file)),
                // Another network visits the host, which need not answer us.
                Err(_) if place.is_foreign() => Ok(Hop::Arrived(Vec::new())),
                Err(error) => Err(ScrapeError::Fetch(error)),
            }
        });
        let file = match reading.await {
            // There is none, or no address of this host is ever asked: its page will say so.
            Err(ScrapeError::Fetch(error)) if error.is_fatal() || place.is_foreign() => Vec::new(),
            Err(ScrapeError::Fetch(error)) => return Err(ScrapeError::Robots(error)),
            read => read?,
        };
        Ok(Robots::parse(&String::from_utf8_lossy(&file), &settings.fetch.user_agent))
    }

    /// The pages that the sitemaps name, at most `wanted`, and what was wrong with a map. Each map is
    /// a visit; what was read when the time is over counts.
    async fn sitemaps(
        &self,
        place: &SitePlace,
        robots: &Robots,
        wanted: usize,
        ctx: &Context<App>,
    ) -> Result<Maps, ScrapeError> {
        let mut maps = Maps::new(&self.url, &robots.sitemaps, wanted);
        let until = Instant::now() + sitemap::TIMEOUT;
        while let Some(file) = maps.next() {
            let left = until.saturating_duration_since(Instant::now());
            // What a host wants between two pages it hardly wants before it has named them.
            let patience = Patience { delay: None, in_place: left };
            let reading = visit(ctx, &file, patience, left, |trail| async move {
                match sitemap::read(&ctx.app().fetcher, &trail).await {
                    Ok(hop) => Ok(hop.map(Ok)),
                    Err(error) if place.is_foreign() => Ok(Hop::Arrived(Err(error))),
                    Err(error) => Err(ScrapeError::Fetch(error)),
                }
            });
            match timeout(left, reading).await {
                Ok(Ok(Ok(found))) => maps.take(found, |url| robots.allow(url)),
                Ok(Ok(Err(error)) | Err(ScrapeError::Fetch(error))) => {
                    maps.miss(&file, &chain(&error), error.is_fatal());
                }
                // The links of the site are followed all the same.
                Ok(Err(ScrapeError::Later { why, .. })) => {
                    maps.miss(&file, &why, false);
                    break;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let late = format!("the sitemaps took longer than {:?}", sitemap::TIMEOUT);
                    maps.miss(&file, &late, false);
                    break;
                }
            }
        }
        Ok(maps)
    }
}
