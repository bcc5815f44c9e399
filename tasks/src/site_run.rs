//! The run of a site in its row: claimed by a sweep, planned by a task of its own, ended by its pages.
//!
//! A claimed site is queued, and so is its own page pending, which nobody hands over before the plan
//! is stored. Each step names the site, its run and its task, so that a task that comes too late
//! changes nothing. The row of the site is always locked before those of its pages.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{StoreError, TaskId};
use url::Url;

use crate::{
    pages::Trouble,
    robots::Robots,
    scraperapi::Source,
    sites::{Sites, close},
    tables::reset_page,
};

/// A run of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteRun {
    /// The site's row.
    pub id: i64,
    /// Its number: when it was claimed, in ms since 1970.
    pub run: i64,
}

/// One attempt of a task to plan a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SiteAttempt<'a> {
    #[serde(flatten)]
    pub site: SiteRun,
    pub task_id: &'a TaskId,
    pub attempt: u32,
}

/// What somebody wants of the site that is to be planned.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SitePlace {
    pub source: Source,
    pub max_depth: u32,
    pub max_pages: u32,
}

impl SitePlace {
    /// Whether the pages are fetched from another network. The host may well not answer us then, and
    /// that it does not, or is asked too much by us, keeps nobody from reading them.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self.source, Source::ScraperApi(_))
    }
}

/// What the host of a site says before any page is read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Plan {
    /// What it asks of its visitors.
    pub robots: Robots,
    /// The pages that its sitemaps name.
    pub sitemap: Vec<Url>,
    /// Why one of these could not be read.
    pub sitemap_error: Option<String>,
}

impl Sites {
    /// Marks the site as running, and takes its row from any other task. `None`: there is nothing to
    /// plan, because the run is planned, or because it is not the run of a site at this address.
    pub async fn begin(
        &self,
        attempt: &SiteAttempt<'_>,
        url: &Url,
        queued_at: DateTime<Utc>,
    ) -> Result<Option<SitePlace>, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            attempt: &'a SiteAttempt<'a>,
            url: &'a str,
            queued_at: DateTime<Utc>,
        }
        let params = Params { attempt, url: url.as_str(), queued_at };
        self.db
            .transaction(async |tx| {
                let place: Option<SitePlace> = tx.row(BEGIN, &params).await?;
                if place.is_some() {
                    tx.execute(REOPEN, &attempt.site.id).await?;
                }
                Ok(place)
            })
            .await
    }

    /// Whether the run is still that of the site, and planned.
    pub async fn is_planned(&self, site: SiteRun) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Found {
            found: bool,
        }
        let found: Option<Found> = self.db.row(IS_PLANNED, &site).await?;
        Ok(found.is_some_and(|it| it.found))
    }

    /// Stores the plan, with which the site's own page may be handed over. Whether it was: not, if
    /// the row is not waiting for this task any more.
    pub async fn plan(&self, attempt: &SiteAttempt<'_>, plan: &Plan) -> Result<bool, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            attempt: &'a SiteAttempt<'a>,
            #[serde(flatten)]
            plan: &'a Plan,
        }
        self.db
            .transaction(async |tx| {
                let planned = tx.execute(PLAN, &Params { attempt, plan }).await? > 0;
                if planned {
                    tx.execute(OWN_PAGE, &attempt.site.id).await?;
                }
                Ok(planned)
            })
            .await
    }

    /// Says why this attempt came to nothing; the site waits for the next one.
    pub async fn again(
        &self,
        attempt: &SiteAttempt<'_>,
        trouble: Trouble<'_>,
    ) -> Result<(), StoreError> {
        self.db.execute(AGAIN, &Told { attempt, trouble, robots: None }).await.map(drop)
    }

    /// Ends a run whose host does not want any page of it to be read.
    pub async fn skip(
        &self,
        attempt: &SiteAttempt<'_>,
        robots: &Robots,
        trouble: Trouble<'_>,
    ) -> Result<(), StoreError> {
        let told = Told { attempt, trouble, robots: Some(robots) };
        self.db
            .transaction(async |tx| {
                if tx.execute(SKIP, &told).await? > 0 {
                    tx.execute(OWN_PAGE_ENDS, &attempt.site.id).await?;
                    close(tx, attempt.site.id).await?;
                }
                Ok(())
            })
            .await
    }

    /// Gives the run up, unless it was planned: then its pages tell how it ends. The site must be in
    /// the hands of this task, or of none yet and at this address. Without a class that of the last attempt stays, or it is
    /// `task`: its task ended by an accident of its own.
    pub async fn fail(
        &self,
        site: SiteRun,
        task_id: Option<&TaskId>,
        url: Option<&str>,
        error: &str,
        error_class: Option<&str>,
    ) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            site: SiteRun,
            task_id: Option<&'a TaskId>,
            url: Option<&'a str>,
            error: &'a str,
            error_class: Option<&'a str>,
        }
        let params = Params { site, task_id, url, error, error_class };
        self.db
            .transaction(async |tx| {
                if tx.execute(FAIL, &params).await? > 0 {
                    tx.execute(OWN_PAGE_ENDS, &site.id).await?;
                    close(tx, site.id).await?;
                }
                Ok(())
            })
            .await
    }
}

/// What an attempt came to.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    attempt: &'a SiteAttempt<'a>,
    #[serde(flatten)]
    trouble: Trouble<'a>,
    robots: Option<&'a Robots>,
}

const BEGIN: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, url text, task_id text, attempt int, queued_at timestamptz)
)
update sites set
    status = 'running', attempt = p.attempt, task_id = p.task_id, queued_at = p.queued_at,
    error_class = null, updated_at = now()
from p
where sites.id = p.id and sites.run = p.run and sites.url = p.url and planned_at is null
returning source, max_depth, max_pages";

/// A dead letter that was redriven finds the page failed with it.
const REOPEN: &str = "
update pages set
    status = 'pending', error = null, error_class = null, finished_at = null, updated_at = now()
from sites
where sites.id = ({params})::bigint and pages.site_id = sites.id and pages.url = sites.url
    and pages.run = sites.run and pages.status = 'failed'";

const IS_PLANNED: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (id bigint, run bigint)
)
select exists (
    select from sites, p
    where sites.id = p.id and sites.run = p.run and planned_at is not null
) as found";

const PLAN: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, robots jsonb, sitemap jsonb, sitemap_error text)
)
update sites set
    robots = p.robots, sitemap = p.sitemap, sitemap_error = p.sitemap_error, planned_at = now(),
    error = null, error_class = null, http_status = null, updated_at = now()
from p
where sites.id = p.id and sites.run = p.run and sites.task_id = p.task_id and planned_at is null";

/// The claim has made it already, unless somebody has changed the rows since.
const OWN_PAGE: &str = concat!(
    "insert into pages (site_id, url, owner, run)
     select id, url, owner, run from sites where id = ({params})::bigint
     on conflict (site_id, url) do update set ",
    reset_page!()
);

const AGAIN: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, attempt int, error text, error_class text,
              error_status int)
)
update sites set
    status = 'queued', error = p.error, error_class = p.error_class,
    http_status = p.error_status, updated_at = now()
from p
where sites.id = p.id and sites.run = p.run and sites.task_id = p.task_id
    and sites.attempt = p.attempt and status = 'running' and planned_at is null";

const SKIP: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, robots jsonb, error text, error_class text)
)
update sites set
    status = 'skipped', error = p.error, error_class = p.error_class, http_status = null,
    robots = p.robots, planned_at = now(), updated_at = now()
from p
where sites.id = p.id and sites.run = p.run and sites.task_id = p.task_id and planned_at is null";

const FAIL: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, url text, error text, error_class text)
)
update sites set
    status = 'failed', error = p.error,
    error_class = coalesce(p.error_class, sites.error_class, 'task'),
    task_id = coalesce(sites.task_id, p.task_id), updated_at = now()
from p
where sites.id = p.id and sites.run = p.run and planned_at is null
    and status in ('queued', 'running')
    and (sites.task_id = p.task_id or sites.task_id is null and sites.url = p.url)";

/// A page that was never visited ends as its site did.
const OWN_PAGE_ENDS: &str = "
update pages set
    status = sites.status, attempt = sites.attempt, error = sites.error,
    error_class = sites.error_class, http_status = coalesce(sites.http_status, pages.http_status),
    finished_at = now(), updated_at = now()
from sites
where sites.id = ({params})::bigint and pages.site_id = sites.id and pages.url = sites.url
    and pages.run = sites.run and pages.status = 'pending'";
