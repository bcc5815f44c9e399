//! Hands rows that wait over to the broker: a site that was claimed as `sites.scrape`, a page that is
//! pending as `pages.scrape`. [`sweep`](crate::sweep) tells why this can be done again at any time.

use tracing::warn;
use umbel::{BrokerError, Client, StoreError, Task, TaskHandle};
use url::Url;

use crate::{
    ScrapePage, ScrapeSite, address,
    handover::{Wanted, WantedSite},
    pages::{PageRun, Pages},
    sites::Sites,
};

/// Four of the broker's own batches: little to do again after a crash.
const BATCH: usize = 500;

/// Why rows were not enqueued; they go on waiting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnqueueError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Enqueues the sites that are claimed. Returns how many.
pub(crate) async fn claimed_sites(sites: &Sites, client: &Client) -> Result<u64, EnqueueError> {
    let (mut enqueued, mut after) = (0, 0);
    loop {
        let claimed = sites.claimed(after, BATCH).await?;
        let is_last = claimed.len() < BATCH;
        after = claimed.last().map_or(after, |wanted| wanted.site.id);
        let mut tasks = Vec::with_capacity(claimed.len());
        for wanted in claimed {
            match address(&wanted.url) {
                Ok(url) => {
                    let key = key_of_site(&wanted);
                    tasks.push((key, wanted.owner, ScrapeSite { url, site: wanted.site }));
                }
                Err(error) => {
                    let url = Some(wanted.url.as_str());
                    sites.fail(wanted.site, None, url, &error, Some("address")).await?;
                }
            }
        }
        // A crash before this line: nobody has enqueued them. After it: they are enqueued, and
        // their rows claimed or, where a worker was faster than us, further. Both times the next one
        // to come here finds the claimed ones and gives them the same keys.
        let (taken, refused) = enqueue(client, &tasks).await?;
        let noted: Vec<_> = taken.iter().map(|(task, handle)| (task.site, handle.id())).collect();
        sites.queued(&noted).await?;
        enqueued += noted.len() as u64;
        refused?;
        if is_last {
            return Ok(enqueued);
        }
    }
}

/// Enqueues the pages that are pending, of one site or of all. Returns how many.
pub(crate) async fn pending_pages(
    pages: &Pages,
    client: &Client,
    site_id: Option<i64>,
) -> Result<u64, EnqueueError> {
    let (mut enqueued, mut after) = (0, 0);
    loop {
        let pending = pages.pending(site_id, after, BATCH).await?;
        let is_last = pending.len() < BATCH;
        after = pending.last().map_or(after, |wanted| wanted.page.id);
        let mut tasks = Vec::with_capacity(pending.len());
        for Wanted { page, url, owner } in pending {
            match address(&url) {
                Ok(url) => {
                    let task = ScrapePage { url, page: Some(page) };
                    tasks.push((key_of_page(page), owner, task));
                }
                Err(error) => {
                    let (owner, url) = (owner.as_deref(), Some(url.as_str()));
                    pages.fail(page, owner, None, url, &error, Some("address")).await?;
                }
            }
        }
        // As with the sites.
        let (taken, refused) = enqueue(client, &tasks).await?;
        let noted: Vec<_> =
            taken.iter().filter_map(|(task, handle)| Some((task.page?, handle.id()))).collect();
        pages.queued(&noted).await?;
        enqueued += noted.len() as u64;
        refused?;
        if is_last {
            return Ok(enqueued);
        }
    }
}

type Taken<'a, T> = Vec<(&'a T, TaskHandle<<T as Task>::Output>)>;

/// Enqueues tasks under their keys, each for its owner; tells those that the broker has taken, and why it refused
/// another.
async fn enqueue<'a, T: Task + Clone>(
    client: &Client,
    tasks: &'a [(String, Option<String>, T)],
) -> Result<(Taken<'a, T>, Result<(), BrokerError>), BrokerError> {
    let answers = client
        .enqueue_many(tasks.iter().map(|(_, _, task)| task.clone()))
        .tracked()
        .owners(|place| tasks[place].1.clone())
        .idempotency_keys(|place| tasks[place].0.clone())
        .await?;
    let (mut taken, mut refused) = (Vec::with_capacity(tasks.len()), Ok(()));
    for ((_, _, task), answer) in tasks.iter().zip(answers) {
        match answer {
            Ok(handle) => taken.push((task, handle)),
            // Another release enqueued it and packs its arguments in another way. It will run, and
            // must not keep all others from being enqueued.
            Err(BrokerError::KeyConflict { key }) => {
                warn!(key, "this was enqueued by another release; leaving it to its task");
            }
            Err(error) => refused = Err(error),
        }
    }
    Ok((taken, refused))
}

/// One key for a site and the time at which it was due. The number of the run is in it besides: a due
/// time comes twice where somebody writes it by hand or tables are restored from a backup, and its
/// task would then pass for the one that the broker remembers, and never run.
fn key_of_site(wanted: &WantedSite) -> String {
    format!("site:{}:{}:{}", wanted.site.id, wanted.due_ms, wanted.site.run)
}

fn key_of_page(page: PageRun) -> String {
    format!("page:{}:{}", page.id, page.run)
}

/// The address of a row, which may have been written by hand. The task has it as `Url` writes it,
/// and finds its row by it.
fn address(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if url.as_str() == text => {
            address::check(&url).map(|()| url).map_err(|refusal| refusal.to_string())
        }
        Ok(url) => Err(format!("the address must be written as `{url}`")),
        Err(error) => Err(format!("`{text}` is no address: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SiteRun;

    #[test]
    fn an_address_that_was_written_by_hand_is_taken_or_told_how_to_write_it() {
        assert_eq!(address("https://example.com/").unwrap().as_str(), "https://example.com/");
        assert_eq!(
            address("https://Example.com").unwrap_err(),
            "the address must be written as `https://example.com/`"
        );
        assert!(address("example.com").unwrap_err().starts_with("`example.com` is no address"));
        assert_eq!(
            address("ftp://example.com/").unwrap_err(),
            "only http and https are fetched, not `ftp`"
        );
    }

    #[test]
    fn a_site_has_a_key_for_each_time_that_it_is_due() {
        let key = |due_ms, run| {
            let (site, url) = (SiteRun { id: 7, run }, String::new());
            key_of_site(&WantedSite { site, url, owner: None, due_ms })
        };
        assert_eq!(key(1_000, 1_001), "site:7:1000:1001");
        assert_ne!(key(1_000, 1_001), key(2_000, 2_001));
        assert_ne!(key(1_000, 1_001), key(1_000, 2_001), "due again at a time written by hand");
    }
}
