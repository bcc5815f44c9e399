//! `umbel health`, as a platform asks it: a command with the environment of the role.

use std::process::Output;

use umbel_tests::{
    eventually::eventually,
    process::{Launch, free_port},
    services::{PostgresServer, RedisServer},
};

use super::text;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How a role is asked.
fn ask(launch: &impl Fn(&[&str]) -> Launch, role: &str) -> Output {
    launch(&["health", role]).output()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_is_well_while_it_runs_and_not_before() {
    let redis = RedisServer::start();
    let database = PostgresServer::shared().database();
    let port = free_port();
    let launch = |args: &[&str]| {
        Launch::new("umbel", args)
            .env("REDIS_URL", redis.url())
            .env("DATABASE_URL", database.url())
            .env("JWT_SECRET", SECRET)
            // As in a container: it is asked on loopback all the same.
            .env("HOST", "0.0.0.0")
            .env("PORT", port)
    };
    assert!(launch(&["migrate"]).output().status.success());
    for (role, why) in
        [("api", "nobody listens"), ("worker", "no worker of"), ("beat", "no beat has shown")]
    {
        let said = ask(&launch, role);
        assert!(said.status.code() == Some(1) && text(&said).contains(why), "{}", text(&said));
    }

    let up = launch(&["up"]).start();
    for (role, how) in
        [("api", "\"ready\""), ("worker", "told of itself"), ("beat", "told of itself")]
    {
        let well = async || Some(ask(&launch, role)).filter(|said| said.status.success());
        let said = eventually(&format!("the {role} is well"), well).await;
        assert!(text(&said).contains(how), "{}", text(&said));
    }
    // Without a role it is the API that is asked, as in the image.
    assert!(launch(&["health"]).output().status.success());

    redis.stop();
    let ill = async || Some(ask(&launch, "api")).filter(|said| said.status.code() == Some(1));
    let said = eventually("the API is not ready", ill).await;
    assert!(text(&said).contains("503"), "{}", text(&said));
    assert_eq!(ask(&launch, "worker").status.code(), Some(1));
    redis.restart();
    assert!(up.stop().await.success());
}

#[test]
fn a_port_that_nobody_knows_is_a_wrong_setting() {
    let said = Launch::new("umbel", &["health"]).env("PORT", 0).output();
    assert_eq!(said.status.code(), Some(2), "{}", text(&said));
}
