//! The pages between the table and the broker: which are to be handed over, which are, and which
//! the broker has lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use umbel::{StoreError, TaskId};

use crate::pages::{PageRun, Pages};

/// A page that is to be enqueued. The address is as the row has it, and rows may be written by
/// hand.
#[derive(Debug, Clone, Deserialize)]
pub struct Wanted {
    #[serde(flatten)]
    pub page: PageRun,
    pub url: String,
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

impl Pages {
    /// Pages that are pending, of one site or of all: nobody has seen the broker take them. Those
    /// with an id after `after`, in the order of their ids.
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
        self.note(QUEUED, taken).await
    }

    /// Pages that are in the hands of a task, and that nobody has looked at for `longer_than`.
    pub async fn silent(
        &self,
        longer_than: Duration,
        limit: usize,
    ) -> Result<Vec<Silent>, StoreError> {
        #[derive(Serialize)]
        struct Params {
            seconds: u64,
            limit: usize,
        }
        self.db.rows(SILENT, &Params { seconds: longer_than.as_secs(), limit }).await
    }

    /// Notes that the tasks of these pages live.
    pub async fn alive(&self, pages: &[(PageRun, &TaskId)]) -> Result<(), StoreError> {
        self.note(ALIVE, pages).await
    }

    /// Makes pages pending again whose tasks the broker does not know any more.
    pub async fn lost(&self, pages: &[(PageRun, &TaskId)]) -> Result<(), StoreError> {
        self.note(LOST, pages).await
    }

    async fn note(
        &self,
        sql: &'static str,
        pages: &[(PageRun, &TaskId)],
    ) -> Result<(), StoreError> {
        #[derive(Serialize)]
        struct Row<'a> {
            #[serde(flatten)]
            page: PageRun,
            task_id: &'a TaskId,
        }
        if pages.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = pages.iter().map(|&(page, task_id)| Row { page, task_id }).collect();
        self.db.execute(sql, &rows).await.map(drop)
    }
}

const PENDING: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (site_id bigint, after bigint, \"limit\" int)
)
select pages.id, pages.run, pages.url
from pages join sites on sites.id = pages.site_id and sites.run = pages.run
where pages.status = 'pending' and pages.id > (select after from p)
    and pages.site_id = coalesce((select site_id from p), pages.site_id)
order by pages.id
limit (select \"limit\" from p)";

/// In the order of the ids, so that two who note the same pages do not wait for each other.
const QUEUED: &str = "
with taken as materialized (
    select pages.id, taken.task_id
    from jsonb_to_recordset({params}) as taken (id bigint, run bigint, task_id text)
    join pages using (id, run)
    where status = 'pending'
    order by pages.id
    for update of pages
)
update pages set
    status = 'queued', task_id = taken.task_id, queued_at = now(), updated_at = now()
from taken where pages.id = taken.id";

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

const ALIVE: &str = "
with alive as materialized (
    select pages.id
    from jsonb_to_recordset({params}) as alive (id bigint, run bigint, task_id text)
    join pages using (id, run, task_id)
    order by pages.id
    for update of pages
)
update pages set updated_at = now() from alive where pages.id = alive.id";

const LOST: &str = "
with lost as materialized (
    select pages.id
    from jsonb_to_recordset({params}) as lost (id bigint, run bigint, task_id text)
    join pages using (id, run, task_id)
    where status in ('queued', 'running')
    order by pages.id
    for update of pages
)
update pages set status = 'pending', task_id = null, updated_at = now()
from lost where pages.id = lost.id";
