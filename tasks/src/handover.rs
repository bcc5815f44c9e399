//! The rows between the tables and the broker: which sites and pages are to be handed over, which
//! are, and which the broker has lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use umbel::{Db, StoreError, TaskId};

use crate::{
    pages::{PageRun, Pages},
    site_run::SiteRun,
    sites::Sites,
};

/// A page that is to be enqueued. The address is as the row has it, and rows may be written by
/// hand.
#[derive(Debug, Clone, Deserialize)]
pub struct Wanted {
    #[serde(flatten)]
    pub page: PageRun,
    pub url: String,
    pub owner: Option<String>,
}

/// A page whose task has not been heard of for a while.
#[derive(Debug, Clone, Deserialize)]
pub struct Silent {
    #[serde(flatten)]
    pub page: PageRun,
    pub task_id: TaskId,
    /// Asked for by itself.
    pub alone: bool,
}

/// A site whose run is to be enqueued, with its address as the row has it.
#[derive(Debug, Clone, Deserialize)]
pub struct WantedSite {
    #[serde(flatten)]
    pub site: SiteRun,
    pub url: String,
    pub owner: Option<String>,
    /// When the run came due, in ms since 1970.
    pub due_ms: i64,
}

/// A site that is not planned, and whose task has not been heard of for a while.
#[derive(Debug, Clone, Deserialize)]
pub struct SilentSite {
    #[serde(flatten)]
    pub site: SiteRun,
    pub task_id: TaskId,
}

impl Pages {
    /// Pages that are pending, of one site or of all: nobody has seen the broker take them. Those
    /// with an id after `after`, in the order of their ids, of runs that are planned.
    pub async fn pending(
        &self,
        site_id: Option<i64>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Wanted>, StoreError> {
        #[derive(Serialize)]
        struct Params {
            site_id: Option<i64>,
            after: i64,
            limit: usize,
        }
        self.db.rows(PENDING, &Params { site_id, after, limit }).await
    }

    /// Notes that the broker has taken these pages. One that a worker has begun by now stays as it
    /// is.
    pub async fn queued(&self, taken: &[(PageRun, &TaskId)]) -> Result<(), StoreError> {
        note(&self.db, QUEUED, taken).await
    }

    /// Pages that are in the hands of a task, and that nobody has looked at for `longer_than`.
    pub async fn silent(
        &self,
        longer_than: Duration,
        limit: usize,
    ) -> Result<Vec<Silent>, StoreError> {
        silent(&self.db, SILENT, longer_than, limit).await
    }

    /// Notes that the tasks of these pages live.
    pub async fn alive(&self, pages: &[(PageRun, &TaskId)]) -> Result<(), StoreError> {
        note(&self.db, ALIVE, pages).await
    }

    /// Makes pages pending again whose tasks the broker does not know any more.
    pub async fn lost(&self, pages: &[(PageRun, &TaskId)]) -> Result<(), StoreError> {
        note(&self.db, LOST, pages).await
    }
}

impl Sites {
    /// Sites that are claimed, and that nobody has seen the broker take. Those with an id after
    /// `after`, in the order of their ids.
    pub async fn claimed(&self, after: i64, limit: usize) -> Result<Vec<WantedSite>, StoreError> {
        #[derive(Serialize)]
        struct Params {
            after: i64,
            limit: usize,
        }
        self.db.rows(CLAIMED, &Params { after, limit }).await
    }

    /// Notes that the broker has taken these sites. One that a worker has begun by now stays as it
    /// is.
    pub async fn queued(&self, taken: &[(SiteRun, &TaskId)]) -> Result<(), StoreError> {
        note(&self.db, SITES_QUEUED, taken).await
    }

    /// Sites that are in the hands of a task, not planned, and that nobody has looked at for
    /// `longer_than`.
    pub async fn silent(
        &self,
        longer_than: Duration,
        limit: usize,
    ) -> Result<Vec<SilentSite>, StoreError> {
        silent(&self.db, SITES_SILENT, longer_than, limit).await
    }

    /// Notes that the tasks of these sites live.
    pub async fn alive(&self, sites: &[(SiteRun, &TaskId)]) -> Result<(), StoreError> {
        note(&self.db, SITES_ALIVE, sites).await
    }

    /// Has sites enqueued again whose tasks the broker does not know any more.
    pub async fn lost(&self, sites: &[(SiteRun, &TaskId)]) -> Result<(), StoreError> {
        note(&self.db, SITES_LOST, sites).await
    }
}

async fn silent<T: serde::de::DeserializeOwned>(
    db: &Db,
    sql: &'static str,
    longer_than: Duration,
    limit: usize,
) -> Result<Vec<T>, StoreError> {
    #[derive(Serialize)]
    struct Params {
        seconds: u64,
        limit: usize,
    }
    db.rows(sql, &Params { seconds: longer_than.as_secs(), limit }).await
}

async fn note<R: Serialize + Copy>(
    db: &Db,
    sql: &'static str,
    rows: &[(R, &TaskId)],
) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a, R> {
        #[serde(flatten)]
        row: R,
        task_id: &'a TaskId,
    }
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = rows.iter().map(|&(row, task_id)| Row { row, task_id }).collect();
    db.execute(sql, &rows).await.map(drop)
}

const PENDING: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (site_id bigint, after bigint, \"limit\" int)
)
select pages.id, pages.run, pages.url, pages.owner
from pages join sites on sites.id = pages.site_id and sites.run = pages.run
where pages.status = 'pending' and sites.planned_at is not null
    and pages.id > (select after from p)
    and pages.site_id = coalesce((select site_id from p), pages.site_id)
order by pages.id
limit (select \"limit\" from p)";

const SILENT: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (seconds float8, \"limit\" int)
)
select id, run, task_id, site_id is null as alone
from pages
where status in ('queued', 'running') and task_id is not null
    and updated_at < now() - make_interval(secs => (select seconds from p))
order by id
limit (select \"limit\" from p)";

const CLAIMED: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (after bigint, \"limit\" int)
)
select id, run, url, owner, (extract(epoch from coalesce(due_at, to_timestamp(0))) * 1000)::bigint as due_ms
from sites
where planned_at is null and status = 'queued' and task_id is null
    and id > (select after from p)
order by id
limit (select \"limit\" from p)";

const SITES_SILENT: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (seconds float8, \"limit\" int)
)
select id, run, task_id
from sites
where planned_at is null and status in ('queued', 'running') and task_id is not null
    and updated_at < now() - make_interval(secs => (select seconds from p))
order by id
limit (select \"limit\" from p)";

/// In the order of the ids, so that two who note the same rows do not wait for each other.
macro_rules! note {
    ($table:literal where $condition:literal set $set:literal) => {
        concat!(
            "with noted as materialized (
                select t.id, noted.task_id
                from jsonb_to_recordset({params}) as noted (id bigint, run bigint, task_id text)
                join ",
            $table,
            " t using (id, run) where ",
            $condition,
            " order by t.id
                for update of t
            )
            update ",
            $table,
            " t set updated_at = now()",
            $set,
            " from noted where t.id = noted.id"
        )
    };
}

const QUEUED: &str = note!(
    "pages" where "t.status = 'pending'"
    set ", status = 'queued', task_id = noted.task_id, queued_at = now()"
);
const ALIVE: &str = note!("pages" where "t.task_id = noted.task_id" set "");
const LOST: &str = note!(
    "pages" where "t.task_id = noted.task_id and t.status in ('queued', 'running')"
    set ", status = 'pending', task_id = null"
);

const SITES_QUEUED: &str = note!(
    "sites" where "t.planned_at is null and t.status = 'queued' and t.task_id is null"
    set ", task_id = noted.task_id, queued_at = now()"
);
const SITES_ALIVE: &str = note!("sites" where "t.task_id = noted.task_id" set "");
const SITES_LOST: &str = note!(
    "sites" where "t.task_id = noted.task_id and t.planned_at is null
        and t.status in ('queued', 'running')"
    set ", status = 'queued', task_id = null"
);
