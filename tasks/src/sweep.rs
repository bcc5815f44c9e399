//! The task `sites.sweep`: begins runs of the sites that are due, and mends what got lost.
//!
//! A row and its task live in two systems, and there is no transaction over both. So a page is
//! first a row that is pending; then it is enqueued, under a key made of the row and its run; then
//! the row says queued. A crash between any two of these leaves the row pending, and whoever comes
//! next, this task again or the next sweep, enqueues it under the same key: the broker answers
//! with the task that it has, if it has it. Nothing is lost, nothing is done twice, and no step
//! has to know whether the one before it was the last of a worker.
//!
//! What the broker itself loses (a Redis without a disk) is found by asking it for tasks that have
//! not been heard of for a while; a page whose task it does not know becomes pending again.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::warn;
use umbel::{
    BrokerError, Client, Context, Handler, StoreError, Task, TaskHandle, TaskId, TaskResult,
};
use url::Url;

use crate::{
    App, ScrapePage, ScrapedPage,
    handover::Wanted,
    pages::{PageRun, Pages},
};

/// Four of the broker's own batches: little to do again after a crash.
const ENQUEUE_BATCH: usize = 500;

/// As many rows as are noted in one statement.
const REPAIR_BATCH: usize = 500;

/// Longer than five attempts of a page that is in trouble take together, so that most pages are
/// never asked for.
const SILENT_LONGER_THAN: Duration = Duration::from_secs(10 * 60);

/// Begins a run of every site that is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepSites {}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Swept {
    /// Sites that were due.
    pub claimed: u64,
    /// Pages whose tasks were lost, or had ended without their rows.
    pub repaired: u64,
    /// Pages that were enqueued, those included that somebody else had left pending.
    pub enqueued: u64,
}

impl Task for SweepSites {
    const NAME: &'static str = "sites.sweep";
    type Output = Swept;
}

impl Handler<App> for SweepSites {
    async fn run(self, ctx: &Context<App>) -> TaskResult<Swept> {
        let App { sites, pages, .. } = ctx.app();
        // A crash from here on leaves pending pages, which the last step finds.
        let claimed = sites.claim_due().await?;
        let repaired = repair(pages, ctx.client()).await?;
        let enqueued = enqueue_pending(pages, ctx.client(), None).await?;
        Ok(Swept { claimed, repaired, enqueued })
    }
}

/// Why pages were not enqueued; they stay pending.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnqueueError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Enqueues the pages that are pending, of one site or of all. Returns how many.
pub(crate) async fn enqueue_pending(
    pages: &Pages,
    client: &Client,
    site_id: Option<i64>,
) -> Result<u64, EnqueueError> {
    let (mut enqueued, mut after) = (0, 0);
    loop {
        let pending = pages.pending(site_id, after, ENQUEUE_BATCH).await?;
        let is_last = pending.len() < ENQUEUE_BATCH;
        after = pending.last().map_or(after, |wanted| wanted.page.id);
        let mut tasks = Vec::with_capacity(pending.len());
        for Wanted { page, url } in pending {
            match address(&url) {
                Ok(url) => tasks.push((page, ScrapePage { url, page: Some(page) })),
                Err(error) => pages.fail(page, None, Some(&url), &error, Some("address")).await?,
            }
        }
        // A crash before this line: nobody has enqueued them. After it: they are enqueued, and
        // their rows are pending or, where a worker was faster than us, running. Both times the
        // next one to come here finds the pending ones and gives them the same keys.
        let (handles, refused) = enqueue(client, &tasks).await?;
        let taken: Vec<_> = handles.iter().map(|(page, handle)| (*page, handle.id())).collect();
        pages.queued(&taken).await?;
        enqueued += taken.len() as u64;
        refused?;
        if is_last {
            return Ok(enqueued);
        }
    }
}

type Taken = Vec<(PageRun, TaskHandle<ScrapedPage>)>;

/// Enqueues tasks; tells those that the broker has taken, and why it refused another.
async fn enqueue(
    client: &Client,
    tasks: &[(PageRun, ScrapePage)],
) -> Result<(Taken, Result<(), BrokerError>), BrokerError> {
    let answers = client
        .enqueue_many(tasks.iter().map(|(_, task)| task.clone()))
        .tracked()
        .idempotency_keys(|place| key_of(tasks[place].0))
        .await?;
    let (mut taken, mut refused) = (Vec::with_capacity(tasks.len()), Ok(()));
    for ((page, _), answer) in tasks.iter().zip(answers) {
        match answer {
            Ok(handle) => taken.push((*page, handle)),
            // Another release enqueued it and packs its arguments in another way. It will run, and
            // must not keep all others from being enqueued.
            Err(BrokerError::KeyConflict { key }) => {
                warn!(key, "a page was enqueued by another release; leaving it to its task");
            }
            Err(error) => refused = Err(error),
        }
    }
    Ok((taken, refused))
}

fn key_of(page: PageRun) -> String {
    format!("page:{}:{}", page.id, page.run)
}

/// The address of a row, which may have been written by hand. The task has it as `Url` writes it,
/// and finds its row by it.
fn address(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if url.as_str() == text => Ok(url),
        Ok(url) => Err(format!("the address must be written as `{url}`")),
        Err(error) => Err(format!("`{text}` is no address: {error}")),
    }
}

/// Asks the broker for the tasks of pages that have been silent, and puts those rows right that
/// have none. Returns how many.
async fn repair(pages: &Pages, client: &Client) -> Result<u64, EnqueueError> {
    let mut repaired = 0;
    loop {
        let silent = pages.silent(SILENT_LONGER_THAN, REPAIR_BATCH).await?;
        let (mut alive, mut lost): (Vec<(PageRun, &TaskId)>, Vec<_>) = Default::default();
        for page in &silent {
            let task = TaskHandle::<ScrapedPage>::new(client.clone(), page.task_id.clone());
            match task.record().await? {
                Some(record) if record.state.has_ended() => {
                    // `ended` could not write it, or the arguments did not decode.
                    let error = record.error.unwrap_or_else(|| {
                        format!("its task {} without a trace here", record.state)
                    });
                    pages.fail(page.page, Some(&page.task_id), None, &error, None).await?;
                    repaired += 1;
                }
                Some(_) => alive.push((page.page, &page.task_id)),
                None if page.alone => {
                    let error = "the broker has lost its task";
                    pages.fail(page.page, Some(&page.task_id), None, error, Some("lost")).await?;
                    repaired += 1;
                }
                None => lost.push((page.page, &page.task_id)),
            }
        }
        pages.alive(&alive).await?;
        pages.lost(&lost).await?;
        repaired += lost.len() as u64;
        // Each of them was written to and counts as heard of, so this ends.
        if silent.len() < REPAIR_BATCH {
            return Ok(repaired);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_written_by_hand_is_taken_or_told_how_to_write_it() {
        assert_eq!(address("https://example.com/").unwrap().as_str(), "https://example.com/");
        assert_eq!(
            address("https://Example.com").unwrap_err(),
            "the address must be written as `https://example.com/`"
        );
        assert!(address("example.com").unwrap_err().starts_with("`example.com` is no address"));
    }
}
