//! One pooled connection, and the only place that hands SQL to sqlx.
#![expect(
    clippy::disallowed_methods,
    reason = "the form that is safe behind a transaction pooler is built here, only here"
)]

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Row, pool::PoolConnection,
    postgres::PgRow,
};

use crate::{StoreError, meters, statement::as_json_rows};

/// How much later than Postgres itself we give up on a statement: only then is it the network that
/// is silent.
const ANSWER_SLACK: Duration = Duration::from_secs(5);

/// One round trip, and a great deal of patience.
const RETURN_MAX: Duration = Duration::from_secs(5);

/// A transaction whose owner is busy elsewhere holds one of the few server connections that all
/// clients share.
const IDLE_IN_TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// A connection taken from the pool. It goes back only through [`give_back`](Self::give_back);
/// dropped before that, by a panic or a cancelled call, it is closed: nobody may find half an
/// answer or an open transaction in it.
pub(crate) struct Session {
    connection: PoolConnection<Postgres>,
    /// How long Postgres may work on one statement.
    limit: Duration,
    clean: bool,
}

impl Session {
    pub(crate) async fn open(pool: &PgPool, limit: Duration) -> Result<Self, StoreError> {
        let began = Instant::now();
        let connection = pool.acquire().await.map_err(|error| {
            let error = StoreError::from_sqlx(error, limit);
            meters::failed(&error);
            error
        })?;
        meters::acquired(began.elapsed());
        Ok(Self { connection, limit, clean: false })
    }

    /// Runs one statement on its own, under the time limit, in one round trip.
    pub(crate) async fn execute_alone(&mut self, statement: &str) -> Result<u64, StoreError> {
        self.execute(self.limited(statement)).await
    }

    /// As [`execute_alone`](Self::execute_alone), and reads the rows.
    pub(crate) async fn rows_alone<T: DeserializeOwned>(
        &mut self,
        statement: &str,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        let statement = self.limited(&as_json_rows(statement, limit + 1));
        self.fetch(statement, limit).await
    }

    pub(crate) async fn begin(&mut self) -> Result<(), StoreError> {
        let (statement_ms, idle_ms) = (self.limit.as_millis(), IDLE_IN_TRANSACTION_MAX.as_millis());
        self.execute(format!(
            "begin; set local statement_timeout = {statement_ms}; \
             set local idle_in_transaction_session_timeout = {idle_ms}"
        ))
        .await
        .map(drop)
    }

    /// Runs one statement inside a transaction that [`begin`](Self::begin) began.
    pub(crate) async fn execute(&mut self, statement: String) -> Result<u64, StoreError> {
        let limit = self.limit;
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *self.connection);
        Ok(answer(limit, done).await?.rows_affected())
    }

    /// As [`execute`](Self::execute), and reads the rows.
    pub(crate) async fn rows<T: DeserializeOwned>(
        &mut self,
        statement: &str,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        self.fetch(as_json_rows(statement, limit + 1), limit).await
    }

    /// Ends the use of the connection after its last statement, which came to `result`.
    pub(crate) fn give_back<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.clean = !matches!(result, Err(StoreError::Unavailable(_) | StoreError::Denied(_)));
        result
    }

    async fn fetch<T: DeserializeOwned>(
        &mut self,
        statement: String,
        limit: usize,
    ) -> Result<Vec<T>, StoreError> {
        let time_limit = self.limit;
        let rows = sqlx::raw_sql(AssertSqlSafe(statement)).fetch_all(&mut *self.connection);
        decode(answer(time_limit, rows).await?, limit)
    }

    /// Statements that are sent together are one transaction, so that `set local` holds for this
    /// one alone.
    fn limited(&self, statement: &str) -> String {
        format!("set local statement_timeout = {};\n{statement}", self.limit.as_millis())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.clean {
            // The pool asks the connection once more before it keeps it, and would wait for the
            // answer of a dead peer until TCP gives up, a place in the pool lost meanwhile.
            tokio::spawn(tokio::time::timeout(RETURN_MAX, self.connection.return_to_pool()));
        } else {
            self.connection.close_on_drop();
        }
    }
}

/// Asks an idle connection whether it still lives.
pub(crate) async fn ping(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.ping().await
}

async fn answer<T>(
    limit: Duration,
    reply: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit + ANSWER_SLACK, reply).await {
        Ok(reply) => reply.map_err(|error| StoreError::from_sqlx(error, limit)),
        Err(_) => Err(StoreError::Unavailable(
            format!("no answer within {:?}", limit + ANSWER_SLACK).into(),
        )),
    }
}

fn decode<T: DeserializeOwned>(rows: Vec<PgRow>, limit: usize) -> Result<Vec<T>, StoreError> {
    if rows.len() > limit {
        return Err(StoreError::TooManyRows { limit });
    }
    rows.iter()
        .map(|row| {
            let text: &str = row.try_get(0)?;
            Ok(serde_json::from_str(text)?)
        })
        .collect::<Result<_, Box<dyn std::error::Error + Send + Sync>>>()
        .map_err(|source| StoreError::Decode { wanted: std::any::type_name::<T>(), source })
}
