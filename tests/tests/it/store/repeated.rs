//! Work that may run more than once is run again where that can help, and nowhere else.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use serde_json::{Value, json};
use umbel_store::{Db, StoreError};

use super::House;

/// A client that finds an empty table of notes.
async fn notes(house: &House) -> Db {
    let db = house.client();
    db.execute("create table notes (n bigint)", &()).await.unwrap();
    db
}

async fn count(db: &Db) -> Value {
    db.row("select count(*) as n from notes", &()).await.unwrap().unwrap()
}

const NOTE: &str = "insert into notes values (1)";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_race_and_a_lost_connection_are_tried_again_and_happen_once() {
    for trouble in [
        "do $$ begin raise exception 'another went first' using errcode = '40001'; end $$",
        "do $$ begin raise exception 'deadlock' using errcode = '40P01'; end $$",
        "select pg_terminate_backend(pg_backend_pid())",
    ] {
        let house = House::start();
        let db = notes(&house).await;
        let runs = AtomicU32::new(0);
        let done = db
            .repeated(async |tx| {
                tx.execute(NOTE, &()).await?;
                if runs.fetch_add(1, SeqCst) < 2 {
                    tx.execute(trouble, &()).await?;
                }
                Ok("done")
            })
            .await;
        assert_eq!((done.unwrap(), runs.load(SeqCst)), ("done", 3), "{trouble}");
        assert_eq!(count(&db).await, json!({ "n": 1 }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_repetition_mends_is_told_at_once_and_trouble_that_stays_after_five() {
    let house = House::start();
    let db = notes(&house).await;
    for (sql, expected) in
        [("select 1/0", 1), ("do $$ begin raise exception 'no' using errcode = '40001'; end $$", 5)]
    {
        let runs = AtomicU32::new(0);
        let failed = db
            .repeated(async |tx| {
                runs.fetch_add(1, SeqCst);
                tx.execute(sql, &()).await
            })
            .await;
        let told = failed.unwrap_err();
        assert_eq!(runs.load(SeqCst), expected, "{told}");
        assert_eq!(told.is_transient(), expected > 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_told_as_such_and_not_repeated() {
    let house = House::start();
    let db = notes(&house).await;
    // Ends the connection when the transaction is committed.
    for statement in [
        "create function leave() returns trigger language plpgsql as
         $$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$",
        "create constraint trigger leaves after insert on notes
         deferrable initially deferred for each row execute function leave()",
    ] {
        db.execute(statement, &()).await.unwrap();
    }
    let runs = AtomicU32::new(0);
    let ended = db
        .repeated(async |tx| {
            runs.fetch_add(1, SeqCst);
            tx.execute(NOTE, &()).await
        })
        .await;
    assert!(matches!(ended, Err(StoreError::CommitUnknown(_))), "{ended:?}");
    assert_eq!(runs.load(SeqCst), 1);
    assert_eq!(count(&db).await, json!({ "n": 0 }), "this one had not happened");
}
