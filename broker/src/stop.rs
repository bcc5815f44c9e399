//! Ends a worker's blocked read from outside: because the worker stops, or because the read began
//! before one of its queues was paused or went on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use redis::cmd;
use tokio::sync::Notify;

use crate::{BrokerError, Client};

/// No read blocks.
const NO_READ: u64 = u64::MAX;

/// Ends a consumer's blocked read from outside.
#[derive(Debug, Clone)]
pub struct Stop {
    client: Client,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    requested: AtomicBool,
    connection: AtomicI64,
    /// What the blocked read goes by: after how many changes of what is paused; or [`NO_READ`].
    blocks_since: AtomicU64,
    /// For a read that waits without Redis, since all of its queues are paused.
    awake: Notify,
}

impl Stop {
    pub(crate) fn new(client: Client) -> Self {
        let state = State {
            requested: AtomicBool::default(),
            connection: AtomicI64::default(),
            blocks_since: AtomicU64::new(NO_READ),
            awake: Notify::new(),
        };
        Self { client, state: Arc::new(state) }
    }

    /// From now on no read blocks, and one that does is ended; it claims nothing by that. A read
    /// that is just about to block is missed: call again until the reading loop has ended.
    pub async fn request(&self) -> Result<(), BrokerError> {
        self.state.requested.store(true, Ordering::SeqCst);
        self.state.awake.notify_one();
        self.unblock().await
    }

    /// Ends the read that blocks now, if any; it claims nothing by that.
    pub(crate) async fn unblock(&self) -> Result<(), BrokerError> {
        let id = self.state.connection.load(Ordering::SeqCst);
        self.client.query::<i64>(cmd("CLIENT").arg("UNBLOCK").arg(id)).await.map(|_| ())
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.state.requested.load(Ordering::SeqCst)
    }

    /// Until it is requested; an earlier request counts.
    pub(crate) async fn requested(&self) {
        self.state.awake.notified().await;
    }

    /// Which connection of the server reads from now on.
    pub(crate) fn reads_on(&self, connection: i64) {
        self.state.connection.store(connection, Ordering::SeqCst);
    }

    /// A read begins that goes by so many changes of what is paused.
    pub(crate) fn blocks(&self, changes: u64) {
        self.state.blocks_since.store(changes, Ordering::SeqCst);
    }

    /// The read has ended.
    pub(crate) fn reads_no_more(&self) {
        self.state.blocks_since.store(NO_READ, Ordering::SeqCst);
    }

    /// Whether a read blocks that goes by fewer changes of what is paused.
    pub(crate) fn blocks_since_before(&self, changes: u64) -> bool {
        self.state.blocks_since.load(Ordering::SeqCst) < changes
    }
}
