//! The raw limit: what Redis does for the plainest client there can be, with the stream, fields and
//! sizes of Umbel. Commands are encoded before the clock starts and go over one blocking socket;
//! of their replies only the number counts.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpStream},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use chrono::Utc;
use umbel_broker::keys::{GROUP, Shard, Stream};
use umbel_proto::{Body, Envelope, Priority, Task, TaskId, codec};
use umbel_tests::services::RedisServer;
use uuid::Uuid;

use crate::{
    noop::{ARGUMENT_BYTES, NoOp, QUEUE},
    resp::{Replies, encode},
};

/// How many tasks are enqueued in one write, and read, acknowledged and deleted by one command
/// each.
pub const BATCH: usize = 100;

/// How many writes may be out before the replies of the first are read: Redis has work at any
/// time, and what it has yet to read stays small.
const AHEAD: usize = 8;

/// Ids of entries are written out, so that acknowledging needs no reply. They have the length of
/// those that Redis gives, and begin here.
const FIRST_ENTRY_MS: usize = 1_790_000_000_000;

/// As long as Umbel keeps a result by default.
const RESULT_TTL_S: &str = "86400";

/// A reply that takes longer never comes.
const REPLY_MAX: Duration = Duration::from_secs(30);

/// A connection, and the stream that it works on.
#[derive(Debug)]
pub struct Raw<'a> {
    redis: &'a RedisServer,
    shard: Shard,
    stream: String,
    wire: Wire,
    argument_bytes: usize,
}

/// What goes out in one write.
#[derive(Debug, Default)]
struct Burst {
    bytes: Vec<u8>,
    replies: usize,
}

#[derive(Debug)]
struct Wire {
    socket: TcpStream,
    replies: Replies<TcpStream>,
}

impl<'a> Raw<'a> {
    /// Makes the stream and its group in an empty Redis.
    pub fn connect(redis: &'a RedisServer) -> anyhow::Result<Self> {
        let shard = Shard::first(&QUEUE.parse()?);
        let stream = shard.ready(Stream::from(Priority::Normal));
        let mut group = Burst::default();
        group.push(["XGROUP", "CREATE", &stream, GROUP, "0", "MKSTREAM"]);
        let mut wire = Wire::connect(redis.port())?;
        wire.play(&[group], 0)?;
        Ok(Self { redis, shard, stream, wire, argument_bytes: ARGUMENT_BYTES })
    }

    /// With tasks whose argument has so many bytes.
    pub fn with_argument(self, argument_bytes: usize) -> Self {
        Self { argument_bytes, ..self }
    }

    /// Enqueues so many tasks, in pipelined batches.
    pub fn enqueue_bulk(&mut self, tasks: usize) -> anyhow::Result<Duration> {
        self.enqueue(tasks, BATCH, AHEAD)
    }

    /// Enqueues so many tasks, each when the one before is answered.
    pub fn enqueue_singly(&mut self, tasks: usize) -> anyhow::Result<Duration> {
        self.enqueue(tasks, 1, 0)
    }

    fn enqueue(&mut self, tasks: usize, batch: usize, ahead: usize) -> anyhow::Result<Duration> {
        let mut bursts = Vec::new();
        for first in (0..tasks).step_by(batch) {
            let mut burst = Burst::default();
            for place in first..tasks.min(first + batch) {
                burst.push(self.add(place)?);
            }
            bursts.push(burst);
        }
        let (took, _) = self.wire.play(&bursts, ahead)?;
        let queued = self.queued();
        ensure!(queued == tasks.to_string(), "{queued} of {tasks} tasks were enqueued");
        Ok(took)
    }

    /// Enqueues, reads, acknowledges and deletes so many tasks, batch by batch.
    pub fn cycle(&mut self, tasks: usize) -> anyhow::Result<Duration> {
        let mut bursts = Vec::new();
        for first in (0..tasks).step_by(BATCH) {
            let places = first..tasks.min(first + BATCH);
            let mut burst = Burst::default();
            for place in places.clone() {
                burst.push(self.add(place)?);
            }
            self.take(places, &mut burst);
            bursts.push(burst);
        }
        let (took, gone) = self.wire.play(&bursts, AHEAD)?;
        ensure!(gone == 2 * tasks as u64, "not all tasks were acknowledged and deleted");
        Ok(took)
    }

    /// Reads, acknowledges and deletes some tasks by one command each.
    fn take(&self, places: Range<usize>, burst: &mut Burst) {
        let entries: Vec<String> = places.map(entry).collect();
        let count = BATCH.to_string();
        burst.push(read(&["COUNT", &count, "STREAMS", &self.stream, ">"]));
        for head in [vec!["XACK", &self.stream, GROUP], vec!["XDEL", &self.stream]] {
            burst.push(head.into_iter().chain(entries.iter().map(String::as_str)));
        }
    }

    /// Reads, acknowledges and deletes so many tasks, and sets a result for each where `results`.
    pub fn drain(&mut self, tasks: usize, results: bool) -> anyhow::Result<Duration> {
        let mut bursts = Vec::new();
        for first in (0..tasks).step_by(BATCH) {
            let places = first..tasks.min(first + BATCH);
            let mut burst = Burst::default();
            self.take(places.clone(), &mut burst);
            for place in places.filter(|_| results) {
                let key = self.shard.task(&id(place)?);
                let result = codec::encode(&place)?;
                let set: [&[u8]; 5] =
                    [b"SET", key.as_bytes(), &result, b"EX", RESULT_TTL_S.as_bytes()];
                burst.push(set);
            }
            bursts.push(burst);
        }
        let (took, gone) = self.wire.play(&bursts, AHEAD)?;
        // Only what was read can be acknowledged.
        ensure!(gone == 2 * tasks as u64, "not all tasks were acknowledged and deleted");
        let queued = self.queued();
        ensure!(queued == "0", "{queued} tasks were left");
        Ok(took)
    }

    /// How long so many tasks, one each `every`, take from here to a reader that waits for them.
    pub fn hand_overs(&mut self, tasks: usize, every: Duration) -> anyhow::Result<Vec<Duration>> {
        let mut reader = Wire::connect(self.redis.port())?;
        let mut next = Burst::default();
        next.push(read(&["COUNT", "1", "BLOCK", "0", "STREAMS", &self.stream, ">"]));
        let adds = (0..tasks)
            .map(|place| {
                let mut add = Burst::default();
                add.push(self.add(place)?);
                Ok([add])
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        thread::scope(|scope| {
            let reading = scope.spawn(move || -> anyhow::Result<Vec<Instant>> {
                let next = [next];
                (0..tasks)
                    .map(|_| {
                        reader.play(&next, 0)?;
                        Ok(Instant::now())
                    })
                    .collect()
            });
            let mut sent = Vec::with_capacity(tasks);
            let mut due = Instant::now();
            for add in &adds {
                due += every;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                sent.push(Instant::now());
                self.wire.play(add, 0)?;
            }
            let came = reading.join().map_err(|_| anyhow!("the reader panicked"))??;
            Ok(came.into_iter().zip(sent).map(|(came, sent)| came - sent).collect())
        })
    }

    fn add(&self, place: usize) -> anyhow::Result<Vec<Vec<u8>>> {
        let body = Body {
            args: codec::encode(&NoOp::<false>::sized(place, self.argument_bytes))?,
            ..Body::default()
        };
        let name = NoOp::<false>::NAME.parse()?;
        let envelope = Envelope::seal(id(place)?, name, &body, Utc::now())?;
        let mut command: Vec<Vec<u8>> =
            vec![b"XADD".into(), self.stream.as_str().into(), entry(place).into()];
        for (field, value) in envelope.fields() {
            command.extend([field.into(), value]);
        }
        Ok(command)
    }

    fn queued(&self) -> String {
        self.redis.cli(&["xlen", &self.stream])
    }
}

impl Burst {
    fn push<A: AsRef<[u8]>>(&mut self, command: impl IntoIterator<Item = A>) {
        encode(command, &mut self.bytes);
        self.replies += 1;
    }
}

impl Wire {
    fn connect(port: u16) -> anyhow::Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_MAX))?;
        let replies = Replies::new(socket.try_clone()?);
        Ok(Self { socket, replies })
    }

    /// From the first write to the last reply, and the sum of all integers among the replies.
    fn play(&mut self, bursts: &[Burst], ahead: usize) -> anyhow::Result<(Duration, u64)> {
        let began = Instant::now();
        let (mut sent, mut sum) = (0, 0);
        for (answered, burst) in bursts.iter().enumerate() {
            while sent < bursts.len() && sent <= answered + ahead {
                self.socket.write_all(&bursts[sent].bytes)?;
                sent += 1;
            }
            sum += self.replies.skip(burst.replies)?;
        }
        Ok((began.elapsed(), sum))
    }
}

fn read<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    [&["XREADGROUP", "GROUP", GROUP, "raw"], rest].concat()
}

fn entry(place: usize) -> String {
    format!("{}-{}", FIRST_ENTRY_MS + place / BATCH, place % BATCH)
}

fn id(place: usize) -> anyhow::Result<TaskId> {
    Ok(TaskId::new(&QUEUE.parse()?, Uuid::from_u128(place as u128)))
}
