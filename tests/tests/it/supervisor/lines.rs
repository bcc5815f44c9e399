//! The log: one stream of all processes, a line an event, each with its role.

use std::collections::BTreeSet;

use serde_json::Value;
use umbel_tests::{
    chaos::{
        probe::{Act, HISTORY},
        site::Site,
    },
    eventually::eventually,
};

use super::{enqueue, ready};

const LABELS: [&str; 4] = ["api", "beat", "supervisor", "worker"];

#[tokio::test(flavor = "multi_thread")]
async fn every_line_says_which_role_it_is_of_panics_included() {
    let site = Site::new();
    for format in ["text", "json"] {
        let up = site.launch("up", &[("LOG_FORMAT", format)]);
        ready(&up).await;
        enqueue(&site, Act::Panic).await;
        let panic = eventually("a panic is told", async || {
            up.log().lines().find(|line| line.contains("panicked: in two")).map(str::to_owned)
        })
        .await;
        assert!(panic.contains("lines") && panic.contains("probe.rs"), "{panic}");
        site.redis.cli(&["FLUSHALL"]);
        let role = |line: &str| match format {
            "text" => line.split(' ').next().unwrap().to_owned(),
            _ => {
                let event: Value = serde_json::from_str(line).expect(line);
                assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
                event["process"].as_str().expect(line).to_owned()
            }
        };
        assert_eq!(role(&panic), "worker");
        let log = up.log();
        let roles: BTreeSet<String> = log.lines().map(role).collect();
        assert_eq!(roles, LABELS.map(str::to_owned).into(), "{log}");
        up.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_role_that_dies_are_lines_as_well() {
    let site = Site::new();
    let env = [(HISTORY, "/nowhere/history"), ("RESTART_LIMIT", "1"), ("LOG_FORMAT", "json")];
    let mut up = site.launch("up", &env);
    assert_eq!(up.ended().await.code(), Some(1));
    let log = up.log();
    let events: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said = |role: &str, words: &str| {
        let is = |event: &&Value| {
            event["process"] == role && event["message"].as_str().is_some_and(|m| m.contains(words))
        };
        assert!(events.iter().any(|event| is(&event)), "{role}: {words} in {log}");
    };
    said("supervisor", "giving up");
    // Whichever of the two died first.
    let own = ["api", "worker"].into_iter().find(|role| {
        log.contains(&format!(r#""process":"{role}""#)) && log.contains("/nowhere/history")
    });
    said(own.expect(&log), "the application cannot start");
}
