//! [`Db`], the pool, and [`Tx`], a transaction: all that an application sees of Postgres.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tracing::warn;

use crate::{
    SettingsError, StoreError, StoreSettings, meters,
    session::{Session, ping},
    statement::fill,
};

/// The most rows that one statement may give: more do not belong into the memory of a small
/// container. Ask in pages.
const ROWS_MAX: usize = 10_000;

/// Poolers and cloud balancers cut connections that grow old; half an hour is below all of their
/// limits.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(30 * 60);

/// A connection that came back a moment ago answered then; asking it again would double the round
/// trips under load.
const IDLE_CHECKED_AFTER: Duration = Duration::from_secs(1);

/// How often work that may be repeated is tried, with these waits: 10, 20, 40, 80 ms.
const TIMES_MAX: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Whoever has waited this long for a connection need not begin again: its caller can.
const AGAIN_WITHIN: Duration = Duration::from_secs(5);

/// A pool of connections to Postgres, direct or through a transaction pooler. Cheap to clone.
///
/// SQL is fixed text; what varies goes through `{params}`, where the parameters arrive as one
/// `jsonb` value. Rows come back by the names of their columns, as `row_to_json` writes them: times
/// as RFC 3339, `uuid` and `bytea` as text, `numeric` as a number.
///
/// ```no_run
/// # async fn example(db: umbel_store::Db) -> Result<(), umbel_store::StoreError> {
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize)]
/// struct Seen<'a> { url: &'a str, title: &'a str }
/// #[derive(Deserialize)]
/// struct Page { id: i64 }
///
/// let seen = [Seen { url: "https://example.com/", title: "Example" }];
/// let pages: Vec<Page> = db
///     .rows(
///         "insert into pages (url, title)
///          select url, title from jsonb_to_recordset({params}) as seen(url text, title text)
///          returning id",
///         &seen,
///     )
///     .await?;
///
/// #[derive(Serialize)]
/// struct ById { id: i64 }
/// db.execute(
///     "with p as materialized (select {params} as j)
///      delete from pages using p where id = (p.j->>'id')::bigint",
///     &ById { id: pages[0].id },
/// )
/// .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    address: String,
    statement_timeout: Duration,
}

impl Db {
    /// Checks the settings and makes the pool, which connects when it is first used: Postgres may
    /// come later. Must be called inside a tokio runtime.
    pub fn open(settings: &StoreSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        if let Some(names) = settings.passed_over() {
            warn!("parameters of DATABASE_URL that mean nothing here: {names}");
        }
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .min_connections(settings.min_connections)
            .acquire_timeout(settings.acquire_timeout)
            .max_lifetime(CONNECTION_LIFE_MAX)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > IDLE_CHECKED_AFTER {
                        ping(connection).await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(settings.connect_options()?);
        Ok(Self {
            pool,
            address: settings.address()?,
            statement_timeout: settings.statement_timeout,
        })
    }

    /// Where Postgres is, for people and logs: `host:port/database`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether Postgres answers. While it does not, this takes as long as the acquire timeout.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.execute("select 1", &()).await.map(drop)
    }

    /// Closes the pool, once the calls that run now have ended. Later calls find Postgres
    /// unavailable.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs a statement for its effect; returns how many rows it touched. `&()` for a statement
    /// without parameters.
    pub async fn execute(
        &self,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<u64, StoreError> {
        let statement = fill(sql, params)?;
        let mut session = self.session().await?;
        let result = meters::statement(sql, session.execute_alone(&statement)).await;
        session.give_back(result)
    }

    /// Runs a statement for its rows, at most ten thousand of them.
    ///
    /// The statement becomes the body of a `with`: it may begin with one of its own, but Postgres
    /// takes `insert`, `update` and `delete` only as the statement itself, not deeper inside.
    pub async fn rows<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Vec<T>, StoreError> {
        self.rows_upto(ROWS_MAX, sql, params).await
    }

    /// As [`rows`](Self::rows), where there is one row or none; two are an error.
    pub async fn row<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows_upto(1, sql, params).await?.pop())
    }

    /// Runs `work` in a transaction: committed if it returns `Ok`, rolled back if it returns `Err`,
    /// panics or is dropped. While it runs it holds a connection, so it should do nothing but talk
    /// to Postgres, and only through its `tx`: a call on `Db` from inside waits for a connection
    /// that the transactions around it may be holding.
    ///
    /// Where the answer to the commit is lost nobody knows whether it was done
    /// ([`StoreError::CommitUnknown`]); [`once`](Self::once) finds out when it is called again. Work
    /// that may run more than once goes through [`repeated`](Self::repeated).
    ///
    /// ```no_run
    /// # async fn example(db: umbel_store::Db) -> Result<(), umbel_store::StoreError> {
    /// let freed = db
    ///     .transaction(async |tx| {
    ///         let pages = tx.execute("delete from pages where gone", &()).await?;
    ///         tx.execute("update sites set checked_at = now()", &()).await?;
    ///         Ok::<_, umbel_store::StoreError>(pages)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn transaction<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<StoreError>,
    {
        self.transaction_within(self.statement_timeout, work).await
    }

    /// As [`transaction`](Self::transaction), for work that may run more than once: after a lost race
    /// with another transaction, or a connection that broke before the commit was sent, it is run
    /// again in a new transaction, five times at most within five seconds. What it changes outside of
    /// `tx` it must bear to change again.
    pub async fn repeated<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: AsyncFn(&mut Tx) -> Result<T, StoreError>,
    {
        let began = Instant::now();
        let mut pause = AGAIN_AFTER;
        for _ in 1..TIMES_MAX {
            match self.transaction(async |tx| work(tx).await).await {
                Err(StoreError::Conflict(_) | StoreError::Unavailable(_))
                    if began.elapsed() < AGAIN_WITHIN => {}
                ended => return ended,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.transaction(async |tx| work(tx).await).await
    }

    /// As [`transaction`](Self::transaction), with a time limit of its own for each statement.
    pub(crate) async fn transaction_within<T, E, F>(&self, limit: Duration, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<StoreError>,
    {
        meters::transaction(async {
            let mut session = Session::open(&self.pool, limit).await?;
            meters::statement("begin", session.begin()).await?;
            let mut tx = Tx { session, failed: false };
            match work(&mut tx).await {
                Ok(value) => {
                    tx.commit().await?;
                    Ok(value)
                }
                Err(error) => {
                    // If this fails the connection is closed, which rolls back as well: the first
                    // error is the one to tell.
                    let _ = tx.rollback().await;
                    Err(error)
                }
            }
        })
        .await
    }

    /// How the pool of this process stands.
    pub fn usage(&self) -> PoolUsage {
        let (open, idle) = (self.pool.size(), self.pool.num_idle());
        let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(open);
        PoolUsage { idle, used: open - idle, most: self.pool.options().get_max_connections() }
    }

    async fn rows_upto<T: DeserializeOwned>(
        &self,
        limit: usize,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Vec<T>, StoreError> {
        let statement = fill(sql, params)?;
        let mut session = self.session().await?;
        let result = meters::statement(sql, session.rows_alone(&statement, limit)).await;
        session.give_back(result)
    }

    async fn session(&self) -> Result<Session, StoreError> {
        Session::open(&self.pool, self.statement_timeout).await
    }
}

/// Connections of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Open and not in use.
    pub idle: u32,
    /// In use.
    pub used: u32,
    /// How many may be open.
    pub most: u32,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("address", &self.address).finish_non_exhaustive()
    }
}

/// An open transaction; see [`Db::transaction`]. Once a statement has failed, Postgres takes no
/// more of them and nothing can be committed.
pub struct Tx {
    session: Session,
    /// Set while a statement is under way, so that one that was cancelled counts as failed too.
    /// Postgres answers the commit of a failed transaction with a rollback and no error; without
    /// this it would pass for done.
    failed: bool,
}

impl Tx {
    /// As [`Db::execute`].
    pub async fn execute(
        &mut self,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<u64, StoreError> {
        let statement = fill(sql, params)?.into_owned();
        self.failed = true;
        let touched = meters::statement(sql, self.session.execute(statement)).await?;
        self.failed = false;
        Ok(touched)
    }

    /// As [`Db::rows`].
    pub async fn rows<T: DeserializeOwned>(
        &mut self,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Vec<T>, StoreError> {
        self.rows_upto(ROWS_MAX, sql, params).await
    }

    /// As [`Db::row`].
    pub async fn row<T: DeserializeOwned>(
        &mut self,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows_upto(1, sql, params).await?.pop())
    }

    async fn rows_upto<T: DeserializeOwned>(
        &mut self,
        limit: usize,
        sql: &'static str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<Vec<T>, StoreError> {
        let statement = fill(sql, params)?;
        self.failed = true;
        let rows = meters::statement(sql, self.session.rows(&statement, limit)).await?;
        self.failed = false;
        Ok(rows)
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        if self.failed {
            self.rollback().await?;
            return Err(StoreError::Aborted);
        }
        let commit = self.session.execute("commit".to_owned());
        let result = meters::statement("commit", commit).await;
        match self.session.give_back(result) {
            Ok(_) => Ok(()),
            // It may have arrived.
            Err(StoreError::Unavailable(source)) => Err(StoreError::CommitUnknown(source)),
            Err(error) => Err(error),
        }
    }

    async fn rollback(mut self) -> Result<(), StoreError> {
        let rollback = self.session.execute("rollback".to_owned());
        let result = meters::statement("rollback", rollback).await;
        self.session.give_back(result).map(drop)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("failed", &self.failed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use umbel_proto::TaskId;

    use super::*;

    const NOWHERE: &str = "postgres://scraper:s3cr3t@127.0.0.1:1/shop";

    /// The shape of a handler's `run`: its future must be `Send`, whatever the closure borrows.
    trait Runs {
        fn run(self, db: &Db) -> impl Future<Output = Result<u64, StoreError>> + Send;
    }

    struct Sweep<S> {
        task: TaskId,
        sites: Vec<String>,
        state: S,
    }

    impl<S: AsRef<str> + Send + Sync> Runs for Sweep<S> {
        async fn run(self, db: &Db) -> Result<u64, StoreError> {
            let Self { task, sites, state } = &self;
            db.once(task, "sweep", async |tx| {
                let mut touched = 0;
                for site in sites {
                    touched += tx.execute("select {params}", &[site, state.as_ref()]).await?;
                }
                Ok(touched)
            })
            .await
        }
    }

    #[tokio::test]
    async fn an_effect_can_be_awaited_where_futures_must_be_send() {
        let settings = StoreSettings {
            acquire_timeout: Duration::from_millis(50),
            ..StoreSettings::new(NOWHERE)
        };
        let db = Db::open(&settings).expect("good settings");
        let task = "scrape-0198c1b2-7c1e-7d2a-9a55-1f0c6c1f8e11".parse().expect("an id");
        let sweep = Sweep { task, sites: vec!["https://example.com/".to_owned()], state: "new" };
        let error = tokio::spawn(async move { sweep.run(&db).await })
            .await
            .expect("no panic")
            .expect_err("nobody there");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_database_shows_where_it_is_and_nothing_else() {
        let db = Db::open(&StoreSettings::new(NOWHERE)).expect("good settings");
        assert_eq!(format!("{db:?}"), "Db { address: \"127.0.0.1:1/shop\", .. }");
    }
}
