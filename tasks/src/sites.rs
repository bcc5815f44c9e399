//! The table `sites`: what is to be scraped, how far, and when again.

use serde::{Deserialize, Serialize};
use umbel::{Db, StoreError, Tx};
use url::Url;

use crate::{scraperapi::Source, tables::reset_page};

/// How many sites one statement claims: a moment of work, so that a sweep beside it never waits.
const CLAIM_BATCH: u64 = 100;

/// The sites, in Postgres.
#[derive(Clone, Debug)]
pub struct Sites {
    pub(crate) db: Db,
}

/// What somebody wants of a site. What is `None` keeps its value, or takes the default if the site
/// is new.
#[derive(Debug, Clone, Serialize)]
pub struct SiteOptions {
    pub url: Url,
    /// Whose site it is; the same address may be a site of others too. `None`: nobody's.
    pub owner: Option<String>,
    /// How many links away from the site's own page others are followed. Default 3.
    pub max_depth: Option<u32>,
    /// How many pages are scraped in one run, the site's own included. Default 100.
    pub max_pages: Option<u32>,
    /// How often it is due, in seconds. Default: as the settings say.
    pub every_s: Option<u32>,
    /// How it is fetched. Default by us.
    pub source: Option<Source>,
}

/// A site that was put into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Put {
    pub id: i64,
    /// It was not there before.
    pub created: bool,
}

impl Sites {
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Enters a site, or changes the options of the one that its owner has at this address, and makes
    /// it due.
    /// A run that is under way goes on; the next one comes after it.
    pub async fn put(&self, options: &SiteOptions, every_s: u32) -> Result<Put, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            options: &'a SiteOptions,
            default_every_s: u32,
        }
        self.db
            .transaction(async |tx| {
                let params = Params { options, default_every_s: every_s };
                let put: Option<Put> = tx.row(PUT, &params).await?;
                let put = put.expect("an upsert without a condition gives its row");
                tx.execute(PUT_PAGE, &put.id).await?;
                Ok(put)
            })
            .await
    }

    /// Begins a run of every site that is due and has none under way: it is queued and its own page
    /// pending then, and the site is due again one period from now. Returns how many.
    ///
    /// Any number may do this at once: a site is claimed by one of them.
    pub async fn claim_due(&self) -> Result<u64, StoreError> {
        let mut claimed = 0;
        loop {
            let batch = self.db.execute(CLAIM, &CLAIM_BATCH).await?;
            claimed += batch;
            // What was claimed is not due any more, so this ends.
            if batch < CLAIM_BATCH {
                return Ok(claimed);
            }
        }
    }
}

/// Keeps everybody else from changing which pages the site has. Every transaction that writes
/// pages of a site begins with it: two last pages that end at once would otherwise each see the
/// other one open, two that find links would both take the last free place, and two that lock
/// their rows in different order would wait for each other.
pub(crate) async fn lock(tx: &mut Tx, site: i64) -> Result<(), StoreError> {
    let lock = "select from sites where id = ({params})::bigint for update";
    tx.execute(lock, &site).await.map(drop)
}

/// Ends the run of a site once none of its pages is open; the site's own page tells how it ended.
/// What its sitemaps name has been followed by then. The site must be locked.
pub(crate) async fn close(tx: &mut Tx, site: i64) -> Result<(), StoreError> {
    tx.execute(CLOSE, &site).await.map(drop)
}

/// `xmax` is zero in a row that no statement has changed yet: it was inserted.
const PUT: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (url text, owner text, max_depth int, max_pages int, every_s int, default_every_s int,
              source jsonb)
)
insert into sites as s (url, owner, max_depth, max_pages, every_s, source)
select url, owner, coalesce(max_depth, 3), coalesce(max_pages, 100), coalesce(every_s, default_every_s),
    coalesce(source, '\"direct\"')
from p
on conflict (owner, url) do update set
    max_depth = coalesce((select max_depth from p), s.max_depth),
    max_pages = coalesce((select max_pages from p), s.max_pages),
    every_s = coalesce((select every_s from p), s.every_s),
    source = coalesce((select source from p), s.source),
    status = case when s.status in ('queued', 'running') then s.status else 'pending' end,
    next_due = now(),
    updated_at = now()
returning id, xmax = 0 as created";

/// A site that waits has its page waiting too, for the counts to tell so. The page belongs to the
/// run that is to come, and so nobody enqueues it before the site is claimed.
const PUT_PAGE: &str = concat!(
    "insert into pages (site_id, url, owner, run)
     select id, url, owner, run + 1 from sites where id = ({params})::bigint and status = 'pending'
     on conflict (site_id, url) do update set ",
    reset_page!()
);

/// The number of a run is its time in ms: were it a plain count, tables that were restored from a
/// backup would count the same numbers again, and their tasks would pass for those that the
/// broker remembers.
///
/// Pages decide whether a run is under way: a page whose dead letter was redriven opens it again.
/// A due time may be written by hand, and need not be one that a clock can show.
const CLAIM: &str = concat!(
    "with due as (
        select id, greatest(next_due, to_timestamp(0)) as due_at from sites
        where next_due <= now() and not exists (
            select from pages
            where pages.site_id = sites.id and pages.run = sites.run
                and pages.status in ('pending', 'queued', 'running')
        )
        order by next_due
        limit ({params})::bigint
        for update skip locked
    ),
    claimed as (
        update sites set
            run = greatest(run + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint),
            due_at = due.due_at, next_due = now() + make_interval(secs => every_s),
            status = 'queued', task_id = null, queued_at = null, planned_at = null, attempt = 0,
            error = null, error_class = null, http_status = null,
            sitemap = null, sitemap_error = null, updated_at = now()
        from due where sites.id = due.id
        returning sites.id, url, owner, run
    )
    insert into pages (site_id, url, owner, run)
    select id, url, owner, run from claimed
    on conflict (site_id, url) do update set ",
    reset_page!()
);

const CLOSE: &str = "
update sites set
    status = own.status, error = own.error, error_class = own.error_class,
    attempt = own.attempt, http_status = own.http_status, sitemap = null,
    last_scraped_at = now(), updated_at = now()
from pages own
where sites.id = ({params})::bigint
    and own.site_id = sites.id and own.url = sites.url and own.run = sites.run
    and not exists (
        select from pages
        where pages.site_id = sites.id and pages.run = sites.run
            and pages.status in ('pending', 'queued', 'running')
    )";
