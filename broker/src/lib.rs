//! Redis as the broker: every key, script and connection of the house is in this crate, and no
//! Redis type leaves it.
//!
//! - [`Client`]: enqueue, look at tasks and queues
//! - [`Consumer`], [`Delivery`]: fetch what a worker has room for
//! - [`Settler`], [`Verdict`]: end runs, in batches
//! - [`liveness`], [`shard`]: heartbeats, delayed tasks, recovery
//! - [`slots`], [`schedules`]: the slots of schedules, and how the schedules stand
//! - [`Pauses`], [`dead`], [`roster`]: paused queues, dead letters, who works
//! - [`limit`], [`limits`]: what all workers may do together, by key, and how these stand
//! - [`peek`], [`whereabouts`]: tasks that have not ended, one by one; where one of them is
//! - [`server`]: whether a Redis keeps what it is given, and how it stands
//! - [`keys`]: what is stored where

mod cancel;
pub mod census;
mod claim;
mod client;
mod connection;
mod consumer;
pub mod dead;
mod delivery;
mod enqueue;
mod error;
mod fields;
mod ids;
mod inspect;
pub mod keys;
pub mod limit;
pub mod limits;
pub mod liveness;
pub mod meters;
mod new_task;
mod pause;
pub mod peek;
mod purge;
mod reconcile;
mod reply;
pub mod roster;
pub mod schedules;
mod script;
pub mod server;
mod settings;
mod settle;
mod settler;
pub mod shard;
mod sharing;
pub mod slots;
mod stop;
mod wait;
pub mod whereabouts;
mod wire;

pub use cancel::Cancel;
pub use client::Client;
pub use consumer::Consumer;
pub use delivery::{Contents, Delivery, Held, HeldAs, parked_task};
pub use enqueue::{Enqueue, EnqueueMany, Submitted};
pub use error::BrokerError;
pub use inspect::{PastRun, QueueStatus, TaskRecord};
pub use limit::{Acquired, Ahead, LimitRules, Permit};
pub use new_task::{CallOptions, NewTask, When};
pub use pause::{Pause, Pauses};
pub use purge::{Purge, PurgeKind};
#[doc(hidden)]
pub use script::Scripts;
pub use settings::BrokerSettings;
pub use settle::{Settlement, Terms, Verdict, Why};
pub use settler::Settler;
pub use stop::Stop;
pub use wait::{TaskHandle, WaitError};
