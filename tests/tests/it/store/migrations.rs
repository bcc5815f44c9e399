//! Migrations through the pooler: once each, whoever runs them and however often.

use tokio::task::JoinSet;
use umbel_store::{Db, Migration, MigrationError, Standing, StoreError};

use super::House;

const PAGES: Migration = Migration {
    version: 1,
    name: "pages",
    sql: "create table pages (id bigint primary key, url text not null);
          insert into pages values (1, 'https://example.com/')",
};
const TITLES: Migration =
    Migration { version: 20260101, name: "titles", sql: "alter table pages add title text" };

#[tokio::test]
async fn migrations_that_ran_do_not_run_again() {
    let house = House::start();
    let db = house.client();
    assert_eq!(db.migrate("shop", &[PAGES]).await.expect("the framework's two, and ours"), 3);
    assert_eq!(db.migrate("shop", &[PAGES]).await.expect("nothing"), 0);
    assert_eq!(db.migrate("shop", &[PAGES, TITLES]).await.expect("the new one"), 1);
    // An older release, started again: what it does not know is left alone.
    assert_eq!(db.migrate("shop", &[PAGES]).await.expect("nothing"), 0);
    let record = "select owner, version, name from umbel_migrations order by applied_at";
    assert_eq!(
        house.database.sql(record),
        "umbel|1|steps\numbel|2|row level security\nshop|1|pages\nshop|20260101|titles"
    );
    assert_eq!(house.database.sql("select count(*) from umbel_steps"), "0");
}

#[tokio::test]
async fn how_the_tables_stand_can_be_asked_without_changing_anything() {
    let house = House::start();
    let db = house.client();
    let standing = async |list: &[Migration]| db.migrations("shop", list).await.expect("readable");
    let never = standing(&[PAGES]).await;
    assert_eq!(never, Standing { pending: 3, ..Standing::default() });
    assert_eq!(house.database.sql("select to_regclass('umbel_migrations') is null"), "t");

    db.migrate("other", &[PAGES]).await.expect("another owner's");
    let none_of_ours = standing(&[TITLES]).await;
    assert_eq!((none_of_ours.recorded, none_of_ours.pending), (2, 1));
    let done = Standing { has_record: true, recorded: 3, ..Standing::default() };
    db.migrate("shop", &[TITLES]).await.expect("applied");
    assert_eq!(standing(&[TITLES]).await, done);

    let older = standing(&[]).await;
    assert_eq!(older.unknown, ["20260101 (titles) of shop"]);
    let changed = standing(&[Migration { sql: "select 1", ..TITLES }]).await;
    assert_eq!((changed.changed, changed.pending), (vec!["20260101 (titles) of shop".into()], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_that_migrate_at_once_apply_each_migration_once() {
    let house = House::start();
    let mut processes = JoinSet::new();
    for _ in 0..10 {
        let db = house.client();
        processes.spawn(async move { db.migrate("shop", &[PAGES, TITLES]).await });
    }
    let applied: Result<Vec<usize>, MigrationError> =
        processes.join_all().await.into_iter().collect();
    assert_eq!(applied.expect("nobody fails").iter().sum::<usize>(), 4);
    assert_eq!(house.database.sql("select count(*), count(title) from pages"), "1|0");
}

#[tokio::test]
async fn two_owners_count_for_themselves() {
    let house = House::start();
    let db = house.client();
    let other = Migration { version: 1, name: "sites", sql: "create table sites ()" };
    db.migrate("shop", &[PAGES]).await.expect("applied");
    assert_eq!(db.migrate("scraper", &[other]).await.expect("applied"), 1);
    let reserved = db.migrate("umbel", &[other]).await;
    assert!(matches!(reserved, Err(MigrationError::Reserved)), "{reserved:?}");
}

#[tokio::test]
async fn a_migration_that_was_changed_is_refused() {
    let house = House::start();
    let db = house.client();
    db.migrate("shop", &[PAGES]).await.expect("applied");
    let changed = Migration { sql: "create table pages (id bigint)", ..PAGES };
    let error = db.migrate("shop", &[changed, TITLES]).await.expect_err("changed");
    assert!(matches!(&error, MigrationError::Changed { version: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("migration 1 of shop was changed"), "{error}");
    assert_eq!(house.database.sql("select count(*) from umbel_migrations"), "3");
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_and_can_be_mended() {
    let house = House::start();
    let db = house.client();
    let half = Migration { sql: "alter table pages add title text; select 1 / 0", ..TITLES };
    let error = db.migrate("shop", &[PAGES, half]).await.expect_err("half");
    assert!(
        matches!(
            &error,
            MigrationError::Failed { name: "titles", source: StoreError::Statement(_), .. }
        ),
        "{error:?}"
    );
    let columns = "select count(*) from information_schema.columns where table_name = 'pages'";
    assert_eq!(house.database.sql(columns), "2");
    assert_eq!(db.migrate("shop", &[PAGES, TITLES]).await.expect("mended"), 1);
}

#[tokio::test]
async fn a_role_that_may_not_create_starts_where_all_is_done() {
    let house = House::start();
    house.client().migrate("shop", &[PAGES]).await.expect("applied");
    let role = format!("reader_of_{}", house.database.name());
    house.database.sql(&format!(
        "create role {role} login; grant select on umbel_migrations to {role};
             create policy {role} on umbel_migrations for select to {role} using (true)"
    ));
    let url = house.database.url().replace("//postgres@", &format!("//{role}@"));
    let reader = Db::open(&umbel_store::StoreSettings::new(url)).expect("good settings");
    assert_eq!(reader.migrate("shop", &[PAGES]).await.expect("nothing to do"), 0);
    let refused = reader.migrate("shop", &[PAGES, TITLES]).await;
    assert!(matches!(refused, Err(MigrationError::Failed { .. })), "{refused:?}");
    reader.close().await;
    house.database.sql(&format!("drop owned by {role}; drop role {role}"));
}
