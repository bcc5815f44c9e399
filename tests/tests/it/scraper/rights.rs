//! Who may do what with the tables: the login of deploy/postgres-role.sql, and those whom a hosted
//! Postgres lets in besides.

use std::{fs, path::Path};

use serde::Deserialize;
use umbel_store::{Db, StoreError, StoreSettings};
use umbel_tasks::{MIGRATIONS, PageCounts, PrunePages, PruneSteps, Status, SweepSites};
use umbel_tests::services::{PostgresServer, TestDatabase};

use super::{Folder, House, PATIENCE};

/// Has the owner of the tables let in the login that reads and writes rows alone.
pub(super) fn let_in(database: &TestDatabase<'_>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    database.sql(&fs::read_to_string(root.join("deploy/postgres-role.sql")).unwrap());
}

fn as_role(database: &TestDatabase<'_>, role: &str) -> Db {
    let url = database.url().replace("//postgres@", &format!("//{role}@"));
    Db::open(&StoreSettings::new(url)).unwrap()
}

/// What every statement reaches of a table: what it counts, and what becomes of an insert, an update
/// and a delete.
macro_rules! statements {
    ($($table:literal),*) => {
        [$((
            $table,
            concat!("select count(*) as count from ", $table),
            [
                concat!("insert into ", $table, " default values"),
                concat!("insert into ", $table, " select * from ", $table),
            ],
            [concat!("delete from ", $table)],
        )),*]
    };
}

const EACH: [(&str, &str, [&str; 2], [&str; 1]); 6] =
    statements!("umbel_migrations", "umbel_steps", "sites", "pages", "sources", "credits");

#[derive(Deserialize)]
struct Count {
    count: u64,
}

/// The tables of the schema that everybody is granted, for which a condition holds.
fn tables(database: &TestDatabase<'_>, condition: &str) -> String {
    database.sql(&format!(
        "select coalesce(string_agg(relname, ' ' order by relname), '') from pg_class
         where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and {condition}"
    ))
}

/// Supabase grants everything in `public` to `anon` and serves it over HTTP to all who have a key that
/// is in every browser.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_granted_everything_by_default_sees_no_row_and_writes_none() {
    let database = PostgresServer::shared().database();
    let role = format!("anon_of_{}", database.name());
    database.sql(&format!(
        "create role {role} login; grant usage on schema public to {role};
         alter default privileges in schema public grant all on tables to {role};
         alter default privileges in schema public grant all on sequences to {role}"
    ));
    let owner = Db::open(&StoreSettings::new(database.url())).unwrap();
    owner.migrate("scraper", MIGRATIONS).await.unwrap();
    database.sql(
        "insert into sites (url) values ('https://example.com/');
         insert into pages (url) values ('https://example.com/');
         insert into sources (name) values ('scraperapi');
         insert into credits (source, day, spent, requests) values ('s', now(), 1, 1);
         insert into umbel_steps (task_id, step) values ('t', 's')",
    );
    assert_eq!(tables(&database, "not relrowsecurity"), "", "a table stands open");
    let all = EACH.map(|(table, ..)| table);
    let there = tables(&database, "true");
    let mut there: Vec<_> = there.split(' ').collect();
    let mut tried = all.to_vec();
    there.sort_unstable();
    tried.sort_unstable();
    assert_eq!(there, tried, "each table there is is tried here");

    let anon = as_role(&database, &role);
    for (table, count, inserts, deletes) in EACH {
        let own: Count = owner.row(count, &()).await.unwrap().unwrap();
        let seen: Count = anon.row(count, &()).await.unwrap().unwrap();
        assert!(own.count > 0 && seen.count == 0, "{table}: {} of {}", seen.count, own.count);
        let refused = anon.execute(inserts[0], &()).await.unwrap_err();
        let StoreError::Statement(why) = &refused else { panic!("{table}: {refused:?}") };
        assert!(why.to_string().contains("row-level security"), "{table}: {why}");
        assert_eq!(anon.execute(inserts[1], &()).await.unwrap_or_default(), 0, "{table}");
        assert_eq!(anon.execute(deletes[0], &()).await.unwrap(), 0, "{table}");
        let still: Count = owner.row(count, &()).await.unwrap().unwrap();
        assert_eq!(still.count, own.count, "{table}");
    }
    anon.close().await;
    owner.close().await;
    database.sql(&format!("drop owned by {role}; drop role {role}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scraper_runs_under_a_login_that_reads_and_writes_rows_and_nothing_else() {
    let folder = Folder::new().page("index", &["a.html", "gone.html"]).page("a", &[]);
    let web = umbel_tests::pages::Pages::start(&folder.0, std::time::Duration::ZERO).await.unwrap();
    let house = House::under("umbel_app", &[("SCRAPE_ALLOW_PRIVATE", "127.0.0.1")]).await;
    let whom = house.app.db.row::<Whom>("select current_user as role", &()).await.unwrap();
    assert_eq!(whom.unwrap().role, "umbel_app");

    let worker = house.worker(2);
    let put = house.put(&format!("{}index.html", web.url()), 2, 10).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!(site.status, Status::Succeeded);
    assert_eq!(site.pages, PageCounts { succeeded: 2, failed: 1, ..PageCounts::default() });
    let now = chrono::Utc::now();
    let ledger = &house.app.ledger;
    let reserved = ledger.reserve("s", 3, Some(9), now).await.unwrap().unwrap();
    ledger.settle(&reserved, 1).await.unwrap();
    ledger.stop("s", std::time::Duration::from_secs(9), "why").await.unwrap();
    assert_eq!(ledger.list(now).await.unwrap()[0].spent_today, 1);
    let task = "scrape-0198c1b2-7c1e-7d2a-9a55-1f0c6c1f8e11".parse().unwrap();
    house.app.db.once(&task, "step", async |_| Ok::<_, StoreError>(())).await.unwrap();
    house.client.enqueue(PruneSteps {}).await.unwrap().wait(PATIENCE).await.unwrap();
    house.client.enqueue(PrunePages {}).await.unwrap().wait(PATIENCE).await.unwrap();
    worker.stop().await;

    // It starts where all is migrated, and changes no table.
    assert_eq!(house.app.db.migrate("scraper", MIGRATIONS).await.unwrap(), 0);
    for refused in [
        "create table more ()",
        "alter table sites add column more text",
        "alter table sites disable row level security",
        "truncate credits",
        "drop table credits",
        "delete from umbel_migrations",
        "insert into umbel_migrations (owner, version, name, checksum) values ('a', 1, 'b', 'c')",
    ] {
        let error = house.app.db.execute(refused, &()).await.expect_err(refused);
        assert!(matches!(error, StoreError::Statement(_)), "{refused}: {error:?}");
    }
}

#[derive(Deserialize)]
struct Whom {
    role: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_is_let_into_every_table_there_is_however_often() {
    let house = House::start().await;
    for _ in 0..2 {
        let_in(&house.database);
        let policy = "not exists (select from pg_policies where schemaname = 'public'
            and tablename = relname and 'umbel_app' = any(roles))";
        assert_eq!(tables(&house.database, policy), "");
        let grant = "not has_table_privilege('umbel_app', pg_class.oid, 'select')";
        assert_eq!(tables(&house.database, grant), "");
    }
}
