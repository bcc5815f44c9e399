//! What is not kept for ever. `steps.prune` forgets which steps of tasks were done (`db.once`), once
//! no task is left that could ask; `pages.prune` forgets pages that no run finds any more.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{Context, Handler, Task, TaskResult};

use crate::App;

/// The tasks here are over within hours. What waits for longer was delayed by hand or lies among
/// the dead letters; redriven after this, it has its effects again.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// Forgets steps that were done more than a week ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PruneSteps {}

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    pub steps: u64,
}

impl Task for PruneSteps {
    const NAME: &'static str = "steps.prune";
    type Output = Pruned;
}

impl Handler<App> for PruneSteps {
    async fn run(self, ctx: &Context<App>) -> TaskResult<Pruned> {
        Ok(Pruned { steps: ctx.app().db.prune_steps(KEPT).await? })
    }
}

/// How many pages one statement forgets: a fraction of a second of work, so that no lock is held
/// for long.
const PRUNE_BATCH: u64 = 1_000;

/// Forgets pages that ended longer ago than PAGES_KEPT and that the latest run of their site did
/// not find, and what sources cost more than a year ago.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrunePages {}

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrunedPages {
    pub pages: u64,
}

impl Task for PrunePages {
    const NAME: &'static str = "pages.prune";
    type Output = PrunedPages;
}

impl Handler<App> for PrunePages {
    async fn run(self, ctx: &Context<App>) -> TaskResult<PrunedPages> {
        #[derive(Serialize)]
        struct Params {
            seconds: u64,
            batch: u64,
        }
        let App { db, settings, .. } = ctx.app();
        let params = Params { seconds: settings.pages_kept.as_secs(), batch: PRUNE_BATCH };
        db.execute(CREDITS, &()).await?;
        let mut pages = 0;
        loop {
            let batch = db.execute(PAGES, &params).await?;
            pages += batch;
            if batch < PRUNE_BATCH {
                return Ok(PrunedPages { pages });
            }
        }
    }
}

const CREDITS: &str = "delete from credits where day < now() - interval '400 days'";

/// Rows on which a task is at work are locked, and left for the next time. The own page of a site
/// is always of its latest run.
const PAGES: &str = "
with p as materialized (
    select * from jsonb_to_record({params}) as p (seconds float8, batch bigint)
),
old as (
    select pages.id from pages left join sites on sites.id = pages.site_id
    where pages.status in ('succeeded', 'failed', 'skipped')
        and pages.finished_at < now() - make_interval(secs => (select seconds from p))
        and (pages.site_id is null or pages.run < sites.run)
    limit (select batch from p)
    for update of pages skip locked
)
delete from pages using old where pages.id = old.id";
