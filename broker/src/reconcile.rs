//! Compares what Redis thinks a worker holds with what it holds.

use std::{collections::HashMap, sync::Arc};

use redis::{aio::ConnectionLike, cmd};
use tracing::warn;

use crate::{
    BrokerError, Delivery, Held,
    delivery::{EntryKey, Epoch, Run, knows},
    fields::Fields,
    keys::{GROUP, Shard, Stream},
    script::{self, Scripts},
};

/// More than any worker runs at once and has in its settle queue, so that the whole of what it holds is
/// seen.
const HELD_MAX: usize = 16_384;

/// What Redis thinks a worker holds of a shard, by the epoch of the answer: entry → run, empty
/// where the entry has no body.
pub(crate) struct Pending {
    pub epoch: Arc<Epoch>,
    pub entries: HashMap<EntryKey, Run>,
}

pub(crate) async fn pending(
    scripts: &Scripts,
    shard: &Shard,
    worker: &str,
    connection: &mut impl ConnectionLike,
) -> Result<Pending, BrokerError> {
    let mut call = script::of_shard(&scripts.held, shard);
    call.arg(worker).arg(HELD_MAX);
    // Ids and attempts are what anybody wrote, and need not be text.
    let answer: Vec<Vec<u8>> = script::run(&call, connection).await?;
    let unexpected = || BrokerError::Unexpected("held did not answer in fours".to_owned());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| unexpected());
    let [run_id, generation, rest @ ..] = answer.as_slice() else { return Err(unexpected()) };
    let mut entries = HashMap::new();
    for four in rest.chunks(4) {
        let [stream, entry, id, attempt] = four else { return Err(unexpected()) };
        let stream = text(stream)?.parse().ok().and_then(Stream::from_key_index);
        let stream = stream.ok_or_else(unexpected)?;
        let key = EntryKey { shard: shard.clone(), stream, entry: text(entry)? };
        entries.insert(key, Run { id: id.clone(), attempt: attempt.clone() });
    }
    let epoch = Epoch { run_id: text(run_id)?, generation: text(generation)? };
    Ok(Pending { epoch: Arc::new(epoch), entries })
}

/// Entries that were delivered and never came.
pub(crate) struct Ghosts {
    pub deliveries: Vec<Delivery>,
    /// There are more than there was room for.
    pub more: bool,
    /// What is read now belongs to.
    pub epoch: Arc<Epoch>,
}

/// Takes in hand at most `room` entries that were delivered to this worker and never came.
///
/// Only what memory knew neither when the question was sent nor when its answer is handled is a
/// ghost: what is in memory is running or being settled. Must run on the reading connection,
/// between two reads.
pub(crate) async fn ghosts(
    scripts: &Scripts,
    shard: &Shard,
    worker: &str,
    held: &Held,
    room: usize,
    connection: &mut impl ConnectionLike,
) -> Result<Ghosts, BrokerError> {
    let known = held.known();
    let pending = pending(scripts, shard, worker, connection).await?;
    let mut unknown: Vec<EntryKey> = pending
        .entries
        .into_iter()
        .filter(|(key, run)| !knows(&known, key, run) && !held.knows(key, run))
        .map(|(key, _)| key)
        .collect();
    unknown.sort_by(|a, b| a.entry.cmp(&b.entry));
    let more = unknown.len() > room;
    let mut adopted = Vec::new();
    for key in unknown.into_iter().take(room) {
        let stream = shard.ready(key.stream);
        let found: Vec<(String, Fields)> = cmd("XRANGE")
            .arg(&stream)
            .arg(&key.entry)
            .arg(&key.entry)
            .query_async(connection)
            .await?;
        match found.into_iter().next() {
            Some((_, fields)) => {
                adopted.push(Delivery::read(key, pending.epoch.clone(), &fields));
            }
            None => {
                warn!(entry = key.entry, stream, "a held entry has no body; Redis lost data");
                let gone = cmd("XACK").arg(&stream).arg(GROUP).arg(&key.entry).to_owned();
                gone.query_async::<()>(connection).await?;
            }
        }
    }
    if !adopted.is_empty() {
        warn!(queue.name = %shard.queue(), count = adopted.len(), "took in tasks that were delivered into a dead connection");
    }
    Ok(Ghosts { deliveries: adopted, more, epoch: pending.epoch })
}
