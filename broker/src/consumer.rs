//! The read of a worker: on a connection of its own, never cancelled, never more than asked for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{Cmd, cmd};
use tokio::time::timeout;
use tracing::warn;

use crate::{
    BrokerError, Client, Delivery, Held, Pauses, Stop,
    delivery::{EntryKey, Epoch},
    keys::{GROUP, Shard, Stream},
    reconcile, reply, shard,
    wire::{self, Wire},
};

/// Long enough to be quiet when idle, short enough that a dead connection is noticed.
const BLOCK: Duration = Duration::from_secs(5);

/// Servers overshoot BLOCK a little; an answer that comes after the client gave up would be
/// pending for a worker that never saw it.
const BLOCK_MARGIN: Duration = Duration::from_secs(2);

/// How often what Redis thinks we hold is compared with what we hold, while we hold something, and
/// once after each connect: longer than a read that still blocks on the connection before.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// As many tasks of the largest size as a client's output buffer in Redis bears: 16 MiB.
const FETCH_MAX: usize = 64;

/// How many permits must be free for a read of what is deep to be worth its own way.
const DEEP_LEAST: usize = 16;

/// How often in a row a stream may be passed over before it goes first once.
const PASSED_OVER_MAX: u8 = 12;

/// Reads tasks for one worker.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    worker: String,
    shards: Vec<Shard>,
    held: Held,
    stop: Stop,
    pauses: Pauses,
    link: Option<Link>,
    reconciled: Instant,
    /// The connection before may still be given something.
    unsure: bool,
    /// The last look found more than there was room for.
    owed: bool,
    /// The last read blocked for its whole time, and nothing has changed since.
    quiet: bool,
    /// The notes for people are written.
    introduced: bool,
    /// It was said how settles are fenced here.
    fence_told: bool,
    passed_over: [u8; 4],
    /// The stream that has filled the last read: of it there is more.
    deep: Option<Stream>,
    /// Which shard goes first in the next pass, so that queues of one worker share it.
    turn: usize,
}

/// A connection, and what was read on it belongs to.
struct Link {
    connection: Wire,
    epochs: HashMap<Shard, Arc<Epoch>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Consumer {
    /// A consumer named `worker` for the first shards of some queues. `held` is shared with the
    /// settler: an entry stays in it until its settle was answered.
    pub fn new(client: Client, worker: String, shards: Vec<Shard>, held: Held) -> Self {
        let stop = Stop::new(client.clone());
        let pauses = Pauses::new(client.clone(), &shards, stop.clone());
        Self {
            client,
            worker,
            shards,
            held,
            stop,
            pauses,
            link: None,
            reconciled: Instant::now(),
            unsure: false,
            owed: false,
            quiet: false,
            introduced: false,
            fence_told: false,
            passed_over: [0; 4],
            deep: None,
            turn: 0,
        }
    }

    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Which of its queues are paused.
    pub fn pauses(&self) -> Pauses {
        self.pauses.clone()
    }

    /// Reads at most `free` tasks; waits up to five seconds for the first. A blocked read may
    /// bring more when several streams get work at once: what is beyond `free` stands at the end
    /// of the answer and must be released. Of a paused queue nothing is read; what was already on
    /// its way must be released as well ([`Pauses::holds`]).
    ///
    /// Must not be cancelled: entries may be on their way. After an error the next call connects
    /// again and finds what the broken connection was sent.
    pub async fn fetch(&mut self, free: usize) -> Result<Vec<Delivery>, BrokerError> {
        let fetched = self.try_fetch(free.min(FETCH_MAX)).await;
        self.take_in(fetched)
    }

    /// Only what was delivered to this worker and never came. There is no room for it where
    /// everything is busy, so it is to be released: others may have.
    pub async fn ghosts(&mut self) -> Result<Vec<Delivery>, BrokerError> {
        let found = match self.ensure_link().await {
            Ok(_) => self.reconcile(FETCH_MAX).await,
            Err(error) => Err(error),
        };
        self.take_in(found)
    }

    fn take_in(
        &mut self,
        fetched: Result<Vec<Delivery>, BrokerError>,
    ) -> Result<Vec<Delivery>, BrokerError> {
        match &fetched {
            // Only now: what an error half way drops must be found again as a ghost.
            Ok(deliveries) => self.held.insert(deliveries),
            Err(_) => self.link = None,
        }
        fetched
    }

    async fn try_fetch(&mut self, free: usize) -> Result<Vec<Delivery>, BrokerError> {
        let connected = self.ensure_link().await?;
        let due =
            (self.unsure || !self.held.is_empty()) && self.reconciled.elapsed() >= RECONCILE_EVERY;
        if connected || due || self.owed {
            let ghosts = self.reconcile(free).await?;
            self.unsure &= connected;
            if !ghosts.is_empty() {
                return Ok(ghosts);
            }
        }
        // Asked first: what changes from here on ends the read below.
        let changes = self.pauses.changes();
        let open: Vec<Shard> =
            self.shards.iter().filter(|shard| !self.pauses.holds(shard)).cloned().collect();
        // After a read over all streams that brought nothing the next one can be it again.
        if !std::mem::take(&mut self.quiet) || connected {
            let found = self.pass(&open, free).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if self.stop.is_requested() {
            return Ok(Vec::new());
        }
        if open.is_empty() {
            self.wait_for_a_change(changes).await;
            return Ok(Vec::new());
        }
        self.stop.blocks(changes);
        let found = if self.pauses.changes() == changes {
            self.read_blocking(&open, free).await
        } else {
            Ok(Vec::new())
        };
        self.stop.reads_no_more();
        self.quiet = found.as_ref().is_ok_and(Vec::is_empty);
        found
    }

    async fn read_blocking(
        &mut self,
        open: &[Shard],
        free: usize,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let everything: Vec<(Shard, Stream)> = open
            .iter()
            .flat_map(|shard| Stream::IN_ORDER.map(|stream| (shard.clone(), stream)))
            .collect();
        // COUNT counts for each stream; a share of the permits each cannot exceed them, but for
        // the one that every stream may bring.
        let share = (free / everything.len()).max(1);
        self.read(&everything, share, Some(BLOCK)).await
    }

    /// All queues are paused: there is nothing to ask Redis for.
    async fn wait_for_a_change(&self, changes: u64) {
        let changed = async {
            tokio::select! {
                () = self.pauses.changed_since(changes) => {}
                () = self.stop.requested() => {}
            }
        };
        // As long as a read would block: what is looked at between two reads is looked at here too.
        let _ = timeout(BLOCK, changed).await;
    }

    /// Connects where there is no connection; whether it did.
    async fn ensure_link(&mut self) -> Result<bool, BrokerError> {
        if self.link.is_some() {
            return Ok(false);
        }
        self.introduce().await?;
        let link = self.connect().await?;
        // Before the first read: a queue may have been paused while nobody was here to hear of it.
        self.pauses.ask_all().await?;
        self.tell_fence(&link);
        self.link = Some(link);
        self.unsure = true;
        Ok(true)
    }

    /// Writes what people and other workers go by. A full Redis refuses it, and must be drained
    /// all the same.
    async fn introduce(&mut self) -> Result<(), BrokerError> {
        let mut written = Ok(());
        if !self.introduced {
            written = self.client.write_help().await;
        }
        for shard in &self.shards {
            // Each time: a Redis that lost its data has lost the list too.
            written = written.and(self.client.list_queue(shard).await);
        }
        match written {
            Err(error @ BrokerError::Refused(_)) => {
                warn!(%error, "could not enter the queues in the list of queues; going on");
                Ok(())
            }
            other => {
                self.introduced = other.is_ok();
                other
            }
        }
    }

    /// Once a worker: how late settles are told apart after the server has changed.
    fn tell_fence(&mut self, link: &Link) {
        let hidden = link.epochs.values().any(|epoch| epoch.run_id.is_empty());
        if hidden && !self.fence_told {
            warn!(
                worker = self.worker,
                "INFO does not tell the run_id of the server: settles compare task ids and attempts instead"
            );
        }
        self.fence_told = true;
    }

    async fn connect(&self) -> Result<Link, BrokerError> {
        let mut connection = self.client.connector().own(BLOCK + BLOCK_MARGIN).await?;
        let name = format!("umbel:worker:{}", self.worker);
        let (id, ()): (i64, ()) = redis::pipe()
            .cmd("CLIENT")
            .arg("ID")
            .cmd("CLIENT")
            .arg("SETNAME")
            .arg(name)
            .query_async(&mut connection)
            .await?;
        self.stop.reads_on(id);
        let mut epochs = HashMap::new();
        for shard in &self.shards {
            // Read before anything is read under it: old ids must not get a new server's tag.
            let epoch = shard::ensure_groups(self.client.scripts(), shard, &mut connection).await?;
            epochs.insert(shard.clone(), Arc::new(epoch));
        }
        Ok(Link { connection, epochs })
    }

    /// What was delivered to this worker and never came: into a connection that died.
    async fn reconcile(&mut self, free: usize) -> Result<Vec<Delivery>, BrokerError> {
        let mut ghosts = Vec::new();
        self.owed = false;
        if let Some(link) = &mut self.link {
            for shard in &self.shards {
                let room = free.saturating_sub(ghosts.len());
                let (worker, held) = (&self.worker, &self.held);
                let scripts = self.client.scripts();
                let found =
                    reconcile::ghosts(scripts, shard, worker, held, room, &mut link.connection);
                let found = found.await?;
                self.owed |= found.more;
                ghosts.extend(found.deliveries);
                // Another worker may have made the groups anew.
                link.epochs.insert(shard.clone(), found.epoch);
            }
        }
        self.reconciled = Instant::now();
        Ok(ghosts)
    }

    /// Whether the last read was filled: there is more to read.
    pub fn is_deep(&self) -> bool {
        self.deep.is_some()
    }

    /// Goes through the streams in order without waiting, until all permits are used.
    async fn pass(&mut self, open: &[Shard], free: usize) -> Result<Vec<Delivery>, BrokerError> {
        let deep = self.deep.take();
        if let ([shard], Some(stream), true) = (open, deep, free >= DEEP_LEAST)
            && order(&self.passed_over) == Stream::IN_ORDER
        {
            return self.pass_deep(shard, stream, free).await;
        }
        let mut found = Vec::new();
        self.turn = (self.turn + 1) % self.shards.len();
        for stream in order(&self.passed_over) {
            if found.len() >= free {
                self.passed_over[stream as usize] += 1;
                continue;
            }
            self.passed_over[stream as usize] = 0;
            for n in 0..open.len() {
                let shard = open[(self.turn + n) % open.len()].clone();
                let left = free - found.len();
                if left > 0 {
                    found.extend(self.read(&[(shard, stream)], left, None).await?);
                    if found.len() >= free {
                        self.deep = Some(stream);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Reads on where one stream fills every read. Those that go before it had nothing a moment ago;
    /// they are asked for one each, in the same round trip, and come in order again once they have it.
    async fn pass_deep(
        &mut self,
        shard: &Shard,
        deep: Stream,
        free: usize,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let (before, after) = Stream::IN_ORDER.split_at(deep as usize);
        let own = free - before.len();
        let mut reads: Vec<(Stream, usize)> = before.iter().map(|stream| (*stream, 1)).collect();
        reads.push((deep, own));
        for stream in &after[1..] {
            self.passed_over[*stream as usize] += 1;
        }
        let Some(link) = &mut self.link else { return Err(not_connected()) };
        let mut pipe = redis::pipe();
        for (stream, count) in &reads {
            pipe.add_command(read_command(&self.worker, *count, None, &[shard.ready(*stream)]));
        }
        let replies = link.connection.ask(&pipe.get_packed_pipeline(), reads.len()).await?;
        let mut found = Vec::with_capacity(free);
        let mut last = 0;
        for ((stream, _), reply) in reads.iter().zip(replies.iter()) {
            let streams = [(shard.clone(), *stream)];
            last = take_out(&streams, &[shard.ready(*stream)], &link.epochs, reply, &mut found)?;
        }
        if found.len() == last && last == own {
            self.deep = Some(deep);
        }
        Ok(found)
    }

    async fn read(
        &mut self,
        streams: &[(Shard, Stream)],
        count: usize,
        block: Option<Duration>,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let Some(link) = &mut self.link else { return Err(not_connected()) };
        let keys: Vec<String> =
            streams.iter().map(|(shard, stream)| shard.ready(*stream)).collect();
        let read = read_command(&self.worker, count, block, &keys);
        let replies = link.connection.ask(&read.get_packed_command(), 1).await?;
        let mut found = Vec::new();
        for reply in replies.iter() {
            take_out(streams, &keys, &link.epochs, reply, &mut found)?;
        }
        Ok(found)
    }
}

fn not_connected() -> BrokerError {
    BrokerError::Unavailable("not connected".to_owned())
}

fn read_command(worker: &str, count: usize, block: Option<Duration>, keys: &[String]) -> Cmd {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(worker).arg("COUNT").arg(count);
    if let Some(block) = block {
        read.arg("BLOCK").arg(block.as_millis() as u64);
    }
    read.arg("STREAMS").arg(keys).arg(vec![">"; keys.len()]);
    read
}

/// Puts what a read of some streams brought to `found`; returns how many came.
fn take_out(
    streams: &[(Shard, Stream)],
    keys: &[String],
    epochs: &HashMap<Shard, Arc<Epoch>>,
    reply: &[u8],
    found: &mut Vec<Delivery>,
) -> Result<usize, BrokerError> {
    wire::refusal(reply)?;
    let before = found.len();
    let all = reply::entries(reply, |key, entry, fields| {
        let at = keys.iter().position(|asked| asked.as_bytes() == key)?;
        let (shard, stream) = streams.get(at)?;
        let entry = str::from_utf8(entry).ok()?.to_owned();
        let key = EntryKey { shard: shard.clone(), stream: *stream, entry };
        found.push(Delivery::read(key, epochs.get(shard)?.clone(), fields));
        Some(())
    });
    all.ok_or_else(|| {
        BrokerError::Unexpected(format!("a read of {keys:?} was not answered with their entries"))
    })?;
    Ok(found.len() - before)
}

/// Strict order, but for a stream that was passed over too often.
fn order(passed_over: &[u8; 4]) -> [Stream; 4] {
    let mut order = Stream::IN_ORDER;
    order.sort_by_key(|stream| passed_over[*stream as usize] < PASSED_OVER_MAX);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_served_in_order_until_one_was_passed_over_too_often() {
        assert_eq!(order(&[0, 3, 11, 11]), Stream::IN_ORDER);
        assert_eq!(
            order(&[0, 0, 0, PASSED_OVER_MAX]),
            [Stream::Low, Stream::Recovered, Stream::High, Stream::Normal]
        );
    }
}
