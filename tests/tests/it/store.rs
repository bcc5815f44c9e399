//! The store on a real Postgres behind a real pooler in transaction mode, with two connections for
//! all clients.

mod denied;
mod migrations;
mod once;
mod pooler;
mod repeated;
mod simple;
mod statements;

use umbel_store::{Db, StoreSettings};
use umbel_tests::services::{PgBouncer, PostgresServer, TestDatabase};

/// How many connections the clients of a pooler share.
const POOL_SIZE: u32 = 2;

struct House {
    database: TestDatabase<'static>,
    pooler: PgBouncer,
}

impl House {
    fn start() -> Self {
        let server = PostgresServer::shared();
        Self { database: server.database(), pooler: PgBouncer::start(server, POOL_SIZE) }
    }

    /// Through the pooler, with one connection: a client as the pooler sees it.
    fn settings(&self) -> StoreSettings {
        let url = self.pooler.url(&self.database);
        StoreSettings { max_connections: 1, ..StoreSettings::new(url) }
    }

    fn client(&self) -> Db {
        Db::open(&self.settings()).expect("good settings")
    }

    /// A client that finds the framework's tables.
    async fn migrated_client(&self) -> Db {
        let db = self.client();
        db.migrate("tests", &[]).await.expect("the framework's own migrations");
        db
    }
}

/// The whole of an error, as the most talkative of logs would have it.
pub(super) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(|error| format!("{error} {error:?} {error:#?}\n")).collect()
}
