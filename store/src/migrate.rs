//! Migrations: the tables of the framework, then those of an application, through whatever pooler
//! there is.
//!
//! Each migration is one transaction that takes the lock, looks what is pending, applies the first
//! and records it. A crash leaves it done or not begun; a second runner waits for the lock and
//! finds it done.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::{Db, StoreError, Tx};

/// The owner under which the framework's own migrations are recorded.
const OURS: &str = "umbel";

/// What the store itself needs.
const OUR_MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "steps",
        sql: "create table umbel_steps (
              task_id text not null,
              step text not null,
              output jsonb,
              done_at timestamptz not null default now(),
              primary key (task_id, step)
          );
          create index umbel_steps_done_at on umbel_steps (done_at)",
    },
    // Supabase grants all tables of `public` to roles whose keys are in every browser, and serves
    // them over HTTP. Without a policy such a role sees no row and writes none; whoever owns the
    // tables is not held by it.
    Migration {
        version: 2,
        name: "row level security",
        sql: "alter table umbel_migrations enable row level security;
              alter table umbel_steps enable row level security",
    },
];

/// Long enough to build an index over millions of rows, and to wait for another runner who does.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10 * 60);

/// One step of a schema. It never changes once it has been applied anywhere: the next change is
/// another migration.
///
/// The SQL may be several statements. It runs inside a transaction, so that `create index
/// concurrently` has no place in it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Migration {
    /// Its place in the order: greater than zero, and greater than that of the one before.
    pub version: i64,
    /// A few words for people.
    pub name: &'static str,
    /// What to run.
    pub sql: &'static str,
}

/// How the tables of a database stand against a list of migrations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether there is a record of migrations at all.
    pub has_record: bool,
    /// How many of these owners are in it.
    pub recorded: usize,
    /// How many of the list are not.
    pub pending: usize,
    /// Applied with another text than the list has, each in words.
    pub changed: Vec<String>,
    /// In the record and not in the list, as those of a newer release are, each in words.
    pub unknown: Vec<String>,
}

/// Why migrations were not applied. Those before the one that failed stay applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The list itself cannot be right.
    #[error("migration {version} of {owner} must have a number above {above}")]
    Order {
        /// Whose list.
        owner: String,
        /// The number that stands too low.
        version: i64,
        /// The number before it.
        above: i64,
    },
    /// The framework's name is its own.
    #[error("`{OURS}` is the owner of the framework's migrations: give yours another name")]
    Reserved,
    /// It was applied with another text than it has now.
    #[error(
        "migration {version} of {owner} was changed after it had been applied: restore its text, \
         and write another one for the change"
    )]
    Changed {
        /// Whose migration.
        owner: String,
        /// Its number.
        version: i64,
    },
    /// Postgres refused it; nothing of it remains.
    #[error("migration {version} ({name}) of {owner} failed")]
    Failed {
        /// Whose migration.
        owner: String,
        /// Its number.
        version: i64,
        /// Its name.
        name: &'static str,
        /// What was refused.
        #[source]
        source: StoreError,
    },
    /// The record of migrations cannot be read or written.
    #[error("cannot work with the record of migrations")]
    Store(#[from] StoreError),
}

impl MigrationError {
    /// Whether the same call may work later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Failed { source, .. } | Self::Store(source) => source.is_transient(),
            Self::Order { .. } | Self::Reserved | Self::Changed { .. } => false,
        }
    }
}

impl Db {
    /// Applies what is pending, the framework's own migrations first; returns how many. Safe to
    /// call again and from many processes at once. Migrations in the record that are not in the
    /// list, those of a newer release, are left alone.
    pub async fn migrate(
        &self,
        owner: &str,
        migrations: &[Migration],
    ) -> Result<usize, MigrationError> {
        if owner == OURS {
            return Err(MigrationError::Reserved);
        }
        check_order(owner, migrations)?;
        Ok(self.migrate_all(OURS, OUR_MIGRATIONS).await?
            + self.migrate_all(owner, migrations).await?)
    }

    /// How the tables stand against this list, the framework's own migrations included. Changes
    /// nothing, and needs no right but to read the record.
    pub async fn migrations(
        &self,
        owner: &str,
        migrations: &[Migration],
    ) -> Result<Standing, StoreError> {
        #[derive(Deserialize)]
        struct Record {
            there: bool,
        }
        #[derive(Serialize)]
        struct Asked<'a> {
            owners: [&'a str; 2],
            listed: Vec<Recorded<'a>>,
        }
        #[derive(Deserialize)]
        struct Row {
            owner: String,
            version: i64,
            name: String,
            listed: bool,
            recorded: bool,
            changed: bool,
        }
        let record: Option<Record> =
            self.row("select to_regclass('umbel_migrations') is not null as there", &()).await?;
        let ours = OUR_MIGRATIONS.iter().map(|migration| Recorded { owner: OURS, migration });
        let theirs = migrations.iter().map(|migration| Recorded { owner, migration });
        let listed: Vec<Recorded<'_>> = ours.chain(theirs).collect();
        if !record.is_some_and(|record| record.there) {
            return Ok(Standing { pending: listed.len(), ..Standing::default() });
        }
        let rows: Vec<Row> = self
            .rows(
                "with asked as materialized (select {params} as j),
                 listed as (
                     select listed.* from asked, jsonb_to_recordset(j->'listed')
                         as listed(owner text, version bigint, name text, sql text)
                 ), recorded as (
                     select umbel_migrations.* from umbel_migrations, asked
                     where j->'owners' ? owner
                 )
                 select owner, version, coalesce(recorded.name, listed.name) as name,
                        listed.sql is not null as listed,
                        recorded.checksum is not null as recorded,
                        coalesce(checksum <> encode(sha256(convert_to(sql, 'UTF8')), 'hex'), false)
                            as changed
                 from listed full join recorded using (owner, version)
                 order by owner, version",
                &Asked { owners: [OURS, owner], listed },
            )
            .await?;
        let told = |meant: fn(&Row) -> bool| -> Vec<String> {
            let rows = rows.iter().filter(|row| meant(row));
            rows.map(|row| format!("{} ({}) of {}", row.version, row.name, row.owner)).collect()
        };
        Ok(Standing {
            recorded: rows.iter().filter(|row| row.recorded).count(),
            pending: rows.iter().filter(|row| !row.recorded).count(),
            changed: told(|row| row.changed),
            unknown: told(|row| !row.listed),
            has_record: true,
        })
    }

    async fn migrate_all(
        &self,
        owner: &str,
        migrations: &[Migration],
    ) -> Result<usize, MigrationError> {
        let mut applied = 0;
        let step = async |tx: &mut Tx| apply_next(tx, owner, migrations).await;
        while let Some(migration) = self.transaction_within(STATEMENT_LIMIT, step).await? {
            info!("applied migration {} ({}) of {owner}", migration.version, migration.name);
            applied += 1;
        }
        Ok(applied)
    }
}

/// Applies the first migration that is pending and returns it, or `None` if there is none.
async fn apply_next<'a>(
    tx: &mut Tx,
    owner: &str,
    migrations: &'a [Migration],
) -> Result<Option<&'a Migration>, MigrationError> {
    // A lock of the transaction, not of the session: the session belongs to the pooler. The number
    // is ours by chance.
    tx.execute("select pg_advisory_xact_lock(6027418341976154631)", &()).await?;
    ensure_record(tx).await?;
    let Some(pending) = first_pending(tx, owner, migrations).await? else { return Ok(None) };
    tx.execute(pending.sql, &()).await.map_err(|source| MigrationError::Failed {
        owner: owner.to_owned(),
        version: pending.version,
        name: pending.name,
        source,
    })?;
    tx.execute(
        "insert into umbel_migrations (owner, version, name, checksum)
         select owner, version, name, encode(sha256(convert_to(sql, 'UTF8')), 'hex')
         from jsonb_to_record({params}) as done(owner text, version bigint, name text, sql text)",
        &Recorded { owner, migration: pending },
    )
    .await?;
    Ok(Some(pending))
}

async fn ensure_record(tx: &mut Tx) -> Result<(), StoreError> {
    #[derive(Deserialize)]
    struct Record {
        there: bool,
    }
    // `create table if not exists` would need the right to create even where there is nothing to
    // do.
    let record: Option<Record> =
        tx.row("select to_regclass('umbel_migrations') is not null as there", &()).await?;
    if !record.is_some_and(|record| record.there) {
        tx.execute(
            "create table umbel_migrations (
                 owner text not null,
                 version bigint not null,
                 name text not null,
                 checksum text not null,
                 applied_at timestamptz not null default now(),
                 primary key (owner, version)
             )",
            &(),
        )
        .await?;
    }
    Ok(())
}

async fn first_pending<'a>(
    tx: &mut Tx,
    owner: &str,
    migrations: &'a [Migration],
) -> Result<Option<&'a Migration>, MigrationError> {
    #[derive(Deserialize)]
    struct Applied {
        version: i64,
        changed: bool,
    }
    let applied: Vec<Applied> = tx
        .rows(
            "select version, checksum <> encode(sha256(convert_to(sql, 'UTF8')), 'hex') as changed
             from jsonb_to_recordset({params}) as listed(owner text, version bigint, sql text)
             join umbel_migrations using (owner, version)",
            &migrations.iter().map(|migration| Recorded { owner, migration }).collect::<Vec<_>>(),
        )
        .await?;
    if let Some(changed) = applied.iter().find(|applied| applied.changed) {
        return Err(MigrationError::Changed { owner: owner.to_owned(), version: changed.version });
    }
    Ok(migrations
        .iter()
        .find(|migration| applied.iter().all(|applied| applied.version != migration.version)))
}

/// A migration under its owner's name, as Postgres is told of it.
#[derive(Serialize)]
struct Recorded<'a> {
    owner: &'a str,
    #[serde(flatten)]
    migration: &'a Migration,
}

fn check_order(owner: &str, migrations: &[Migration]) -> Result<(), MigrationError> {
    let mut above = 0;
    for &Migration { version, .. } in migrations {
        if version <= above {
            return Err(MigrationError::Order { owner: owner.to_owned(), version, above });
        }
        above = version;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(versions: &[i64]) -> Vec<Migration> {
        versions.iter().map(|&version| Migration { version, name: "a", sql: "select 1" }).collect()
    }

    #[test]
    fn migrations_are_numbered_upwards_from_one() {
        check_order("shop", OUR_MIGRATIONS).expect("ours");
        check_order("shop", &numbered(&[1, 2, 20260101])).expect("gaps are fine");
        for wrong in [&[0][..], &[1, 1], &[2, 1], &[-1]] {
            assert!(
                matches!(check_order("shop", &numbered(wrong)), Err(MigrationError::Order { .. })),
                "{wrong:?}"
            );
        }
    }
}
