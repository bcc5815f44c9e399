//! TLS to Postgres, straight and through a pooler that wants it.

use std::time::{Duration, Instant};

use umbel_store::{Db, Denial, StoreError, StoreSettings};
use umbel_tests::{
    process::Launch,
    services::{PgBouncer, PostgresServer, RedisServer},
};

use super::{Authority, HERE};

/// A refusal is an answer; who waits for something else waits as long as this, and longer.
const ACQUIRE: Duration = Duration::from_secs(20);

/// A server or pooler that speaks TLS.
struct Place<'a> {
    port: u16,
    database: &'a str,
}

impl Place<'_> {
    fn url(&self, query: &str) -> String {
        format!("postgres://postgres:s3cr3t@{HERE}:{}/{}?{query}", self.port, self.database)
    }

    async fn ask(&self, query: &str) -> Result<bool, StoreError> {
        #[derive(serde::Deserialize)]
        struct Seen {
            ssl: bool,
        }
        let settings =
            StoreSettings { acquire_timeout: ACQUIRE, ..StoreSettings::new(self.url(query)) };
        let db = Db::open(&settings).expect("good settings");
        let asked = "select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as ssl";
        let seen: Option<Seen> = db.row(asked, &()).await?;
        Ok(seen.expect("a row").ssl)
    }

    /// Refused at once, with a sentence that has all of these, and no secret.
    async fn is_refused(&self, query: &str, said: &[&str]) -> Denial {
        let began = Instant::now();
        let error = self.ask(query).await.expect_err(query);
        assert!(began.elapsed() < ACQUIRE / 2, "{query}: {:?}", began.elapsed());
        assert!(!error.is_transient(), "{query}: {error:?}");
        let told = crate::store::told(&error);
        for part in said {
            assert!(told.contains(part), "{query}: {part} in {told}");
        }
        assert!(!told.contains("s3cr3t"), "{told}");
        let StoreError::Denied(denial) = error else { panic!("{query}: {error:?}") };
        denial
    }
}

fn with_ca(mode: &str, ca: &Authority) -> String {
    format!("sslmode={mode}&sslrootcert={}", ca.file().display())
}

#[tokio::test]
async fn postgres_is_asked_by_tls_as_the_address_says() {
    let (ca, stranger) = (Authority::named("one CA"), Authority::new());
    let namesake = Authority::named("one CA");
    let server = PostgresServer::start_with_tls(&ca.identity(HERE));
    let place = Place { port: server.port(), database: "postgres" };
    for (query, by_tls) in [
        ("", true),
        ("sslmode=disable", false),
        ("sslmode=prefer", true),
        ("sslmode=require", true),
        (&with_ca("require", &ca), true),
        (&with_ca("verify-ca", &ca), true),
        (&with_ca("verify-full", &ca), true),
    ] {
        assert_eq!(place.ask(query).await.expect(query), by_tls, "{query}");
    }
    // `require` with a CA asks it, as other clients do.
    for query in [
        with_ca("require", &stranger),
        with_ca("verify-ca", &stranger),
        with_ca("verify-full", &stranger),
        with_ca("verify-full", &namesake),
        "sslmode=verify-full".to_owned(),
    ] {
        let denial = place.is_refused(&query, &["not trusted", "sslrootcert"]).await;
        assert!(matches!(denial, Denial::UnknownIssuer(_)), "{query}: {denial:?}");
    }
    // From now on nobody comes in without.
    let rules = server.sql("show hba_file");
    server.sql(&format!("copy (values ('hostssl all all {HERE}/32 trust')) to '{rules}'"));
    server.restart();
    let denial = place.is_refused("sslmode=disable", &["without TLS", "sslmode", "28000"]).await;
    assert!(matches!(denial, Denial::TlsNeeded(_)), "{denial:?}");
    assert!(place.ask(&with_ca("verify-full", &ca)).await.expect("let in"));
}

#[tokio::test]
async fn a_certificate_for_another_host_or_of_another_time_is_refused() {
    let ca = Authority::new();
    let elsewhere = PostgresServer::start_with_tls(&ca.identity("db.example"));
    let place = Place { port: elsewhere.port(), database: "postgres" };
    let denial = place.is_refused(&with_ca("verify-full", &ca), &["must name a host"]).await;
    assert!(matches!(denial, Denial::AnotherHost(_)), "{denial:?}");
    assert!(place.ask(&with_ca("verify-ca", &ca)).await.expect("whose name it is does not count"));

    let old = PostgresServer::start_with_tls(&ca.expired(HERE));
    let place = Place { port: old.port(), database: "postgres" };
    for mode in ["verify-ca", "verify-full"] {
        let denial = place.is_refused(&with_ca(mode, &ca), &["another certificate"]).await;
        assert!(matches!(denial, Denial::Certificate(_)), "{denial:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_no_server_for_who_asks_for_it() {
    let server = PostgresServer::shared();
    let ca = Authority::new();
    let place = Place { port: server.port(), database: "postgres" };
    assert!(!place.ask("sslmode=prefer").await.expect("prefers, and does without"));
    for query in ["sslmode=require".to_owned(), with_ca("verify-full", &ca)] {
        let denial = place.is_refused(&query, &["offers no TLS", "sslmode=disable"]).await;
        assert!(matches!(denial, Denial::NoTls(_)), "{denial:?}");
    }
}

#[tokio::test]
async fn a_pooler_that_wants_tls_is_asked_by_it() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let server = PostgresServer::shared();
    let database = server.database();
    let pooler = PgBouncer::start_with_tls(server, 2, &ca.identity(HERE));
    let place = Place { port: pooler.port(), database: database.name() };
    for query in ["sslmode=require", &with_ca("verify-full", &ca)] {
        place.ask(query).await.expect(query);
    }
    let denial = place.is_refused("sslmode=disable", &["without TLS", "SSL required"]).await;
    assert!(matches!(denial, Denial::TlsNeeded(_)), "{denial:?}");
    let denial = place.is_refused(&with_ca("verify-full", &stranger), &["sslrootcert"]).await;
    assert!(matches!(denial, Denial::UnknownIssuer(_)), "{denial:?}");
}

#[tokio::test]
async fn a_ca_that_would_not_be_asked_is_refused_as_a_setting() {
    let ca = Authority::new();
    for query in [
        format!("sslrootcert={}", ca.file().display()),
        with_ca("disable", &ca),
        with_ca("allow", &ca),
        with_ca("prefer", &ca),
    ] {
        let settings = StoreSettings::new(format!("postgres://u@{HERE}/d?{query}"));
        let refusal = settings.check().expect_err(&query).to_string();
        assert!(refusal.contains("sslrootcert") && refusal.contains("verify-full"), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_database_is_not_trusted_does_not_wait_for_it() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let server = PostgresServer::start_with_tls(&ca.identity(HERE));
    let redis = RedisServer::start();
    let place = Place { port: server.port(), database: "postgres" };
    let launch = |args: &[&str], query: &str| {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url_as("worker"))
            .env("DATABASE_URL", place.url(query))
            .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .env("PORT", 0)
    };
    let mut umbel = launch(&["up"], &with_ca("verify-full", &stranger)).start();
    assert_eq!(umbel.ended().await.code(), Some(1));
    let log = umbel.log();
    assert!(log.contains("postgres is not trusted: sslrootcert"), "{log}");
    assert!(!log.contains("waiting for postgres") && !log.contains("s3cr3t"), "{log}");

    let migrated = launch(&["migrate"], &with_ca("verify-full", &ca)).output();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let nowhere = launch(&["up"], "sslmode=verify-full&sslrootcert=/nowhere.pem").output();
    assert_eq!(nowhere.status.code(), Some(2));
}
