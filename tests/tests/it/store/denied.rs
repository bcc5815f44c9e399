//! Whom Postgres does not let in, and what a pooler makes of it.

use umbel_store::{Db, StoreError, StoreSettings};
use umbel_tests::{
    eventually::eventually,
    services::{PgBouncer, PostgresServer},
};

use super::told;

/// A server on which `locked` needs a password, and nobody gets into the database `shut`.
fn server() -> PostgresServer {
    let server = PostgresServer::start();
    server.sql("create role locked login password 'right'");
    server.sql("create database shut");
    let rules = server.sql("show hba_file");
    server.sql(&format!(
        "copy (values ('host all locked 127.0.0.1/32 scram-sha-256'),
                      ('host shut all 127.0.0.1/32 reject'),
                      ('host all all 127.0.0.1/32 trust')) to '{rules}'"
    ));
    server.restart();
    server
}

fn client(user: &str, port: u16, database: &str) -> Db {
    let url = format!("postgres://{user}@127.0.0.1:{port}/{database}");
    Db::open(&StoreSettings::new(url)).expect("good settings")
}

#[tokio::test]
async fn a_login_that_is_refused_is_no_passing_trouble() {
    let server = server();
    for (user, database, code, said) in [
        ("locked:s3cr3t", "postgres", "28P01", "password authentication failed"),
        ("nobody", "postgres", "28000", "\"nobody\" does not exist"),
        ("postgres", "shut", "28000", "pg_hba.conf rejects"),
        ("postgres", "nowhere", "3D000", "\"nowhere\" does not exist"),
    ] {
        let error = client(user, server.port(), database).ping().await.expect_err("refused");
        assert!(matches!(error, StoreError::Denied(_)) && !error.is_transient(), "{error:?}");
        let told = told(&error);
        for part in ["postgres denies access", code, said] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("s3cr3t"), "{told}");
    }
    client("locked:right", server.port(), "postgres").ping().await.expect("let in");
}

#[tokio::test]
async fn a_password_that_was_put_right_lets_the_same_client_in() {
    let server = server();
    let db = client("locked:right", server.port(), "postgres");
    db.ping().await.expect("let in");
    server.sql("alter role locked password 'another'");
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'locked'");
    // The first calls may find the connection that is being ended.
    eventually("it is denied", async || {
        matches!(db.ping().await, Err(StoreError::Denied(_))).then_some(())
    })
    .await;
    server.sql("alter role locked password 'right'");
    db.ping().await.expect("let in again");
}

/// Old ones have one code for all that keeps a client out, a server that starts included: then only
/// the sentence tells, and it is for a person.
#[tokio::test]
async fn a_pooler_is_believed_where_it_passes_on_the_code_and_quoted_where_it_does_not() {
    let server = server();
    let pooler = PgBouncer::start(&server, 1);
    for (database, code, said) in [
        ("shut", "28000", "pg_hba.conf rejects"),
        ("nowhere", "3D000", "\"nowhere\" does not exist"),
    ] {
        let error = client("postgres", pooler.port(), database).ping().await.expect_err("refused");
        let told = told(&error);
        assert!(told.contains(said), "{told}");
        let (passed_on, own) = (told.contains(code), told.contains("08P01"));
        assert_eq!((error.is_transient(), passed_on), (own, !own), "{told}");
    }
}
