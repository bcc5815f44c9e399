//! A Redis that would lose tasks is refused before anything is entrusted to it.

use umbel_tests::{eventually::eventually, process::Launch, services::RedisServer};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn umbel(redis: &RedisServer, role: &str) -> Launch {
    Launch::new("umbel", &[role])
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
        .env("JWT_SECRET", SECRET)
        .env("PORT", 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_ends_with_2_and_a_sentence_that_says_what_to_set() {
    let lru = RedisServer::start_with(&[], &["--maxmemory-policy", "allkeys-lru"]);
    let volatile = RedisServer::start_with(&[], &["--appendonly", "no"]);
    for role in ["worker", "api", "beat", "up"] {
        for (redis, told) in [
            (&lru, ["allkeys-lru", "noeviction"]),
            (&volatile, ["appendonly yes", "ALLOW_VOLATILE=true"]),
        ] {
            let mut process = umbel(redis, role).start();
            assert_eq!(process.ended().await.code(), Some(2), "{role}: {}", process.log());
            let log = process.log();
            assert!(told.iter().all(|words| log.contains(words)), "{role}, {told:?}: {log}");
        }
    }
    // What is allowed is only that.
    let mut process = umbel(&lru, "worker").env("ALLOW_VOLATILE", true).start();
    assert_eq!(process.ended().await.code(), Some(2), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_or_only_doubtful_is_taken_with_a_warning() {
    let volatile = RedisServer::start_with(&[], &["--appendonly", "no"]);
    let lru = RedisServer::start_with(&[], &["--maxmemory-policy", "volatile-lru"]);
    for (launch, told) in [
        (umbel(&volatile, "worker").env("ALLOW_VOLATILE", true), "keeps no append-only file"),
        (umbel(&lru, "worker"), "volatile-lru"),
    ] {
        let worker = launch.start();
        eventually("it works", async || worker.log().contains("worker is ready").then_some(()))
            .await;
        assert!(worker.log().contains(told), "`{told}` in {}", worker.log());
        assert_eq!(worker.stop().await.code(), Some(0));
    }
}
