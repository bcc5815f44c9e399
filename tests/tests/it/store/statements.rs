//! What statements and transactions do, and what they say when they fail.

use std::{net::TcpListener, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use umbel_store::{Db, StoreError, StoreSettings};
use umbel_tests::{eventually::eventually, services::PostgresServer};

use super::{House, told};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Page {
    id: i64,
    url: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Count {
    n: i64,
}

async fn pages() -> (House, Db) {
    let house = House::start();
    let db = house.client();
    let sql = "create table pages (id bigint generated always as identity, url text unique)";
    db.execute(sql, &()).await.expect("a table");
    (house, db)
}

async fn save(db: &Db, urls: &[&str]) -> Result<Vec<Page>, StoreError> {
    let sql = "insert into pages (url) select * from jsonb_array_elements_text({params})
               returning id, url";
    db.rows(sql, urls).await
}

#[tokio::test]
async fn a_batch_is_saved_and_read_back_in_order() {
    let (_house, db) = pages().await;
    let saved = save(&db, &["c", "a", "b"]).await.expect("saved");
    let page = |id, url: &str| Page { id, url: url.to_owned() };
    assert_eq!(saved, [page(1, "c"), page(2, "a"), page(3, "b")]);
    let sorted: Vec<Page> =
        db.rows("select * from pages order by url desc", &()).await.expect("read");
    assert_eq!(sorted, [page(1, "c"), page(3, "b"), page(2, "a")]);
    let sql = "with p as materialized (select {params} as j)
               delete from pages using p where id > (p.j->>'above')::bigint";
    assert_eq!(db.execute(sql, &json!({ "above": 1 })).await.expect("deleted"), 2);
    let none: Option<Page> = db.row("select * from pages where id = 2", &()).await.expect("read");
    assert_eq!(none, None);
}

#[tokio::test]
async fn whatever_a_text_contains_comes_back_as_it_was() {
    let (_house, db) = pages().await;
    let hostile = [
        "'); drop table pages; --",
        "\\'; drop table pages; --",
        "$$; drop table pages; $$",
        "\" ' ` \\ \\\\ % _ {params} $1 :x ?",
        "\u{1f33f} \u{65e5}\u{672c} \u{202e}rtl\u{2028}line\u{feff}",
        "\r\n\t\u{1}\u{7f}\\u0000",
        "",
    ];
    let saved = save(&db, &hostile).await.expect("saved");
    assert_eq!(saved.iter().map(|page| page.url.as_str()).collect::<Vec<_>>(), hostile);
    for text in hostile {
        let sql = "select j->'id' as id, j->>'url' as url from (select {params} as j) as given";
        let given = json!({ "id": i64::MIN, "url": text });
        assert_eq!(db.rows::<Value>(sql, &given).await.expect("read"), [given]);
    }
}

#[tokio::test]
async fn a_nul_is_refused_before_anything_is_sent() {
    let (_house, db) = pages().await;
    let error = save(&db, &["fine", "a\0b"]).await.expect_err("refused");
    assert!(matches!(&error, StoreError::BadParameter(why) if why.contains("NUL")), "{error}");
    let left: Option<Count> = db.row("select count(*) as n from pages", &()).await.expect("read");
    assert_eq!(left, Some(Count { n: 0 }));
}

#[tokio::test]
async fn bytes_that_no_text_could_carry_come_back_as_they_were() {
    let house = House::start();
    let (db, all) = (house.client(), (0..=255).collect::<Vec<u8>>());
    let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
    // As text on their way, as bytes where they are.
    let sql = "select encode(decode({params}->>'bytes', 'hex'), 'hex') as hex";
    let read = db.rows::<Value>(sql, &json!({ "bytes": hex })).await;
    assert_eq!(read.expect("read"), [json!({ "hex": hex })]);
}

#[tokio::test]
async fn a_value_that_is_there_already_is_told_as_such() {
    let (_house, db) = pages().await;
    save(&db, &["a"]).await.expect("saved");
    let error = save(&db, &["b", "a"]).await.expect_err("a is there");
    let StoreError::UniqueViolation { constraint, .. } = &error else { panic!("{error:?}") };
    assert_eq!(constraint, "pages_url_key");
    assert!(!told(&error).contains("(url)=(a)"), "values of rows stay out of errors: {error:?}");
    // The statement was one: nothing of it remains, and the connection goes on.
    assert_eq!(save(&db, &["b"]).await.expect("saved")[0].url, "b");
}

#[tokio::test]
async fn more_rows_than_wanted_are_an_error_and_not_a_full_memory() {
    let house = House::start();
    let db = house.client();
    let error = db.row::<Count>("select n from generate_series(1, 2) as n", &()).await;
    assert!(matches!(error, Err(StoreError::TooManyRows { limit: 1 })), "{error:?}");
    let most = db.rows::<Count>("select n from generate_series(1, 10000) as n", &()).await;
    assert_eq!(most.expect("just enough").len(), 10_000);
    let error = db.rows::<Count>("select generate_series(1, 10000000000) as n", &()).await;
    assert!(matches!(error, Err(StoreError::TooManyRows { limit: 10_000 })), "{error:?}");
}

#[tokio::test]
async fn a_row_that_does_not_fit_says_what_was_wanted() {
    let house = House::start();
    let error =
        house.client().rows::<Count>("select 'many' as n", &()).await.expect_err("no number");
    assert!(
        matches!(&error, StoreError::Decode { wanted, .. } if wanted.ends_with("Count")),
        "{error:?}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_transaction_that_fails_leaves_nothing() {
    let (_house, db) = pages().await;
    let failed: Result<(), StoreError> = db
        .transaction(async |tx| {
            tx.execute("insert into pages (url) values ('a')", &()).await?;
            Err(StoreError::BadParameter("changed my mind".to_owned()))
        })
        .await;
    assert!(matches!(failed, Err(StoreError::BadParameter(_))), "{failed:?}");
    let left: Option<Count> = db.row("select count(*) as n from pages", &()).await.expect("read");
    assert_eq!(left, Some(Count { n: 0 }));
}

#[tokio::test]
async fn a_failure_that_was_passed_over_is_not_taken_for_a_commit() {
    let (_house, db) = pages().await;
    let passed_over: Result<(), StoreError> = db
        .transaction(async |tx| {
            tx.execute("insert into pages (url) values ('a')", &()).await?;
            tx.execute("select 1 / 0", &()).await.expect_err("no number");
            Ok(())
        })
        .await;
    assert!(matches!(passed_over, Err(StoreError::Aborted)), "{passed_over:?}");
    let left: Option<Count> = db.row("select count(*) as n from pages", &()).await.expect("read");
    assert_eq!(left, Some(Count { n: 0 }));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cancelled_and_its_limit_stays_with_it() {
    let house = House::start();
    let limit = Duration::from_millis(100);
    let hasty = StoreSettings { statement_timeout: limit, ..house.settings() };
    let hasty = Db::open(&hasty).expect("good settings");
    let since = Instant::now();
    let alone = hasty.execute("select pg_sleep(60)", &()).await;
    assert!(
        matches!(alone, Err(StoreError::TooSlow { limit: told }) if told == limit),
        "{alone:?}"
    );
    let inside: Result<u64, StoreError> =
        hasty.transaction(async |tx| tx.execute("select pg_sleep(60)", &()).await).await;
    assert!(matches!(inside, Err(StoreError::TooSlow { .. })), "{inside:?}");
    assert!(since.elapsed() < Duration::from_secs(30));
    let set: Result<Option<Value>, StoreError> = hasty
        .transaction(async |tx| {
            let sql = "select current_setting('statement_timeout') as statement,
                              current_setting('idle_in_transaction_session_timeout') as idle";
            tx.row(sql, &()).await
        })
        .await;
    assert_eq!(set.expect("read"), Some(json!({ "statement": "100ms", "idle": "1min" })));
    hasty.ping().await.expect("there");
    // The commit ends what was set for this statement and shows what the server connection, which
    // serves others next, was left with.
    let sql = "commit; create table leftovers as select current_setting('statement_timeout')";
    hasty.execute(sql, &()).await.expect("written");
    assert_eq!(house.database.sql("select * from leftovers"), "0");
}

#[tokio::test]
async fn a_statement_that_was_given_up_answers_nobody_else() {
    let house = House::start();
    let db = house.client();
    let sql = "select 1 as n from pg_sleep(60)";
    timeout(Duration::from_millis(100), db.rows::<Count>(sql, &())).await.expect_err("given up");
    let mut given_up = Box::pin(db.transaction(async |tx| tx.rows::<Count>(sql, &()).await));
    timeout(Duration::from_millis(100), &mut given_up).await.expect_err("given up");
    drop(given_up);
    let next: Option<Count> = db.row("select 2 as n", &()).await.expect("read");
    assert_eq!(next, Some(Count { n: 2 }));
}

#[tokio::test]
async fn postgres_away_is_unavailable_and_its_return_is_enough() {
    let server = PostgresServer::start();
    let acquire_timeout = Duration::from_millis(300);
    let settings = StoreSettings { acquire_timeout, ..StoreSettings::new(server.url()) };
    let db = Db::open(&settings).expect("good settings");
    db.ping().await.expect("there");
    server.kill9();
    for _ in 0..3 {
        let error = db.ping().await.expect_err("away");
        assert!(matches!(error, StoreError::Unavailable(_)) && error.is_transient(), "{error:?}");
    }
    server.restart();
    db.ping().await.expect("there again");

    // A connection that dies while nobody uses it: the pool finds out before a caller does.
    sleep(Duration::from_millis(1_100)).await;
    server.restart();
    db.ping().await.expect("there again");
}

#[tokio::test]
async fn a_pooler_that_falls_silent_is_unavailable_in_bounded_time() {
    let house = House::start();
    let limit = Duration::from_secs(2);
    let settings = StoreSettings { statement_timeout: limit, ..house.settings() };
    let db = Db::open(&settings).expect("good settings");
    let asked = tokio::spawn({
        let db = db.clone();
        async move { db.execute("select pg_sleep(60)", &()).await }
    });
    let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'
                  and datname = current_database()";
    eventually("asked", async || (house.database.sql(asleep) != "0").then_some(())).await;
    let pooler = Pid::from_raw(house.pooler.pid() as i32);
    kill(pooler, Signal::SIGSTOP).expect("our own child");
    let silence = timeout(Duration::from_secs(30), asked).await;
    kill(pooler, Signal::SIGCONT).expect("our own child");
    let silence = silence.expect("bounded").expect("no panic");
    assert!(matches!(silence, Err(StoreError::Unavailable(_))), "{silence:?}");
    db.ping().await.expect("there again");
}

#[tokio::test]
async fn the_password_is_in_no_error() {
    let house = House::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = listener.local_addr().expect("its address").port();
    let (pooler, direct) = (house.pooler.port(), PostgresServer::shared().port());
    for (port, database) in [(mute, "shop"), (1, "shop"), (pooler, "nowhere"), (direct, "nowhere")]
    {
        let acquire_timeout = Duration::from_millis(200);
        let url = format!("postgres://postgres:s3cr3t@127.0.0.1:{port}/{database}");
        let settings = StoreSettings { acquire_timeout, ..StoreSettings::new(url) };
        let db = Db::open(&settings).expect("good settings");
        let error = db.ping().await.expect_err("no database there");
        assert!(matches!(error, StoreError::Unavailable(_) | StoreError::Denied(_)), "{error:?}");
        let all = format!("{settings:?} {settings:#?} {db:?} {db:#?} {}", told(&error));
        assert!(!all.contains("s3cr3t"), "{all}");
    }
}
