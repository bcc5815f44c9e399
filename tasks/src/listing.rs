//! What is shown of the tables.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use umbel::StoreError;
use utoipa::ToSchema;

use crate::{pages::Pages, scraperapi::Source, sites::Sites, tables::Status};

/// A site and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    pub id: i64,
    #[schema(example = "https://example.com/")]
    pub url: String,
    /// Whose it is; absent of one that was written by hand.
    pub owner: Option<String>,
    pub status: Status,
    /// How many links away from the site's own page others are followed.
    pub max_depth: u32,
    /// How many pages are scraped in one run.
    pub max_pages: u32,
    /// How often it is due, in seconds.
    pub every_s: u32,
    pub next_due: DateTime<Utc>,
    pub last_scraped_at: Option<DateTime<Utc>>,
    /// When its latest run came due.
    pub due_at: Option<DateTime<Utc>>,
    /// The task that plans or planned its latest run.
    pub task_id: Option<String>,
    /// Which attempt that task is at, or that of its own page ended with; the first is 1.
    pub attempt: u32,
    /// Why it could not be planned yet or at all, or its own page not be read.
    pub error: Option<String>,
    /// One word for that, such as `timeout`.
    pub error_class: Option<String>,
    /// The status of its own page, or of its robots.txt where that could not be read.
    pub http_status: Option<u16>,
    /// Why one of its sitemaps could not be read; its links are followed all the same.
    pub sitemap_error: Option<String>,
    /// How it is fetched.
    pub source: Source,
    /// How the pages of its latest run stand.
    pub pages: PageCounts,
}

/// How many pages are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PageCounts {
    pub pending: u64,
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// A page as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page {
    pub id: i64,
    /// Absent of a page that was asked for by itself.
    pub site_id: Option<i64>,
    #[schema(example = "https://example.com/")]
    pub url: String,
    /// Whose it is; absent of one of a site that was written by hand.
    pub owner: Option<String>,
    /// How many links away from the site's own page it was found first.
    pub depth: u32,
    pub status: Status,
    /// Which attempt its task is at, or ended with; the first is 1.
    pub attempt: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// One word for that, such as `timeout`.
    pub error_class: Option<String>,
    pub task_id: Option<String>,
    pub queued_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub http_status: Option<u16>,
    pub title: Option<String>,
    pub description: Option<String>,
    pub canonical: Option<String>,
    pub language: Option<String>,
    pub open_graph: Option<BTreeMap<String, String>>,
    pub twitter: Option<BTreeMap<String, String>>,
    /// `href`, `rel` and `sizes` of each.
    #[schema(value_type = Option<Vec<Object>>)]
    pub icons: Option<Value>,
    pub json_ld_types: Option<Vec<String>>,
    /// Where it was in the end, after redirects.
    pub final_url: Option<String>,
    /// SHA-256 of what was read of it.
    pub content_hash: Option<String>,
    pub language_guess: Option<String>,
    pub charset: Option<String>,
    pub generator: Option<String>,
    /// `href`, `type` and `title` of each.
    #[schema(value_type = Option<Vec<Object>>)]
    pub feeds: Option<Value>,
    /// `href` and `language` of each.
    #[schema(value_type = Option<Vec<Object>>)]
    pub alternates: Option<Value>,
    pub microdata_types: Option<Vec<String>>,
    /// `kind`, `type` and `properties` of each organisation, product and article.
    #[schema(value_type = Option<Vec<Object>>)]
    pub things: Option<Value>,
    /// `emails`, `phones` and `social`.
    #[schema(value_type = Option<Object>)]
    pub contacts: Option<Value>,
    pub robots: Option<String>,
    pub links_internal: Option<u32>,
    pub links_external: Option<u32>,
    pub links_nofollow: Option<u32>,
    /// How many bytes of it were read.
    pub bytes: Option<u64>,
    /// Whether there was more of it.
    pub truncated: Option<bool>,
}

/// Which sites are listed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SiteFilter {
    /// That one alone.
    pub id: Option<i64>,
    /// Those of this owner.
    pub owner: Option<String>,
    /// Those with a greater id.
    pub after: i64,
    pub limit: u32,
}

/// Which pages are listed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PageFilter {
    /// Those of this owner.
    pub owner: Option<String>,
    pub site_id: Option<i64>,
    pub status: Option<Status>,
    /// Those with a greater id.
    pub after: i64,
    pub limit: u32,
}

impl Sites {
    /// The sites that a filter lets through, in the order of their ids.
    pub async fn list(&self, filter: &SiteFilter) -> Result<Vec<Site>, StoreError> {
        self.db.rows(SITES, filter).await
    }

    /// The site of this id.
    pub async fn get(&self, id: i64) -> Result<Option<Site>, StoreError> {
        let found =
            self.list(&SiteFilter { id: Some(id), limit: 1, ..SiteFilter::default() }).await?;
        Ok(found.into_iter().next())
    }
}

/// How many bytes of pages an answer has, about, written as JSON: one page may have some 400 KB of
/// texts, and nobody asks for hundreds of those at once but to fill a small container.
const BYTES: u32 = 1 << 20;

/// The first page always is one of the answer, however large.
macro_rules! pages {
    ($($condition:literal)*) => {
        concat!(
            "with p as materialized (
                select * from jsonb_to_record({params})
                    as p (owner text, site_id bigint, status text, after bigint, \"limit\" int,
                          most_bytes bigint)
            ),
            part as materialized (
                select * from pages where id > (select after from p) ",
            $("and ", $condition, " = (select ", $condition, " from p) ",)*
            " order by id limit (select \"limit\" from p)
            ),
            measured as (
                select part.*,
                    sum(octet_length(row_to_json(part)::text)) over (order by id) as so_far
                from part
            )
            select * from measured
            where so_far <= (select most_bytes from p) or id = (select min(id) from part)
            order by id"
        )
    };
}

impl Pages {
    /// The pages that a filter lets through, in the order of their ids: fewer than there are where
    /// they are large, and at least one where there is one.
    pub async fn list(&self, filter: &PageFilter) -> Result<Vec<Page>, StoreError> {
        #[derive(Serialize)]
        struct Params<'a> {
            #[serde(flatten)]
            filter: &'a PageFilter,
            most_bytes: u32,
        }
        // A text of its own for each, so that Postgres sees which index serves it.
        let sql = match (&filter.owner, filter.site_id, filter.status) {
            (None, None, None) => pages!(),
            (None, None, Some(_)) => pages!("status"),
            (None, Some(_), None) => pages!("site_id"),
            (None, Some(_), Some(_)) => pages!("site_id" "status"),
            (Some(_), None, None) => pages!("owner"),
            (Some(_), None, Some(_)) => pages!("owner" "status"),
            (Some(_), Some(_), None) => pages!("owner" "site_id"),
            (Some(_), Some(_), Some(_)) => pages!("owner" "site_id" "status"),
        };
        self.db.rows(sql, &Params { filter, most_bytes: BYTES }).await
    }
}

/// Pages of a run that is to come count too: a site that waits for its next sweep has its own page
/// pending.
const SITES: &str = "
with p as materialized (
    select * from jsonb_to_record({params})
        as p (id bigint, owner text, after bigint, \"limit\" int)
)
select s.id, url, s.owner, status, max_depth, max_pages, every_s, next_due, last_scraped_at, due_at,
    task_id, attempt, error, error_class, http_status, sitemap_error, source,
    (
        select jsonb_build_object(
            'pending', count(*) filter (where pages.status = 'pending'),
            'queued', count(*) filter (where pages.status = 'queued'),
            'running', count(*) filter (where pages.status = 'running'),
            'succeeded', count(*) filter (where pages.status = 'succeeded'),
            'failed', count(*) filter (where pages.status = 'failed'),
            'skipped', count(*) filter (where pages.status = 'skipped')
        )
        from pages where pages.site_id = s.id and pages.run >= s.run
    ) as pages
from sites s, p
where s.id > p.after and (p.id is null or s.id = p.id)
    and (p.owner is null or s.owner = p.owner)
order by s.id
limit (select \"limit\" from p)";
