//! A proxy that harms what passes through it, between a process and a server on loopback. Faults
//! are switched while it runs.
//!
//! A fault does what TCP can do and no more: of a connection that has lost a byte, no later byte of
//! that direction arrives.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::services::Port;

/// What one read takes at most: several replies fit, so that a cut can fall between them.
const CHUNK: usize = 16 * 1024;

/// How many chunks may be under way in one direction: with a long delay, that many reads.
const UNDER_WAY_MAX: usize = 1_024;

/// After a connection that could not be accepted: soon, and not in a circle.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What is done to connections now.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    delay: [Duration; 2],
    swallowed: [bool; 2],
    half_open: bool,
    /// How often connections were made silent; what was accepted before stays so.
    silenced: u32,
    /// How often all connections were reset.
    resets: u32,
    /// Of a chunk.
    reset_chance: f64,
}

/// What all connections of a proxy share.
#[derive(Debug, Clone)]
struct Shared {
    server: u16,
    plan: Arc<watch::Sender<Plan>>,
    dice: Arc<Mutex<StdRng>>,
    /// The next reply ends its connection after so many bytes.
    cut: Arc<Mutex<Option<usize>>>,
}

/// The proxy; it and its connections end when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    shared: Shared,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port for a server on 127.0.0.1. `seed`: what chance goes by.
    pub async fn start(server: u16, seed: u64) -> Self {
        let shared = Shared {
            server,
            plan: Arc::new(watch::Sender::new(Plan::default())),
            dice: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            cut: Arc::default(),
        };
        let mut proxy = Self { port: Port::claim(), shared, accepting: None };
        proxy.listen().await;
        proxy
    }

    /// The port on 127.0.0.1; it stays the same.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// From now on bytes of this direction come so much later.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.change(|plan| plan.delay[way as usize] = delay);
    }

    /// From now on bytes of this direction are taken and never arrive.
    pub fn swallow(&self, way: Way) {
        self.change(|plan| plan.swallowed[way as usize] = true);
    }

    /// The connections there are fall silent for ever, and neither side learns of it; new ones are
    /// accepted and are silent too, until [`heal`](Self::heal).
    pub fn half_open(&self) {
        self.change(|plan| {
            plan.half_open = true;
            plan.silenced += 1;
        });
    }

    /// Each chunk of bytes resets its connection by this chance.
    pub fn reset_sometimes(&self, chance: f64) {
        self.change(|plan| plan.reset_chance = chance);
    }

    /// Resets all connections, once.
    pub fn reset_all(&self) {
        self.change(|plan| plan.resets += 1);
    }

    /// The next reply, on whichever connection, is cut after so many bytes, and its connection
    /// ends.
    pub fn cut_next_reply(&self, after: usize) {
        *self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
    }

    /// Refuses new connections; those there are stay.
    pub async fn stop_listening(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Cancelled, which is what was asked for; the port is free once it has ended.
            let _ = accepting.await;
        }
    }

    /// Accepts again after [`stop_listening`](Self::stop_listening).
    pub async fn listen(&mut self) {
        self.stop_listening().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port()))
            .await
            .expect("the port was claimed for this proxy");
        self.accepting = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    /// Ends all faults. Connections that fell silent or lost bytes stay as they are.
    pub fn heal(&self) {
        *self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.change(|plan| {
            *plan = Plan { silenced: plan.silenced, resets: plan.resets, ..Plan::default() };
        });
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        self.shared.plan.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.reset_all();
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Shared) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(connection(client, shared.clone()))),
            // Gone before it was accepted, or too many are open.
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// Why a connection ends other than by its two sides.
#[derive(Debug)]
enum Harm {
    Reset,
    Cut,
    /// One of the sides did something of its own.
    Broken,
}

impl From<io::Error> for Harm {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

async fn connection(mut client: TcpStream, shared: Shared) {
    let accepted = *shared.plan.borrow();
    // Dropped, which the client sees as a server that is not there.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.server)).await else {
        return;
    };
    // Where it fails, bytes only come a little later.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let harm = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = Line::new(Way::ToServer, &shared, accepted);
        let back = Line::new(Way::ToClient, &shared, accepted);
        tokio::try_join!(there.carry(from_client, to_server), back.carry(from_server, to_client))
    };
    if let Err(Harm::Reset) = harm {
        // Closed with bytes unread or not, the sides get an RST.
        let _ = client.set_zero_linger().and_then(|()| server.set_zero_linger());
    }
}

/// One direction of one connection.
struct Line<'a> {
    way: Way,
    shared: &'a Shared,
    accepted: Plan,
    plan: watch::Receiver<Plan>,
    /// How many bytes are still carried of a reply that is cut.
    cut: Option<usize>,
    has_lost: bool,
}

impl<'a> Line<'a> {
    fn new(way: Way, shared: &'a Shared, accepted: Plan) -> Self {
        let plan = shared.plan.subscribe();
        Self { way, shared, accepted, plan, cut: None, has_lost: false }
    }

    async fn carry(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Harm> {
        let (chunks, arriving) = mpsc::channel(UNDER_WAY_MAX);
        tokio::try_join!(self.take(from, chunks), give(arriving, to)).map(drop)
    }

    async fn take(mut self, mut from: ReadHalf<'_>, chunks: Chunks) -> Result<(), Harm> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = tokio::select! {
                // The sender is in `shared`; there is no error.
                _ = self.plan.changed() => None,
                read = from.read(&mut buffer) => Some(read?),
            };
            let plan = *self.plan.borrow_and_update();
            if plan.resets != self.accepted.resets {
                return Err(Harm::Reset);
            }
            if self.accepted.half_open || plan.silenced != self.accepted.silenced {
                self.silence().await;
                return Err(Harm::Reset);
            }
            match read {
                None => {}
                Some(0) => return Ok(()),
                Some(read) => self.pass(&buffer[..read], plan, &chunks).await?,
            }
        }
    }

    async fn pass(&mut self, bytes: &[u8], plan: Plan, chunks: &Chunks) -> Result<(), Harm> {
        self.has_lost |= plan.swallowed[self.way as usize];
        if self.has_lost {
            return Ok(());
        }
        if plan.reset_chance > 0.0 {
            let mut dice = self.shared.dice.lock().unwrap_or_else(PoisonError::into_inner);
            if dice.random_bool(plan.reset_chance) {
                return Err(Harm::Reset);
            }
        }
        if self.way == Way::ToClient && self.cut.is_none() {
            self.cut = self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let kept = self.cut.map_or(bytes.len(), |left| left.min(bytes.len()));
        self.cut = self.cut.map(|left| left - kept);
        let due = Instant::now() + plan.delay[self.way as usize];
        let is_last = self.cut == Some(0);
        let chunk = Chunk { due, bytes: bytes[..kept].to_vec(), is_last };
        chunks.send(chunk).await.map_err(|_| Harm::Broken)?;
        // Who gives the last chunk ends the connection.
        if is_last { std::future::pending().await } else { Ok(()) }
    }

    /// Says and hears nothing until all connections are reset.
    async fn silence(&mut self) {
        let resets = self.accepted.resets;
        let _ = self.plan.wait_for(|plan| plan.resets != resets).await;
    }
}

type Chunks = mpsc::Sender<Chunk>;

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    /// The reply is cut here.
    is_last: bool,
}

async fn give(mut chunks: mpsc::Receiver<Chunk>, mut to: WriteHalf<'_>) -> Result<(), Harm> {
    while let Some(Chunk { due, bytes, is_last }) = chunks.recv().await {
        sleep_until(due).await;
        to.write_all(&bytes).await?;
        if is_last {
            return Err(Harm::Cut);
        }
    }
    Ok(to.shutdown().await?)
}
