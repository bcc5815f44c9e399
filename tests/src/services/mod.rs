//! Real services as private children: Redis, Postgres, PgBouncer, each on a loopback port of its
//! own, with a folder that goes when they go. What cannot be started panics and says why.
//!
//! ```no_run
//! use umbel_tests::services::{PgBouncer, PostgresServer, RedisServer};
//!
//! let redis = RedisServer::start();
//! assert_eq!(redis.cli(&["ping"]), "PONG");
//!
//! let database = PostgresServer::shared().database();
//! let pooler = PgBouncer::start(PostgresServer::shared(), 2);
//! let through_the_pooler = pooler.url(&database);
//! ```

mod child;
mod pgbouncer;
mod port;
mod postgres;
mod redis;

pub use pgbouncer::PgBouncer;
pub(crate) use port::Port;
pub use postgres::{PostgresServer, TestDatabase};
pub use redis::RedisServer;

/// What a server shows to those who come by TLS, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}
