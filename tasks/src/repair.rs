//! Asks the broker for the tasks of rows that have been silent, and puts those rows right that have
//! none: a task that ended without its row, and one that the broker has lost.

use std::time::Duration;

use umbel::{BrokerError, Client, TaskHandle, TaskId};

use crate::{enqueue::EnqueueError, pages::Pages, sites::Sites};

/// As many rows as are noted in one statement.
const BATCH: usize = 500;

/// Longer than five attempts of a task that is in trouble take together, so that most rows are
/// never asked for.
const SILENT_LONGER_THAN: Duration = Duration::from_secs(10 * 60);

/// What became of a task.
enum Fate {
    /// It waits or runs, and writes its row itself.
    Alive,
    /// It has ended, for this reason: `ended` could not write it, or the arguments did not decode.
    Ended(String),
    /// The broker does not know it.
    Lost,
}

/// Puts sites right that are not planned. Returns how many.
pub(crate) async fn sites(sites: &Sites, client: &Client) -> Result<u64, EnqueueError> {
    let mut repaired = 0;
    loop {
        let silent = sites.silent(SILENT_LONGER_THAN, BATCH).await?;
        let (mut alive, mut lost): (Vec<_>, Vec<_>) = Default::default();
        for it in &silent {
            match fate(client, &it.task_id).await? {
                Fate::Alive => alive.push((it.site, &it.task_id)),
                Fate::Ended(why) => {
                    sites.fail(it.site, Some(&it.task_id), None, &why, None).await?;
                    repaired += 1;
                }
                Fate::Lost => lost.push((it.site, &it.task_id)),
            }
        }
        sites.alive(&alive).await?;
        sites.lost(&lost).await?;
        repaired += lost.len() as u64;
        // Each of them was written to and counts as heard of, so this ends.
        if silent.len() < BATCH {
            return Ok(repaired);
        }
    }
}

/// Puts pages right. Returns how many.
pub(crate) async fn pages(pages: &Pages, client: &Client) -> Result<u64, EnqueueError> {
    let mut repaired = 0;
    loop {
        let silent = pages.silent(SILENT_LONGER_THAN, BATCH).await?;
        let (mut alive, mut lost): (Vec<_>, Vec<_>) = Default::default();
        for it in &silent {
            let (error, class) = match fate(client, &it.task_id).await? {
                Fate::Alive => {
                    alive.push((it.page, &it.task_id));
                    continue;
                }
                Fate::Lost if !it.alone => {
                    lost.push((it.page, &it.task_id));
                    continue;
                }
                // Nobody would ask for it again but who asked for it first.
                Fate::Lost => ("the broker has lost its task".to_owned(), Some("lost")),
                Fate::Ended(why) => (why, None),
            };
            pages.fail(it.page, None, Some(&it.task_id), None, &error, class).await?;
            repaired += 1;
        }
        pages.alive(&alive).await?;
        pages.lost(&lost).await?;
        repaired += lost.len() as u64;
        // As with the sites.
        if silent.len() < BATCH {
            return Ok(repaired);
        }
    }
}

async fn fate(client: &Client, task: &TaskId) -> Result<Fate, BrokerError> {
    Ok(match TaskHandle::<()>::new(client.clone(), task.clone()).record().await? {
        None => Fate::Lost,
        Some(record) if record.state.has_ended() => Fate::Ended(
            record
                .error
                .unwrap_or_else(|| format!("its task {} without a trace here", record.state)),
        ),
        Some(_) => Fate::Alive,
    })
}
