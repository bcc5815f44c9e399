//! The task `sites.sweep`: begins runs of the sites that are due, and mends what got lost.
//!
//! A row and its task live in two systems, and there is no transaction over both. So a row first
//! says that it waits to be handed over: a site is claimed, a page is pending. Then its task is
//! enqueued, under a key made of the row and its run; then the row says whose it is. A crash between
//! any two of these leaves the row waiting, and whoever comes next, this task again or the next
//! sweep, enqueues it under the same key: the broker answers with the task that it has, if it has
//! it. Nothing is lost, nothing is done twice, and no step has to know whether the one before it was
//! the last of a worker.
//!
//! What the broker itself loses (a Redis without a disk) is found by asking it for tasks that have
//! not been heard of for a while; a row whose task it does not know waits again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel::{Context, Handler, Task, TaskResult};

use crate::{App, enqueue, repair};

/// Begins a run of every site that is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepSites {}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Swept {
    /// Sites that were due.
    pub claimed: u64,
    /// Sites and pages whose tasks were lost, or had ended without their rows.
    pub repaired: u64,
    /// Sites and pages that were enqueued, those included that somebody else had left waiting.
    pub enqueued: u64,
}

impl Task for SweepSites {
    const NAME: &'static str = "sites.sweep";
    type Output = Swept;
}

impl Handler<App> for SweepSites {
    async fn run(self, ctx: &Context<App>) -> TaskResult<Swept> {
        let (App { sites, pages, .. }, client) = (ctx.app(), ctx.client());
        // A crash from here on leaves rows that wait, which the last two steps find.
        let claimed = sites.claim_due().await?;
        let repaired = repair::sites(sites, client).await? + repair::pages(pages, client).await?;
        let planning = enqueue::claimed_sites(sites, client).await?;
        let reading = enqueue::pending_pages(pages, client, None).await?;
        Ok(Swept { claimed, repaired, enqueued: planning + reading })
    }
}
