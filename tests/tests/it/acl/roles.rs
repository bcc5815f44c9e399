//! The roles as real processes, each as the user that is meant for it.

use nix::sys::signal::Signal;
use reqwest::StatusCode;
use serde_json::{Value, json};
use umbel_tests::{
    eventually::eventually,
    process::{Launch, Process, api_ready, free_port},
    services::RedisServer,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Town {
    redis: RedisServer,
    port: u16,
}

impl Town {
    fn start() -> Self {
        // Another test of this process may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { redis: RedisServer::start_restricted(), port: free_port() }
    }

    fn greeter(&self, user: &str, args: &[&str]) -> Launch {
        Launch::new("greeter", args)
            .env("REDIS_URL", self.redis.url_as(user))
            .env("JWT_SECRET", SECRET)
            .env("PORT", self.port)
    }

    /// Asks the API for a greeting and waits for it.
    async fn greeting(&self) {
        let token = self.greeter("api", &["token"]).output().stdout;
        let token = String::from_utf8(token).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let at = |path: &str| format!("http://127.0.0.1:{}{path}", self.port);
        api_ready(&http, self.port).await;
        let body = json!({"args": {"name": "Ada"}});
        let posted = http.post(at("/v1/tasks/greet")).bearer_auth(token.trim()).json(&body);
        let posted = posted.send().await.unwrap();
        assert_eq!(posted.status(), StatusCode::ACCEPTED);
        let id = posted.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
        let record = eventually("the task ends", async || {
            let asked = http.get(at(&format!("/v1/tasks/{id}"))).bearer_auth(token.trim());
            let record: Value = asked.send().await.ok()?.json().await.ok()?;
            (record["state"] == "succeeded").then_some(record)
        })
        .await;
        assert_eq!(record["result"], "Hello, Ada!");
        let queues = http.get(at("/v1/queues")).bearer_auth(token.trim()).send().await.unwrap();
        assert_eq!(queues.status(), StatusCode::OK);
    }
}

async fn stop(processes: impl IntoIterator<Item = Process>) {
    for process in processes {
        assert_eq!(process.stop().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_works_as_its_own_user() {
    let town = Town::start();
    let roles = ["api", "worker", "beat"].map(|role| town.greeter(role, &[role]).start());
    town.greeting().await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_roles_under_one_supervisor_work_as_the_user_of_the_worker() {
    let town = Town::start();
    let up = town.greeter("worker", &["up"]).start();
    town.greeting().await;
    // The supervisor's word on a worker that died is one of its own commands.
    let worker = up.role("worker").unwrap();
    umbel_tests::process::send(worker, Signal::SIGKILL);
    eventually("its death is written down", async || {
        town.redis.cli(&["HVALS", "umbel:{workers}:heartbeat"]).contains("dead ").then_some(())
    })
    .await;
    town.greeting().await;
    stop([up]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_ask_for_info_says_what_it_cannot_see_and_goes_on() {
    let town = Town::start();
    for user in super::ROLES {
        town.redis.cli(&["ACL", "SETUSER", user, "-info"]);
    }
    let roles = ["api", "worker", "beat"].map(|role| town.greeter(role, &[role]).start());
    town.greeting().await;
    for role in &roles {
        // What the greeting needed may have come before the last line of one of them.
        let ready = async || role.log().contains("append-only file").then_some(());
        eventually("it has looked at redis", ready).await;
        let log = role.log();
        for told in ["redis does not tell its maxmemory-policy", "append-only file"] {
            assert_eq!(log.matches(told).count(), 1, "`{told}` in {log}");
        }
    }
    let log = roles[1].log();
    assert_eq!(log.matches("settles compare task ids and attempts instead").count(), 1, "{log}");
    stop(roles).await;
    assert!(town.redis.denied().iter().all(|line| line.ends_with(" command info")));
}

/// A password that is wrong is told at once, and not the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_wrong_password_ends_with_1_and_a_sentence() {
    let town = Town::start();
    let wrong = town.redis.url_as("worker").replace("worker:", "worker:s3cret-");
    for role in ["worker", "api", "beat", "up"] {
        let mut process = town.greeter("worker", &[role]).env("REDIS_URL", &wrong).start();
        assert_eq!(process.ended().await.code(), Some(1), "{role}");
        let log = process.log();
        assert!(log.contains("redis denies access") && !log.contains("s3cret"), "{role}: {log}");
    }
}
