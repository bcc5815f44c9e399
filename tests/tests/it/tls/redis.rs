//! TLS to Redis: its certificate is always checked.

use std::{ffi::OsString, path::PathBuf};

use umbel_tests::{
    eventually::eventually,
    process::{Launch, free_port},
    services::{Identity, RedisServer},
};

use super::{Authority, HERE};

/// A Redis that speaks TLS on a port beside its own.
struct Encrypted {
    redis: RedisServer,
    port: u16,
    files: [PathBuf; 2],
}

impl Encrypted {
    fn start(identity: &Identity) -> Self {
        let id = uuid::Uuid::new_v4().simple();
        let [certificate, key] = ["crt", "key"]
            .map(|kind| std::env::temp_dir().join(format!("umbel-redis-{id}.{kind}")));
        std::fs::write(&certificate, &identity.certificate).unwrap();
        std::fs::write(&key, &identity.key).unwrap();
        let port = free_port();
        let redis = RedisServer::start_with(
            &[] as &[OsString],
            &[
                "--tls-port",
                &port.to_string(),
                "--tls-cert-file",
                certificate.to_str().unwrap(),
                "--tls-key-file",
                key.to_str().unwrap(),
                "--tls-auth-clients",
                "no",
            ],
        );
        Self { redis, port, files: [certificate, key] }
    }

    fn launch(&self, args: &[&str]) -> Launch {
        Launch::new("greeter", args)
            .env("REDIS_URL", format!("rediss://default:s3cr3t@{HERE}:{}", self.port))
            .env("JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .env("PORT", 0)
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        for file in &self.files {
            std::fs::remove_file(file).ok();
        }
    }
}

/// What it took to enqueue a task: the exit code, and what was said of it.
fn enqueued(launch: Launch) -> (Option<i32>, String) {
    let output = launch.output();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

const GREET: [&str; 3] = ["enqueue", "greet", r#"{"name": "Ann"}"#];

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_asked_by_tls_where_its_ca_is_trusted() {
    let ca = Authority::new();
    let encrypted = Encrypted::start(&ca.identity(HERE));
    for (name, value) in [("SSL_CERT_FILE", ca.file()), ("SSL_CERT_DIR", ca.folder())] {
        let (code, said) = enqueued(encrypted.launch(&GREET).env(name, value.display()));
        assert_eq!(code, Some(0), "{name}: {said}");
    }
    assert_eq!(encrypted.redis.cli(&["XLEN", "umbel:{default}:ready:normal"]), "2");
    // All that a worker needs: reads that block, a subscription, and what the supervisor asks.
    let worker = encrypted.launch(&["up"]).env("SSL_CERT_FILE", ca.file().display()).start();
    eventually("both are done", async || {
        let queue = encrypted.redis.cli(&["XLEN", "umbel:{default}:ready:normal"]);
        (queue == "0").then_some(())
    })
    .await;
    assert_eq!(worker.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_trusted_is_refused_and_not_waited_for() {
    let (ca, stranger) = (Authority::new(), Authority::new());
    let here = Encrypted::start(&ca.identity(HERE));
    let elsewhere = Encrypted::start(&ca.identity("redis.example"));
    let old = Encrypted::start(&ca.expired(HERE));
    for (redis, trusted, why) in [
        (&here, &stranger, "UnknownIssuer"),
        (&elsewhere, &ca, "not valid for name"),
        (&old, &ca, "expired"),
    ] {
        for args in [&GREET[..], &["up"], &["worker"], &["beat"], &["api"]] {
            let launch = redis.launch(args).env("SSL_CERT_FILE", trusted.file().display());
            let (code, said) = enqueued(launch);
            assert_eq!(code, Some(1), "{why} {args:?}: {said}");
            assert!(
                said.contains("redis is not trusted") && said.contains(why),
                "{args:?}: {said}"
            );
            assert!(said.contains("SSL_CERT_FILE") && !said.contains("s3cr3t"), "{said}");
        }
        assert_eq!(redis.redis.cli(&["DBSIZE"]), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_ca_is_a_wrong_setting() {
    let launch = || Launch::new("greeter", &["worker"]).env("REDIS_URL", "rediss://127.0.0.1:1");
    for (name, value) in [
        ("SSL_CERT_FILE", "/nowhere/ca.pem"),
        ("SSL_CERT_FILE", "/etc/hostname"),
        ("SSL_CERT_DIR", "/nowhere"),
    ] {
        let (code, said) = enqueued(launch().env(name, value));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(name) && said.contains(value), "{said}");
    }
}
