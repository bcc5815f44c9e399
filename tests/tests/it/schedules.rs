//! How the schedules stand: what beats show, and what they have fired.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use chrono_tz::Europe::Berlin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel_beat::{Beat, Timetable, cron, every};
use umbel_broker::{
    BrokerSettings, Client, NewTask,
    schedules::{EntryRecord, ScheduleStatus},
};
use umbel_proto::Task;
use umbel_tests::services::RedisServer;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Sweep {}

impl Task for Sweep {
    const NAME: &'static str = "sites.sweep";
    type Output = ();
}

fn client(redis: &RedisServer) -> Client {
    Client::open(&BrokerSettings::new(redis.url_as("beat")), "beat").unwrap()
}

fn looker(redis: &RedisServer) -> Client {
    Client::open(&BrokerSettings::new(redis.url_as("api")), "api").unwrap()
}

fn timetable(names: &[&str]) -> Timetable {
    let entries = names.iter().fold(Timetable::new(), |all, name| match *name {
        "nightly" => all.entry(name, cron("0 3 * * *").unwrap().timezone(Berlin), Sweep {}),
        _ => all.entry(name, every(Duration::from_secs(1)), Sweep {}),
    });
    entries.build().unwrap()
}

async fn names(client: &Client, now: DateTime<Utc>) -> Vec<(String, bool)> {
    let all = client.schedules(now).await.unwrap();
    all.into_iter().map(|one| (one.entry.name, one.live)).collect()
}

async fn one(client: &Client, name: &str) -> ScheduleStatus {
    client.schedule(name, 10, Utc::now()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_schedule_tells_what_it_is_when_it_is_next_and_what_it_has_fired() {
    let redis = RedisServer::start();
    let look = looker(&redis);
    assert_eq!(look.schedules(Utc::now()).await.unwrap(), []);
    assert_eq!(look.schedule("often", 10, Utc::now()).await.unwrap(), None);
    let mut beat = Beat::new(client(&redis), timetable(&["often", "nightly"]));
    let now = Utc::now();
    let fired = beat.step(now).await.unwrap();

    let often = one(&look, "often").await;
    assert!(often.live);
    assert_eq!((&*often.entry.schedule, &often.entry.zone), ("every 1s", &None));
    assert_eq!((often.entry.task.as_str(), often.entry.queue.as_str()), (Sweep::NAME, "default"));
    let second = now.trunc_subsecs(0);
    assert_eq!(often.next, Some(second + TimeDelta::seconds(1)));
    assert_eq!(often.fires.len(), 1);
    assert_eq!((often.fires[0].slot, &*often.fires[0].outcome), (second, "fired"));
    assert_eq!(often.fires[0].task.as_deref(), Some(fired[0].task.as_str()));

    let nightly = one(&look, "nightly").await;
    assert_eq!(nightly.entry.schedule, "cron 0 3 * * * (Europe/Berlin)");
    assert_eq!(nightly.entry.zone.as_deref(), Some("Europe/Berlin"));
    let next = nightly.next.unwrap();
    assert!(next > now && next - now <= TimeDelta::hours(25));
    assert_eq!(next.with_timezone(&Berlin).format("%H:%M").to_string(), "03:00");
    assert_eq!(nightly.fires, []);

    // A missed one too, and the last first; of the list each tells its last one.
    let next_second = second + TimeDelta::seconds(1);
    beat.step(next_second).await.unwrap();
    let task = NewTask::of(&Sweep {}).unwrap();
    let old = second + TimeDelta::seconds(2);
    assert!(look_and_claim(&client(&redis), old, &task).await);
    client(&redis).miss_slot("often", old, now).await.unwrap();
    let fires = one(&look, "often").await.fires;
    let told: Vec<_> = fires.iter().map(|fire| (fire.slot, &*fire.outcome)).collect();
    assert_eq!(told, [(old, "missed"), (next_second, "fired"), (second, "fired")]);
    assert_eq!(fires[0].task, None);
    let list = look.schedules(now).await.unwrap();
    assert_eq!(list.iter().map(|one| one.fires.len()).collect::<Vec<_>>(), [0, 1]);
}

async fn look_and_claim(client: &Client, slot: DateTime<Utc>, task: &NewTask) -> bool {
    client.claim_slot("often", slot, task).await.unwrap()
}

#[tokio::test]
async fn an_entry_that_no_beat_has_any_more_is_told_apart_and_forgotten_after_a_week() {
    let redis = RedisServer::start();
    let (beats, look) = (client(&redis), looker(&redis));
    let now = Utc::now();
    let mut beat = Beat::new(beats.clone(), timetable(&["often", "removed"]));
    beat.step(now).await.unwrap();
    let live = |name: &str, live| (name.to_owned(), live);
    assert_eq!(names(&look, now).await, [live("often", true), live("removed", true)]);

    // The next release has one entry less; some minutes later it shows.
    let shown = |name: &str, seen: DateTime<Utc>| EntryRecord {
        name: name.to_owned(),
        schedule: "every 1s".to_owned(),
        zone: None,
        task: Sweep::NAME.parse().unwrap(),
        queue: "default".parse().unwrap(),
        seen: Some(seen),
    };
    beats.show_entries(&[shown("removed", now - TimeDelta::minutes(4))]).await.unwrap();
    let mut beat = Beat::new(beats.clone(), timetable(&["often"]));
    beat.step(now + TimeDelta::seconds(1)).await.unwrap();
    assert_eq!(names(&look, now).await, [live("often", true), live("removed", false)]);
    let removed = one(&look, "removed").await;
    assert_eq!((removed.next, removed.fires.len()), (None, 1), "what it has fired is still shown");

    // A week later nothing is left of it but its last slot, which counts should it come back.
    beats.show_entries(&[shown("removed", now - TimeDelta::days(8))]).await.unwrap();
    let mut beat = Beat::new(beats, timetable(&["often"]));
    beat.step(now + TimeDelta::seconds(2)).await.unwrap();
    assert_eq!(names(&look, now).await, [live("often", true)]);
    assert_eq!(look.schedule("removed", 1, now).await.unwrap(), None);
    let of_it = redis.cli(&["EXISTS", "umbel:{beat}:fired:removed"]);
    let due = redis.cli(&["ZSCORE", "umbel:{beat}:due", "removed"]);
    assert_eq!((&*of_it, &*due), ("0", ""));
    assert!(!redis.cli(&["HGET", "umbel:{beat}:last", "removed"]).is_empty());
}

#[tokio::test]
async fn an_entry_of_an_older_release_counts_as_there_until_it_was_dated() {
    let redis = RedisServer::start();
    let (beats, look) = (client(&redis), looker(&redis));
    let older = r#"{"schedule":"every 5m","task":"sites.sweep","queue":"default"}"#;
    redis.cli(&["HSET", "umbel:{beat}:entries", "older", older, "broken", "{"]);
    let now = Utc::now();
    let there = |live| [("older".to_owned(), live)];
    assert_eq!(names(&look, now).await, there(true));
    // A beat that does not have it dates it; from then on it grows old.
    Beat::new(beats, Timetable::default()).step(now).await.unwrap();
    assert_eq!(names(&look, now + TimeDelta::minutes(2)).await, there(true));
    assert_eq!(names(&look, now + TimeDelta::minutes(4)).await, there(false));
}

#[tokio::test]
async fn a_redis_that_lost_what_was_shown_is_shown_it_again() {
    let redis = RedisServer::start();
    let look = looker(&redis);
    let mut beat = Beat::new(client(&redis), timetable(&["often"]));
    let now = Utc::now() - TimeDelta::seconds(2);
    beat.step(now).await.unwrap();
    redis.cli(&["FLUSHALL"]);
    redis.stop();
    // The step that fails makes the next one join anew.
    assert!(beat.step(now + TimeDelta::seconds(1)).await.is_err());
    redis.restart();
    umbel_tests::eventually::eventually("the step succeeds", async || {
        beat.step(now + TimeDelta::seconds(2)).await.ok()
    })
    .await;
    let often = one(&look, "often").await;
    assert!(often.live && often.next.is_some(), "{often:?}");
}
