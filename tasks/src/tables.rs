//! The tables: sites, and the pages that were found on them.

use serde::{Deserialize, Serialize};
use umbel::Migration;
use utoipa::ToSchema;

/// The tables of the scraper. Postgres 15 is the oldest that takes them.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "sites and pages", sql: SITES_AND_PAGES },
    Migration { version: 2, name: "sources, and more of pages", sql: SOURCES },
    Migration { version: 3, name: "sites are planned by tasks of their own", sql: PLANS },
    Migration { version: 4, name: "owners of sites and pages", sql: OWNERS },
    Migration { version: 5, name: "row level security", sql: ROW_SECURITY },
];

/// Rows may be written by hand too (`insert into sites (url) values (…)`), so that everything but
/// the address has a default, and what no row may be is refused here.
///
/// `run` is what a site counts its scrapes by, and of a page the last run that found it. A page
/// without a site was asked for by itself.
const SITES_AND_PAGES: &str = "
create table sites (
    id bigint generated always as identity primary key,
    url text not null unique,
    max_depth int not null default 3 check (max_depth >= 0),
    max_pages int not null default 100 check (max_pages > 0),
    every_s int not null default 3600 check (every_s > 0),
    next_due timestamptz not null default now(),
    status text not null default 'pending'
        check (status in ('pending', 'queued', 'running', 'succeeded', 'failed')),
    run bigint not null default 0,
    attempt int not null default 0,
    error text,
    last_scraped_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index sites_due on sites (next_due);

create table pages (
    id bigint generated always as identity primary key,
    site_id bigint references sites on delete cascade,
    url text not null,
    run bigint not null default 0,
    depth int not null default 0,
    status text not null default 'pending'
        check (status in ('pending', 'queued', 'running', 'succeeded', 'failed')),
    attempt int not null default 0,
    error text,
    task_id text,
    queued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    http_status int,
    title text,
    description text,
    canonical text,
    language text,
    open_graph jsonb,
    twitter jsonb,
    icons jsonb,
    json_ld_types jsonb,
    robots text,
    links_internal int,
    links_external int,
    links_nofollow int,
    bytes int,
    truncated bool,
    unique nulls not distinct (site_id, url)
);
create index pages_of_run on pages (site_id, run, status);
create index pages_by_site on pages (site_id, id);
create index pages_by_status on pages (status, id);
";

/// `source` is how a site is fetched, and of a page how it was. `error_class` is one word for the
/// error. Credits are counted per day of UTC.
const SOURCES: &str = "
alter table sites
    drop constraint sites_status_check,
    add constraint sites_status_check check
        (status in ('pending', 'queued', 'running', 'succeeded', 'failed', 'skipped')),
    add column robots jsonb,
    add column source jsonb not null default '\"direct\"',
    add column error_class text;
alter table pages
    drop constraint pages_status_check,
    add constraint pages_status_check check
        (status in ('pending', 'queued', 'running', 'succeeded', 'failed', 'skipped')),
    add column error_class text,
    add column final_url text,
    add column content_hash text,
    add column language_guess text,
    add column charset text,
    add column generator text,
    add column feeds jsonb,
    add column alternates jsonb,
    add column microdata_types jsonb,
    add column things jsonb,
    add column contacts jsonb;
create table sources (
    name text primary key,
    stopped_until timestamptz,
    stopped_why text
);
create table credits (
    source text not null,
    day date not null,
    spent bigint not null,
    requests bigint not null,
    primary key (source, day)
);
";

/// A site's run is planned before its pages are read: `planned_at` says that it was, `due_at` when
/// the run came due, `sitemap` which pages the site's maps name (until the run ends), `sitemap_error`
/// why one of them could not be read. Runs that an older release has begun count as planned. The
/// index is of what a sweep looks for, among very many sites that need nothing.
const PLANS: &str = "
alter table sites
    add column task_id text,
    add column queued_at timestamptz,
    add column due_at timestamptz,
    add column planned_at timestamptz,
    add column http_status int,
    add column sitemap jsonb,
    add column sitemap_error text;
update sites set planned_at = now() where run > 0;
create index sites_unplanned on sites (id)
    where planned_at is null and status in ('queued', 'running');
";

/// `owner` is whose token entered the site, or asked for the page by itself; what was written by hand is
/// nobody's. Two owners of one address have a row each, or one would learn of the other and change
/// what is theirs.
const OWNERS: &str = "
alter table sites
    add column owner text,
    drop constraint sites_url_key,
    add constraint sites_of_owner unique nulls not distinct (owner, url);
alter table pages
    add column owner text,
    drop constraint pages_site_id_url_key,
    add constraint pages_of_site unique (site_id, url);
create unique index pages_alone on pages (owner, url) nulls not distinct where site_id is null;
create index pages_by_owner on pages (owner, id);
";

/// Supabase grants all tables of `public` to roles whose keys are in every browser, and serves them
/// over HTTP. Without a policy such a role sees no row and writes none. Whoever owns the tables is not
/// held by it; a role that only reads and writes them is let in by deploy/postgres-role.sql.
const ROW_SECURITY: &str = "
alter table sites enable row level security;
alter table pages enable row level security;
alter table sources enable row level security;
alter table credits enable row level security;
";

/// Where a site or a page stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Known, and not yet in the hands of the broker. Of a site: waits for the next sweep.
    Pending,
    /// Waits for a worker, for the first time or again. Of a site: a sweep has claimed it, and it
    /// waits to be planned.
    Queued,
    /// A worker reads it. Of a site: it is planned, or was and its pages are read.
    Running,
    /// Read and stored. Of a site: its last run came to an end, whatever became of single pages.
    Succeeded,
    /// Given up, for the reason in `error`. Of a site: it could not be planned, or its own page
    /// could not be read.
    Failed,
    /// Not read, and rightly so, for the reason in `error`: its host asks for that, or it is no
    /// HTML. Of a site: its own page was skipped.
    Skipped,
}

/// What a page row is set to when a new run finds it; `excluded` is the row that the statement
/// wanted to insert. The metadata stay those of the last success until there are newer ones.
macro_rules! reset_page {
    () => {
        "run = excluded.run, depth = excluded.depth, status = 'pending', attempt = 0, \
         error = null, error_class = null, task_id = null, queued_at = null, started_at = null, finished_at = null, \
         updated_at = now()"
    };
}
pub(crate) use reset_page;
