//! The table `pages`: every page of every site, where it stands, and what it says about itself.
//!
//! A row is pending → queued → running → succeeded or failed, and queued again between attempts.
//! Each step is a statement or a short transaction of its own; none is open while a page is
//! fetched. A step names the page and its run, so that a task that comes too late changes nothing.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{Db, StoreError, TaskId, Tx};
use url::Url;

use crate::{
    fetch::FetchedPage, metadata::PageMetadata, robots::Robots, scraperapi::Source, sites,
    tables::reset_page,
};

/// The pages, in Postgres.
#[derive(Clone, Debug)]
pub struct Pages {
    pub(crate) db: Db,
}

/// A page in a run of its site. Of a page that was asked for by itself the run is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PageRun {
    /// The page's row.
    pub id: i64,
    /// The run of its site that found it.
    pub run: i64,
}

/// One attempt of a task at a page.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Attempt<'a> {
    #[serde(flatten)]
    pub page: PageRun,
    /// Whose task it is. Who else may name a page and its run has no business with it.
    pub owner: Option<&'a str>,
    pub task_id: &'a TaskId,
    pub attempt: u32,
}

/// What is kept of a page that was read, and the pages it leads to.
#[derive(Debug, Clone, Serialize)]
pub struct Scraped {
    pub http_status: u16,
    pub bytes: usize,
    pub truncated: bool,
    pub final_url: Url,
    pub content_hash: String,
    pub metadata: PageMetadata,
    /// Further pages of the same site, in the order of the page.
    pub links: Vec<Url>,
}

impl Scraped {
    /// What was fetched, with only those of its links that lie on the site of `origin`: a page may
    /// redirect to a site that nobody asked for.
    pub fn new(fetched: FetchedPage, origin: &url::Origin) -> Self {
        let FetchedPage { status, final_url, page, bytes, content_hash, truncated } = fetched;
        let links = page.links.into_iter().filter(|link| link.origin() == *origin).collect();
        let metadata = page.metadata;
        Self { http_status: status, bytes, truncated, final_url, content_hash, metadata, links }
    }
}

impl Pages {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// The row of a page that somebody asks for by itself, made if there is none.
    pub async fn adopt(&self, url: &Url, owner: Option<&str>) -> Result<PageRun, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            url: &'a str,
            owner: Option<&'a str>,
        }
        let params = Params { url: url.as_str(), owner };
        let page: Option<PageRun> = self.db.row(ADOPT, &params).await?;
        Ok(page.expect("an upsert without a condition gives its row"))
    }

    /// Marks the page as running, and takes its row from any other task. `None`: there is nothing
    /// to do, because this task has stored the page of a site already, or because it is not the
    /// page of this address and owner in this run.
    pub async fn begin(
        &self,
        attempt: &Attempt<'_>,
        url: &Url,
        queued_at: DateTime<Utc>,
    ) -> Result<Option<Place>, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            attempt: &'a Attempt<'a>,
            url: &'a str,
            queued_at: DateTime<Utc>,
        }
        let params = Params { attempt, url: url.as_str(), queued_at };
        self.db.row(BEGIN, &params).await
    }

    /// What this task has stored of the page, if it has.
    pub async fn stored(&self, attempt: &Attempt<'_>) -> Result<Option<Place>, StoreError> {
        self.db.row(STORED, attempt).await
    }

    /// Stores what was read and enters the pages that it leads to as pending, within the limits of
    /// its site. Returns how many those are; `None` if the row is not waiting for this task any
    /// more: another run of it was faster, or another task has begun the page.
    pub async fn succeed(
        &self,
        attempt: &Attempt<'_>,
        site_id: Option<i64>,
        scraped: &Scraped,
    ) -> Result<Option<u64>, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            attempt: &'a Attempt<'a>,
            #[serde(flatten)]
            scraped: &'a Scraped,
        }
        let params = Params { attempt, scraped };
        self.db
            .transaction(async |tx| {
                if let Some(site) = site_id {
                    sites::lock(tx, site).await?;
                }
                if tx.execute(SUCCEED, &params).await? == 0 {
                    return Ok(None);
                }
                let Some(site) = site_id else { return Ok(Some(0)) };
                let found = match scraped.links.is_empty() {
                    true => 0,
                    false => tx.execute(FOLLOW, &params).await?,
                };
                if found == 0 {
                    sites::close(tx, site).await?;
                }
                Ok(Some(found))
            })
            .await
    }

    /// Says why this attempt came to nothing; the page waits for the next one.
    pub async fn again(
        &self,
        attempt: &Attempt<'_>,
        trouble: Trouble<'_>,
    ) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            attempt: &'a Attempt<'a>,
            #[serde(flatten)]
            trouble: Trouble<'a>,
        }
        self.db.execute(AGAIN, &Params { attempt, trouble }).await.map(drop)
    }

    /// Whether the page is still one of that run, in the hands of another task by now.
    pub async fn is_another_ones(&self, attempt: &Attempt<'_>) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Found {
            found: bool,
        }
        let found: Option<Found> = self.db.row(ANOTHER_ONES, attempt).await?;
        Ok(found.is_some_and(|it| it.found))
    }

    /// Ends a page that need not or must not be read.
    pub async fn skip(
        &self,
        attempt: &Attempt<'_>,
        site_id: Option<i64>,
        trouble: Trouble<'_>,
    ) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            attempt: &'a Attempt<'a>,
            #[serde(flatten)]
            trouble: Trouble<'a>,
        }
        let params = Params { attempt, trouble };
        self.db.transaction(async |tx| end(tx, site_id, SKIP, &params).await).await
    }

    /// Gives the page up, unless it was stored. It must be in the hands of this task, or of none
    /// yet and at this address and the owner's. Without a class that of its last attempt stays,
    /// or it is `task`: its task ended by an accident of its own.
    pub async fn fail(
        &self,
        page: PageRun,
        owner: Option<&str>,
        task_id: Option<&TaskId>,
        url: Option<&str>,
        error: &str,
        error_class: Option<&str>,
    ) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            page: PageRun,
            owner: Option<&'a str>,
            task_id: Option<&'a TaskId>,
            url: Option<&'a str>,
            error: &'a str,
            error_class: Option<&'a str>,
        }
        #[derive(Deserialize)]
        struct Of {
            site_id: Option<i64>,
        }
        let params = Params { page, owner, task_id, url, error, error_class };
        self.db
            .transaction(async |tx| {
                let of: Option<Of> = tx.row(SITE_OF, &page.id).await?;
                end(tx, of.and_then(|of| of.site_id), FAIL, &params).await
            })
            .await
    }
}

/// Ends a page as `sql` has it, and with it the run of its site, if it was the last one.
async fn end(
    tx: &mut Tx,
    site_id: Option<i64>,
    sql: &'static str,
    params: &impl Serialize,
) -> Result<(), StoreError> {
    if let Some(site) = site_id {
        sites::lock(tx, site).await?;
    }
    tx.execute(sql, params).await?;
    match site_id {
        Some(site) => sites::close(tx, site).await,
        None => Ok(()),
    }
}

/// Where a page lies, and its title once that is known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Place {
    pub site_id: Option<i64>,
    pub depth: u32,
    pub title: Option<String>,
    /// How its site is fetched.
    #[serde(default)]
    pub source: Option<Source>,
    /// What its host asked for when the run was planned.
    #[serde(default)]
    pub robots: Option<Robots>,
    /// Of a site's own page: the pages that its sitemaps name.
    #[serde(default)]
    pub sitemap: Option<Vec<Url>>,
}

/// What went wrong, for a row.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Trouble<'a> {
    pub error: &'a str,
    /// One word for it.
    pub error_class: Option<&'a str>,
    /// The status that the host answered with.
    pub error_status: Option<u16>,
}

const ADOPT: &str = "
insert into pages (url, owner)
select url, owner from jsonb_to_record({params}) as p (url text, owner text)
on conflict (owner, url) where site_id is null do update set updated_at = now()
returning id, run";

/// A page without a site is read again by a task that has stored it: between two statements its
/// row may go to another task, and then nothing tells that it was stored.
const BEGIN: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, url text, owner text, task_id text, attempt int,
              queued_at timestamptz)
)
update pages set
    status = 'running', attempt = p.attempt, task_id = p.task_id, queued_at = p.queued_at,
    error_class = null, started_at = now(), finished_at = null, updated_at = now()
from p
where pages.id = p.id and pages.run = p.run and pages.url = p.url
    and pages.owner is not distinct from p.owner
    and (status <> 'succeeded' or pages.task_id is distinct from p.task_id or site_id is null)
returning site_id, depth, title,
    (select source from sites where sites.id = pages.site_id) as source,
    (select robots from sites where sites.id = pages.site_id) as robots,
    (select sitemap from sites where sites.id = pages.site_id and pages.depth = 0) as sitemap";

const STORED: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (id bigint, run bigint, task_id text)
)
select site_id, depth, title from pages, p
where pages.id = p.id and pages.run = p.run and pages.task_id = p.task_id
    and status = 'succeeded'";

const SUCCEED: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, attempt int, http_status int, bytes int,
              truncated bool, final_url text, content_hash text, metadata jsonb)
)
update pages set
    status = 'succeeded', attempt = p.attempt, error = null, error_class = null, finished_at = now(),
    updated_at = now(), http_status = p.http_status, bytes = p.bytes, truncated = p.truncated,
    title = metadata->>'title', description = metadata->>'description',
    canonical = metadata->>'canonical', language = metadata->>'language',
    open_graph = metadata->'open_graph', twitter = metadata->'twitter',
    icons = metadata->'icons', json_ld_types = metadata->'json_ld_types',
    robots = metadata->>'robots', final_url = p.final_url, content_hash = p.content_hash,
    language_guess = metadata->>'language_guess', charset = metadata->>'charset',
    generator = metadata->>'generator', feeds = metadata->'feeds',
    alternates = metadata->'alternates', microdata_types = metadata->'microdata_types',
    things = metadata->'things', contacts = metadata->'contacts',
    links_internal = (metadata->'link_counts'->>'internal')::bigint,
    links_external = (metadata->'link_counts'->>'external')::bigint,
    links_nofollow = (metadata->'link_counts'->>'nofollow')::bigint
from p
where pages.id = p.id and pages.run = p.run and pages.task_id = p.task_id
    and status <> 'succeeded'";

/// The site is locked, so nobody else adds pages to the run while these are counted and chosen.
/// What is in the run already is passed over, and not only left alone by the conflict: that would
/// lock rows on which other tasks are at work.
const FOLLOW: &str = concat!(
    "with p as materialized (
        select * from jsonb_to_record({params}) as p (id bigint, run bigint, links jsonb)
    ),
    from_page as materialized (
        select site.id as site_id, site.owner, site.run, pages.depth + 1 as depth, links, max_pages
        from p join pages using (id, run)
        join sites site on site.id = pages.site_id and site.run = pages.run
        where pages.depth < site.max_depth
    )
    insert into pages (site_id, url, owner, run, depth)
    select site_id, link.url, owner, run, depth
    from from_page, jsonb_array_elements_text(links) with ordinality as link (url, place)
    where not exists (
        select from pages known
        where known.site_id = from_page.site_id and known.url = link.url
            and known.run = from_page.run
    )
    order by place
    limit (
        select greatest(0, max_pages - (
            select count(*) from pages
            where pages.site_id = from_page.site_id and pages.run = from_page.run
        ))
        from from_page
    )
    on conflict (site_id, url) do update set ",
    reset_page!()
);

const AGAIN: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, attempt int, error text, error_class text,
              error_status int)
)
update pages set
    status = 'queued', error = p.error, error_class = p.error_class,
    http_status = coalesce(p.error_status, pages.http_status), updated_at = now()
from p
where pages.id = p.id and pages.run = p.run and pages.task_id = p.task_id
    and pages.attempt = p.attempt and status = 'running'";

const SKIP: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, task_id text, error text, error_class text)
)
update pages set
    status = 'skipped', error = p.error, error_class = p.error_class, finished_at = now(),
    updated_at = now()
from p
where pages.id = p.id and pages.run = p.run and pages.task_id = p.task_id
    and status <> 'succeeded'";

const ANOTHER_ONES: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (id bigint, run bigint, task_id text)
)
select exists (
    select from pages, p
    where pages.id = p.id and pages.run = p.run and pages.task_id <> p.task_id
) as found";

const SITE_OF: &str = "select site_id from pages where id = ({params})::bigint";

const FAIL: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, run bigint, owner text, task_id text, url text, error text,
              error_class text)
)
update pages set
    status = 'failed', error = p.error,
    error_class = coalesce(p.error_class, pages.error_class, 'task'), task_id = coalesce(pages.task_id, p.task_id),
    finished_at = now(), updated_at = now()
from p
where pages.id = p.id and pages.run = p.run and status <> 'succeeded'
    and (pages.task_id = p.task_id or pages.task_id is null and pages.url = p.url
        and pages.owner is not distinct from p.owner)";
