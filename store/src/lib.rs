//! Postgres, only here: a pool that is safe behind a transaction pooler, migrations, effects that
//! happen once.
//!
//! Behind PgBouncer or Supavisor in transaction mode each statement may land on another server
//! connection, so that prepared statements answer other clients' questions. [`Db`] offers only a
//! form for which that cannot happen: [`Db::rows`], [`Db::row`], [`Db::execute`], and the same on
//! [`Tx`]. The SQL is fixed text with one `{params}`, where all parameters arrive as one `jsonb`
//! value; each statement is one message of the simple protocol, and nothing is ever prepared.
//!
//! Not to be had here: `LISTEN`, session locks, `SET`, temporary tables, named statements.

mod db;
mod error;
mod meters;
mod migrate;
mod once;
mod session;
mod settings;
mod statement;
mod tls;

pub use db::{Db, PoolUsage, Tx};
pub use error::{Denial, Refusal, StoreError};
pub use migrate::{Migration, MigrationError, Standing};
pub use settings::{SettingsError, StoreSettings};
