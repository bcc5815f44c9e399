//! How a connection leads to Postgres: straight, or through a pooler, and in which of its modes. No
//! pooler tells its clients; it shows by the processes of the server that two of them meet.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use umbel_store::{Db, StoreError, StoreSettings, Tx};

use super::{
    Finding,
    postgres::{chain, single},
};

/// How often two connections look whom they meet. A pooler that others use too may lend them two
/// processes a few times in a row by chance.
const ROUNDS: usize = 5;

/// How often a connection is closed and opened again. A pooler cleans what comes back to it before it
/// lends it again, which takes a moment.
const REOPENED: usize = 4;

/// A connection that is not given within this time is not there. Long for a busy pooler, short for a
/// person who waits; and shorter than others wait for theirs (DATABASE_ACQUIRE_TIMEOUT).
const PATIENCE: Duration = Duration::from_secs(2);

/// How many connections of a session pooler are tried at most: for a moment others do without them.
const TRIED_MAX: u32 = 20;

/// What is set for each connection or statement, whatever the address says.
const SET_ANYWAY: [&str; 5] = [
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "client_encoding",
    "datestyle",
    "timezone",
];

/// How a connection leads to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    /// To the server itself.
    Direct,
    /// A pooler lends a process of the server for as long as a connection is open.
    Session,
    /// A pooler lends one for a transaction.
    Transaction,
    /// Each connection has a process for itself, and the server is not where the address says.
    DirectOrSession,
    /// Nobody gave a second connection to look with.
    Unknown,
}

/// What one connection saw of the process that served it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Sight {
    pid: i64,
    /// When the process began, and when this was seen: µs by the clock of the server.
    began: i64,
    now: i64,
    /// Where the server took the connection; a socket has neither.
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Sight {
    fn is_the_process_of(&self, other: &Self) -> bool {
        (self.pid, self.began) == (other.pid, other.began)
    }
}

/// One connection alone, then the other in a transaction, and the first once more meanwhile where that
/// tells something and it did not have to wait.
#[derive(Debug)]
struct Round {
    alone: Sight,
    other: Sight,
    again: Option<Sight>,
}

impl Round {
    /// Both were open all the time: a server that is reached without a pooler, or by one that lends
    /// processes for longer, has two.
    fn shows_a_loan(&self) -> bool {
        let moved = |again: &Sight| !again.is_the_process_of(&self.alone);
        self.other.is_the_process_of(&self.alone) || self.again.as_ref().is_some_and(moved)
    }
}

/// Finds out; transactions work already.
pub(super) async fn way(store: &StoreSettings) -> Result<Way, StoreError> {
    let first = client(store)?;
    let mut second = client(store)?;
    let found = find(store, &first, &mut second).await;
    first.close().await;
    second.close().await;
    Ok(found?.unwrap_or(Way::Unknown))
}

/// `None` where a connection was not given in time.
async fn find(
    store: &StoreSettings,
    first: &Db,
    second: &mut Db,
) -> Result<Option<Way>, StoreError> {
    let Some(before) = in_time(PATIENCE, see(first)).await? else { return Ok(None) };
    for _ in 0..ROUNDS {
        let Some(alone) = in_time(PATIENCE, see(first)).await? else { return Ok(None) };
        let round = second.transaction(async |tx| {
            let other = see_in(tx).await?;
            // Where that is the only process there is, nobody else would be served.
            let again = match other.is_the_process_of(&alone) {
                true => None,
                false => in_time(PATIENCE, see(first)).await?,
            };
            Ok::<_, StoreError>(Round { alone, other, again })
        });
        match in_time(2 * PATIENCE, round).await? {
            Some(round) if round.shows_a_loan() => return Ok(Some(Way::Transaction)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
    let mut earlier = before.now;
    for _ in 0..REOPENED {
        let Some(seen) = in_time(PATIENCE, see(second)).await? else { return Ok(None) };
        // A process that is older than the connection it serves has served another one.
        if seen.began < earlier {
            return Ok(Some(Way::Session));
        }
        earlier = seen.now;
        std::mem::replace(second, client(store)?).close().await;
    }
    Ok(Some(match leads_to(store, &before).await {
        true => Way::Direct,
        false => Way::DirectOrSession,
    }))
}

/// Whether the server is where the address says that it is.
async fn leads_to(store: &StoreSettings, seen: &Sight) -> bool {
    let Ok(dialled) = store.host_and_port() else { return false };
    let (Some((host, port)), Some(address)) = (&dialled, seen.address) else {
        // A socket that leads to a socket.
        return dialled.is_none() && seen.address.is_none();
    };
    let Ok(mut found) = tokio::net::lookup_host((host.as_str(), *port)).await else { return false };
    seen.port == Some(*port) && found.any(|found| found.ip() == address)
}

/// What is to be said of the way that DATABASE_URL leads.
pub(super) async fn judge(way: Way, store: &StoreSettings) -> Finding {
    const CHECK: &str = "postgres-pooler";
    match way {
        Way::Direct => Finding::fine(CHECK, "postgres is reached directly, through no pooler"),
        Way::Transaction => Finding::fine(
            CHECK,
            "postgres is reached through a pooler in transaction mode, whose connections to it are shared",
        ),
        Way::DirectOrSession => Finding::fine(
            CHECK,
            "postgres is reached directly or through a pooler in session mode; which of them cannot be told: \
             it is not where DATABASE_URL says, and each connection has a process of it to itself",
        ),
        Way::Unknown => Finding::warning(
            CHECK,
            format!(
                "whether postgres is reached through a pooler, and in which mode, cannot be told: no second \
                 connection was given within {PATIENCE:?}; where it has no more to give, tasks wait for \
                 each other: raise the pool size of the pooler, or lower what others take"
            ),
        ),
        Way::Session => {
            let wanted = store.max_connections.min(TRIED_MAX);
            of_session(given(store, wanted).await, wanted, store.max_connections)
        }
    }
}

fn of_session(given: u32, wanted: u32, pool: u32) -> Finding {
    const CHECK: &str = "postgres-pooler";
    let mode = "postgres is reached through a pooler in session mode";
    if given < wanted {
        return Finding::warning(
            CHECK,
            format!(
                "{mode}, which gave {given} connections and then no more, and DATABASE_MAX_CONNECTIONS is \
                 {pool}: who gets none waits for DATABASE_ACQUIRE_TIMEOUT and fails; use its transaction \
                 mode (at Supabase port 6543), which is enough here, or raise its pool size, or lower \
                 DATABASE_MAX_CONNECTIONS"
            ),
        );
    }
    let not_tried = if wanted < pool { ", and more were not tried" } else { "" };
    Finding::fine(
        CHECK,
        format!(
            "{mode}, which gave {given} connections at once{not_tried}; each is taken for as long as it is open"
        ),
    )
}

/// How many connections are given at once, up to so many.
async fn given(store: &StoreSettings, wanted: u32) -> u32 {
    let mut held = Vec::new();
    let mut given = 0;
    while given < wanted {
        let Ok(one) = client(store) else { break };
        // Refused or not answered is the same here: there are no more.
        let is_given = matches!(in_time(PATIENCE, see(&one)).await, Ok(Some(_)));
        held.push(one);
        if !is_given {
            break;
        }
        given += 1;
    }
    for one in held {
        one.close().await;
    }
    given
}

/// A setting that the address asks for its sessions and that does not arrive there.
pub(super) async fn lost_options(db: &Db, store: &StoreSettings) -> Vec<Finding> {
    #[derive(Serialize)]
    struct Asked<'a> {
        name: &'a str,
        value: &'a str,
    }
    #[derive(PartialEq, Deserialize)]
    struct Set {
        value: Option<String>,
    }
    let mut findings = Vec::new();
    for (name, value) in store.session_options().unwrap_or_default() {
        if SET_ANYWAY.contains(&&*name.to_lowercase()) {
            continue;
        }
        let asked = Asked { name: &name, value: &value };
        // Set for the transaction alone, to have it as the server writes it.
        let both = db
            .transaction(async |tx| {
                let is: Option<Set> = tx
                    .row("select current_setting({params}->>'name', true) as value", &asked)
                    .await?;
                let meant: Option<Set> = tx
                    .row(
                        "select set_config(j->>'name', j->>'value', true) as value
                         from (select {params} as j) as asked",
                        &asked,
                    )
                    .await?;
                Ok::<_, StoreError>(is == meant)
            })
            .await;
        let why = match both {
            Ok(true) => continue,
            Ok(false) => "sessions do not have it: a pooler does not pass it on".to_owned(),
            Err(error) => chain(error),
        };
        findings.push(Finding::warning(
            "postgres-options",
            format!(
                "DATABASE_URL asks for `options[{name}]`, and {why}; set it for the user or the database \
                 (alter role … set {name} = …) and take it out of the address"
            ),
        ));
    }
    findings
}

const SEE: &str =
    "select pid::bigint, (extract(epoch from backend_start) * 1000000)::bigint as began,
            (extract(epoch from clock_timestamp()) * 1000000)::bigint as now,
            host(inet_server_addr()) as address, inet_server_port() as port
       from pg_stat_activity where pid = pg_backend_pid()";

async fn see(db: &Db) -> Result<Sight, StoreError> {
    db.row(SEE, &()).await?.ok_or_else(nothing)
}

async fn see_in(tx: &mut Tx) -> Result<Sight, StoreError> {
    tx.row(SEE, &()).await?.ok_or_else(nothing)
}

fn nothing() -> StoreError {
    StoreError::BadParameter("the server does not know its own process".to_owned())
}

/// A client with one connection, which does not wait for it longer than we do.
fn client(store: &StoreSettings) -> Result<Db, StoreError> {
    let acquire_timeout = store.acquire_timeout.min(PATIENCE);
    single(&StoreSettings { acquire_timeout, ..store.clone() })
}

/// `None` where no connection is given in this time.
async fn in_time<T>(
    longest: Duration,
    seen: impl Future<Output = Result<T, StoreError>>,
) -> Result<Option<T>, StoreError> {
    match timeout(longest, seen).await {
        Ok(Ok(seen)) => Ok(Some(seen)),
        Ok(Err(StoreError::Unavailable(_))) | Err(_) => Ok(None),
        Ok(Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn sight(pid: i64) -> Sight {
        Sight { pid, began: pid, now: 100, address: None, port: None }
    }

    #[test]
    fn connections_that_meet_the_same_process_are_lent_it() {
        let shows = |other, again: Option<i64>| {
            Round { alone: sight(1), other: sight(other), again: again.map(sight) }.shows_a_loan()
        };
        // Each has its own.
        assert!(!shows(2, Some(1)));
        assert!(!shows(2, None));
        // The second one has that of the first, which waits, or gets another.
        assert!(shows(1, None) && shows(1, Some(3)) && shows(2, Some(3)));
        // A number that was given again is another process.
        let reused = Round { alone: sight(1), other: Sight { began: 50, ..sight(1) }, again: None };
        assert!(!reused.shows_a_loan());
    }

    #[test]
    fn a_session_pooler_that_runs_out_is_told_with_what_to_do() {
        let short = of_session(3, 10, 10);
        assert!(short.level == Level::Warning && short.told.contains("gave 3 connections"));
        assert_eq!(of_session(10, 10, 10).level, Level::Fine);
        let many = of_session(20, 20, 50);
        assert!(many.level == Level::Fine && many.told.contains("not tried"), "{many:?}");
    }
}
