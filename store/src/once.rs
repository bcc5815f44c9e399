//! Effects that happen once, however often their task runs: the row that remembers stands in the
//! effect's transaction.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use umbel_proto::TaskId;

use crate::{Db, StoreError, Tx};

/// How many remembered steps one statement forgets: a fraction of a second of work, so that no lock
/// is held for long.
const PRUNE_BATCH: usize = 5_000;

impl Db {
    /// Runs `effect` in a transaction unless `step` of this task is done already, and returns what
    /// it returned when it was done. Of any number of runs of the task, at once or one after
    /// another, one has the effect; the others wait for it and take its output. If `effect` fails
    /// nothing remains, and the next call runs it again.
    ///
    /// What holds for [`transaction`](Self::transaction) holds here. The output is stored as
    /// `jsonb`, at most 16 MiB of it, until [`prune_steps`](Self::prune_steps).
    ///
    /// ```no_run
    /// # use umbel_store::{Db, StoreError};
    /// # async fn example(db: Db, task: umbel_proto::TaskId) -> Result<(), StoreError> {
    /// let order: i64 = db
    ///     .once(&task, "order", async |tx| {
    ///         #[derive(serde::Deserialize)]
    ///         struct Order { id: i64 }
    ///         let sql = "insert into orders default values returning id";
    ///         let orders: Vec<Order> = tx.rows(sql, &()).await?;
    ///         Ok::<_, StoreError>(orders[0].id)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn once<T, E, F>(&self, task: &TaskId, step: &str, effect: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<StoreError>,
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
    {
        let key = Key { task_id: task.as_str(), step };
        self.transaction(async |tx| {
            // Waits here while another run has the same row in an open transaction.
            while !claim(tx, &key).await? {
                // The row can be gone again: a prune may come between the two statements.
                if let Some(output) = recall(tx, &key).await? {
                    return Ok(output);
                }
            }
            let output = effect(tx).await?;
            remember(tx, &key, &output).await?;
            Ok(output)
        })
        .await
    }

    /// Forgets the steps that were done longer ago than this; returns how many. A task that runs
    /// again after its steps were forgotten has its effects again, so this must be longer than a
    /// task can wait, retry, or lie dead before it is redriven.
    pub async fn prune_steps(&self, older_than: Duration) -> Result<u64, StoreError> {
        let params = Prune { seconds: older_than.as_secs(), batch: PRUNE_BATCH };
        let mut forgotten = 0;
        loop {
            let batch = self
                .execute(
                    "with p as materialized (select {params} as j)
                     delete from umbel_steps where (task_id, step) in (
                         select task_id, step from umbel_steps, p
                         where done_at < now() - make_interval(secs => (p.j->>'seconds')::float8)
                         order by done_at limit (select (j->>'batch')::bigint from p)
                     )",
                    &params,
                )
                .await?;
            forgotten += batch;
            if batch < PRUNE_BATCH as u64 {
                return Ok(forgotten);
            }
        }
    }
}

#[derive(Serialize)]
struct Key<'a> {
    task_id: &'a str,
    step: &'a str,
}

#[derive(Serialize)]
struct Prune {
    seconds: u64,
    batch: usize,
}

/// Whether the step is ours to do.
async fn claim(tx: &mut Tx, key: &Key<'_>) -> Result<bool, StoreError> {
    let inserted = tx
        .execute(
            "insert into umbel_steps (task_id, step)
             select task_id, step from jsonb_to_record({params}) as key(task_id text, step text)
             on conflict do nothing",
            key,
        )
        .await?;
    Ok(inserted == 1)
}

async fn recall<T: DeserializeOwned>(tx: &mut Tx, key: &Key<'_>) -> Result<Option<T>, StoreError> {
    #[derive(Deserialize)]
    struct Done<T> {
        output: T,
    }
    let done: Option<Done<T>> = tx
        .row(
            "select output from umbel_steps
             join jsonb_to_record({params}) as key(task_id text, step text) using (task_id, step)",
            key,
        )
        .await?;
    Ok(done.map(|done| done.output))
}

async fn remember(tx: &mut Tx, key: &Key<'_>, output: &impl Serialize) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Done<'a, T> {
        #[serde(flatten)]
        key: &'a Key<'a>,
        output: &'a T,
    }
    tx.execute(
        "with p as materialized (select {params} as j)
         update umbel_steps set output = p.j->'output'
         from p where task_id = p.j->>'task_id' and step = p.j->>'step'",
        &Done { key, output },
    )
    .await
    .map(drop)
}
