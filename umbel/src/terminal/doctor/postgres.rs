//! Whether Postgres can be had in the way that it is used: through its pooler, and as much as is set.

use serde::{Deserialize, Serialize};
use umbel_store::{Db, StoreError, StoreSettings};

use super::{
    Finding,
    pooler::{self, Way},
};
use crate::settings::Settings;

/// What the tables are written for.
const OLDEST: i64 = 150_000;

/// What was found, and how the database is reached where that could be found out.
pub(super) async fn examine(settings: &Settings, has_tables: bool) -> (Vec<Finding>, Option<Way>) {
    // What cannot be read is told with the settings.
    let Ok(Some(store)) = settings.database.store() else { return (Vec::new(), None) };
    let Reached { facts, way, mut findings } = match reach(&store).await {
        Ok(reached) => reached,
        Err(error) => {
            let told = format!("{}: {}", address(&store), chain(error));
            let level = if has_tables { Finding::problem } else { Finding::warning };
            return (vec![level("postgres", told)], None);
        }
    };
    if let Some(way) = way {
        findings.push(pooler::judge(way, &store).await);
    }
    findings.extend(judge(&facts, way, store.max_connections));
    if settings.database.database_direct_url.is_some()
        && let Ok(Some(direct)) = settings.database.store_direct()
    {
        findings.push(past_the_pooler(reach(&direct).await, &facts, &direct, &store));
    }
    (findings, way)
}

fn past_the_pooler(
    reached: Result<Reached, StoreError>,
    facts: &Facts,
    direct: &StoreSettings,
    store: &StoreSettings,
) -> Finding {
    const CHECK: &str = "postgres-direct";
    let other = match reached {
        Ok(other) => other,
        Err(error) => {
            let told = format!("DATABASE_DIRECT_URL: {}: {}", address(direct), chain(error));
            return Finding::problem(CHECK, told);
        }
    };
    if !other.facts.is_the_same_as(facts) {
        return Finding::problem(
            CHECK,
            format!(
                "DATABASE_DIRECT_URL ({}) leads to another database than DATABASE_URL ({}): \
                 migrations would change the wrong one",
                address(direct),
                address(store)
            ),
        );
    }
    match other.way {
        Some(Way::Transaction) => Finding::warning(
            CHECK,
            "DATABASE_DIRECT_URL leads through a pooler in transaction mode too, and is meant to lead past it, \
             so that a long migration takes none of the connections that all share: name postgres itself, or \
             leave it out; migrations are safe either way",
        ),
        _ => Finding::fine(CHECK, "DATABASE_DIRECT_URL leads to the same database"),
    }
}

/// The error with its sources.
pub(super) fn chain(error: StoreError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

fn address(store: &StoreSettings) -> String {
    store.address().unwrap_or_else(|error| error.to_string())
}

#[derive(Debug, PartialEq, Deserialize)]
struct Facts {
    version: i64,
    max_connections: i64,
    reserved: i64,
    /// Connections of others than this database's pool, the server's own not counted.
    used: i64,
    database: i64,
    started: String,
}

impl Facts {
    fn is_the_same_as(&self, other: &Self) -> bool {
        (self.database, &self.started) == (other.database, &other.started)
    }
}

/// What was seen of a server.
struct Reached {
    facts: Facts,
    /// Unless not even a transaction works.
    way: Option<Way>,
    findings: Vec<Finding>,
}

/// A client with one connection: there may be no more, and to look it is enough.
pub(super) fn single(store: &StoreSettings) -> Result<Db, StoreError> {
    let one = StoreSettings { max_connections: 1, min_connections: 0, ..store.clone() };
    Db::open(&one).map_err(|error| StoreError::BadParameter(error.to_string()))
}

/// Tries both forms of statement that are used, and reads what is to be judged.
async fn reach(store: &StoreSettings) -> Result<Reached, StoreError> {
    let db = single(store)?;
    let looked = look(&db).await;
    let options = match &looked {
        Ok((_, findings)) if findings.is_empty() => Some(pooler::lost_options(&db, store).await),
        _ => None,
    };
    db.close().await;
    let (facts, mut findings) = looked?;
    let Some(options) = options else { return Ok(Reached { facts, way: None, findings }) };
    findings.extend(options);
    Ok(Reached { facts, way: Some(pooler::way(store).await?), findings })
}

/// Of findings only what is wrong.
async fn look(db: &Db) -> Result<(Facts, Vec<Finding>), StoreError> {
    #[derive(Serialize)]
    struct Asked {
        number: i64,
    }
    #[derive(Deserialize)]
    struct Answered {
        number: i64,
        pid: i64,
    }
    const ASK: &str =
        "select (({params})->>'number')::bigint as number, pg_backend_pid()::bigint as pid";
    let facts: Option<Facts> = db
        .row(
            "select current_setting('server_version_num')::bigint as version,
                    current_setting('max_connections')::bigint as max_connections,
                    current_setting('superuser_reserved_connections')::bigint as reserved,
                    (select count(*) from pg_stat_activity
                      where backend_type = 'client backend' and pid <> pg_backend_pid())::bigint as used,
                    (select oid from pg_database where datname = current_database())::bigint as database,
                    pg_postmaster_start_time()::text as started",
            &(),
        )
        .await?;
    let facts = facts.ok_or(StoreError::BadParameter("it told nothing of itself".to_owned()))?;
    let mut findings = Vec::new();
    let alone: Option<Answered> = db.row(ASK, &Asked { number: 7 }).await?;
    let together = db
        .transaction(async |tx| {
            let first: Option<Answered> = tx.row(ASK, &Asked { number: 1 }).await?;
            let second: Option<Answered> = tx.row(ASK, &Asked { number: 2 }).await?;
            Ok::<_, StoreError>((first, second))
        })
        .await;
    if alone.is_none_or(|answer| answer.number != 7) {
        findings.push(Finding::problem(
            "postgres-pooler",
            "a statement with parameters came back changed",
        ));
    }
    match together {
        Ok((Some(first), Some(second))) if first.pid == second.pid && second.number == 2 => {}
        Ok(_) => findings.push(Finding::problem(
            "postgres-pooler",
            "a transaction was spread over several connections: the pooler must be in transaction or session mode",
        )),
        Err(error) => findings.push(Finding::problem(
            "postgres-pooler",
            format!("transactions are refused ({}): the pooler must be in transaction or session mode, not in statement mode", chain(error)),
        )),
    }
    Ok((facts, findings))
}

fn judge(facts: &Facts, way: Option<Way>, pool: u32) -> Vec<Finding> {
    let Facts { version, max_connections, reserved, used, .. } = facts;
    let (major, oldest) = (version / 10_000, OLDEST / 10_000);
    let mut findings = vec![match *version >= OLDEST {
        true => Finding::fine("postgres", format!("version {major}")),
        false => {
            Finding::problem("postgres", format!("version {major} is too old: {oldest} is needed"))
        }
    }];
    let open = max_connections - reserved;
    let pool = i64::from(pool);
    findings.push(if way == Some(Way::Transaction) {
        Finding::fine("postgres-pool", format!("a pool of {pool} shares the connections of the pooler"))
    } else if pool > open {
        Finding::problem(
            "postgres-pool",
            format!("DATABASE_MAX_CONNECTIONS ({pool}) is more than postgres gives ({open}): lower it, or the last ones are refused"),
        )
    } else if 2 * pool + used > open {
        Finding::warning(
            "postgres-pool",
            format!("of {open} connections {used} are in use: with a pool of {pool} the old and the new release cannot both have theirs during a deploy"),
        )
    } else {
        Finding::fine("postgres-pool", format!("a pool of {pool} fits twice into {open} connections"))
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_pool_fits_twice_or_once_or_not_at_all() {
        let facts = |used| Facts {
            version: 160_004,
            max_connections: 100,
            reserved: 3,
            used,
            database: 1,
            started: String::new(),
        };
        let level = |pool, used| judge(&facts(used), Some(Way::Direct), pool).pop().unwrap().level;
        assert_eq!(level(20, 0), Level::Fine);
        assert_eq!(level(20, 60), Level::Warning);
        assert_eq!(level(98, 0), Level::Problem);
        let shared = judge(&facts(60), Some(Way::Transaction), 98).pop().unwrap();
        assert_eq!(shared.level, Level::Fine);
        let old = Facts { version: 140_000, ..facts(0) };
        assert_eq!(judge(&old, None, 1)[0].level, Level::Problem);
    }
}
