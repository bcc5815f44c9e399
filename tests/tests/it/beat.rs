//! Beats on a real Redis: each slot is enqueued once, whoever dies and whatever restarts.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, DurationRound, SubsecRound, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use umbel_beat::{Beat, Fired, Schedule, StepError, Timetable, cron, every};
use umbel_broker::{BrokerError, BrokerSettings, Client, NewTask};
use umbel_proto::{Task, TaskOptions, TaskState};
use umbel_tests::services::RedisServer;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Sweep {
    area: u32,
}

impl Task for Sweep {
    const NAME: &'static str = "sites.sweep";
    type Output = ();
}

const SWEEP: Sweep = Sweep { area: 1 };

#[derive(Serialize, Deserialize, JsonSchema)]
struct Prune {}

impl Task for Prune {
    const NAME: &'static str = "pages.prune";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT.queue("upkeep");
    type Output = ();
}

/// Far more than anything here takes; who waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);

struct House {
    redis: RedisServer,
    client: Client,
}

impl House {
    fn start() -> Self {
        let redis = RedisServer::start();
        let client = connect(&redis, "worker");
        Self { redis, client }
    }

    /// A beat with a connection of its own, as one in another process has.
    fn beat(&self, timetable: &Timetable) -> Beat {
        Beat::new(connect(&self.redis, "beat"), timetable.clone())
    }

    async fn queued(&self, queue: &str) -> u64 {
        let queues = self.client.queues().await.expect("redis answers");
        queues.into_iter().find(|status| status.name.as_str() == queue).map_or(0, |q| q.queued)
    }

    /// The slots, in ms, and outcomes that were noted of an entry, in order.
    fn noted(&self, entry: &str) -> Vec<(i64, String)> {
        let notes = self.redis.cli(&["xrange", &format!("umbel:{{beat}}:fired:{entry}"), "-", "+"]);
        let after = |lines: &[&str], name: &str| {
            let at = lines.iter().position(|line| *line == name).expect("the note has the field");
            lines[at + 1].to_owned()
        };
        let lines: Vec<&str> = notes.lines().filter(|line| !line.is_empty()).collect();
        // An id, then four fields with their values.
        let notes = lines.chunks(9);
        let slot = |note| after(note, "slot").parse().expect("milliseconds");
        notes.map(|note| (slot(note), after(note, "outcome"))).collect()
    }
}

fn connect(redis: &RedisServer, user: &str) -> Client {
    Client::open(&BrokerSettings::new(redis.url_as(user)), "beat").expect("a good address")
}

fn every_second() -> Schedule {
    every(Duration::from_secs(1))
}

/// One entry `sweep`.
fn sweep(schedule: Schedule) -> Timetable {
    Timetable::new().entry("sweep", schedule, SWEEP).build().expect("a good timetable")
}

fn second(t: DateTime<Utc>) -> DateTime<Utc> {
    t.trunc_subsecs(0)
}

fn slots(fired: &[Fired]) -> Vec<DateTime<Utc>> {
    fired.iter().map(|fired| fired.slot).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_beats_enqueue_each_of_fifty_slots_once() {
    let house = House::start();
    let mut timetable = Timetable::new();
    for area in 0..10 {
        timetable = timetable.entry(&format!("sweep-{area}"), every_second(), Sweep { area });
    }
    let timetable = timetable.build().unwrap();
    let mut beats: Vec<Beat> = (0..8).map(|_| house.beat(&timetable)).collect();

    let mut fired = Vec::new();
    let mut seconds = Vec::new();
    // Five seconds in less, and still close enough to the clock of Redis.
    for ahead in -2..=2 {
        let now = Utc::now() + TimeDelta::seconds(ahead);
        seconds.push(second(now));
        let steps = beats.into_iter().map(|mut beat| {
            tokio::spawn(async move {
                let fired = beat.step(now).await.unwrap();
                (beat, fired)
            })
        });
        let steps: Vec<_> = steps.collect();
        beats = Vec::new();
        for step in steps {
            let (beat, step) = step.await.unwrap();
            beats.push(beat);
            fired.extend(step);
        }
    }

    let expected: HashSet<_> = (0..10)
        .flat_map(|area| seconds.iter().map(move |slot| (format!("sweep-{area}"), *slot)))
        .collect();
    let slots: HashSet<_> = fired.iter().map(|fired| (fired.entry.clone(), fired.slot)).collect();
    let tasks: HashSet<_> = fired.iter().map(|fired| &fired.task).collect();
    assert_eq!((slots, tasks.len()), (expected, 50));
    assert_eq!(house.queued("default").await, 50);
    let noted: Vec<_> =
        seconds.iter().map(|slot| (slot.timestamp_millis(), "fired".to_owned())).collect();
    for area in 0..10 {
        assert_eq!(house.noted(&format!("sweep-{area}")), noted);
    }
    assert_eq!(house.client.open_intents().await.unwrap(), []);
}

#[tokio::test]
async fn a_slot_whose_beat_died_before_it_enqueued_is_fired_once_by_the_others() {
    let house = House::start();
    let timetable = sweep(every(Duration::from_mins(5)));
    let now = Utc::now();
    let slot = now.duration_trunc(TimeDelta::minutes(5)).unwrap();
    let claimed = house.client.claim_slot("sweep", slot, &timetable.entries()[0].task).await;
    assert!(claimed.unwrap());

    let (mut one, mut other) = (house.beat(&timetable), house.beat(&timetable));
    let (one, other) = tokio::join!(one.step(now), other.step(now));

    let fired = [one.unwrap(), other.unwrap()].concat();
    assert!(!fired.is_empty());
    assert!(fired.iter().all(|again| *again == fired[0] && again.slot == slot), "{fired:?}");
    assert_eq!(house.queued("default").await, 1);
    assert_eq!(house.noted("sweep"), [(slot.timestamp_millis(), "fired".to_owned())]);
}

#[tokio::test]
async fn a_slot_whose_beat_died_after_it_enqueued_is_not_enqueued_again() {
    let house = House::start();
    let timetable = sweep(every(Duration::from_mins(5)));
    let task = &timetable.entries()[0].task;
    let now = Utc::now();
    let slot = now.duration_trunc(TimeDelta::minutes(5)).unwrap();
    assert!(house.client.claim_slot("sweep", slot, task).await.unwrap());
    let first = house.client.fire_slot("sweep", slot, task.clone(), now).await.unwrap();
    // As if it had died just before it closed the slot.
    let intents = "umbel:{beat}:intents";
    house.redis.cli(&["hdel", "umbel:{beat}:last", "sweep"]);
    assert!(house.client.claim_slot("sweep", slot, task).await.unwrap());
    assert_eq!(house.redis.cli(&["hlen", intents]), "1");

    let fired = house.beat(&timetable).step(now).await.unwrap();

    assert_eq!(fired, [Fired { entry: "sweep".to_owned(), slot, task: first }]);
    assert_eq!(house.queued("default").await, 1);
    assert_eq!(house.redis.cli(&["hlen", intents]), "0");
}

#[tokio::test]
async fn a_beat_that_is_started_again_goes_on_after_the_last_slot() {
    let house = House::start();
    let timetable = sweep(every_second());
    let now = Utc::now();
    let next = now + TimeDelta::seconds(1);

    let first = house.beat(&timetable).step(now).await.unwrap();
    let mut again = house.beat(&timetable);

    assert_eq!(slots(&first), [second(now)]);
    assert_eq!(again.step(now).await.unwrap(), []);
    assert_eq!(slots(&again.step(next).await.unwrap()), [second(next)]);
    assert_eq!(again.step(next).await.unwrap(), []);
    assert_eq!(house.queued("default").await, 2);

    let task = house.client.task(&first[0].task).await.unwrap().expect("it is tracked");
    assert_eq!((task.task.as_str(), task.state), (Sweep::NAME, TaskState::Queued));
}

#[tokio::test]
async fn after_a_downtime_each_entry_fires_its_latest_slot_only_and_a_new_cron_entry_nothing() {
    let house = House::start();
    let timetable = Timetable::new()
        .entry("often", every_second(), SWEEP)
        .entry("each-minute", cron("* * * * *").unwrap(), Prune {})
        .entry("added", cron("* * * * *").unwrap(), Prune {})
        .build()
        .unwrap();
    let now = Utc::now();
    let minute = now.duration_trunc(TimeDelta::minutes(1)).unwrap();
    let earlier = minute - TimeDelta::hours(3);
    for entry in &timetable.entries()[..2] {
        house.client.claim_slot(&entry.name, earlier, &entry.task).await.unwrap();
        house.client.fire_slot(&entry.name, earlier, entry.task.clone(), earlier).await.unwrap();
    }

    let fired = house.beat(&timetable).step(now).await.unwrap();

    let fired: Vec<_> = fired.iter().map(|fired| (fired.entry.as_str(), fired.slot)).collect();
    assert_eq!(fired, [("often", second(now)), ("each-minute", minute)]);
    assert_eq!((house.queued("default").await, house.queued("upkeep").await), (2, 2));
    let entries = house.redis.cli(&["hget", "umbel:{beat}:entries", "each-minute"]);
    let entries: serde_json::Value = serde_json::from_str(&entries).unwrap();
    assert_eq!(
        entries,
        serde_json::json!({
            "schedule": "cron * * * * * (UTC)", "zone": "UTC", "task": "pages.prune",
            "queue": "upkeep", "seen": now,
        })
    );
}

#[tokio::test]
async fn a_claimed_slot_that_is_too_old_is_closed_as_missed_whosever_entry_it_was() {
    let house = House::start();
    let now = Utc::now();
    let task = NewTask::of(&SWEEP).unwrap();
    let (old, recent) = (now - TimeDelta::hours(13), now - TimeDelta::hours(11));
    let (old, recent) = (second(old), second(recent));
    assert!(house.client.claim_slot("of-an-older-release", old, &task).await.unwrap());
    assert!(house.client.claim_slot("of-an-older-release", recent, &task).await.unwrap());

    let fired = house.beat(&Timetable::default()).step(now).await.unwrap();

    assert_eq!(slots(&fired), [recent]);
    let mut noted = house.noted("of-an-older-release");
    noted.sort();
    let expected = [(old, "missed"), (recent, "fired")];
    assert_eq!(noted, expected.map(|(slot, what)| (slot.timestamp_millis(), what.to_owned())));
    assert_eq!(house.client.open_intents().await.unwrap(), []);
    assert_eq!(house.queued("default").await, 1);
}

#[tokio::test]
async fn a_full_queue_holds_one_slot_of_its_entry_and_stops_no_other() {
    let house = House::start();
    let timetable = Timetable::new()
        .entry("prune", every_second(), Prune {})
        .entry("sweep", every_second(), SWEEP)
        .build()
        .unwrap();
    let mut beat = house.beat(&timetable);
    let control = "umbel:{upkeep}:control";
    house.redis.cli(&["hset", control, "cap", "0"]);

    let mut held = None;
    for ahead in -2..=1 {
        let now = Utc::now() + TimeDelta::seconds(ahead);
        let fired = beat.step(now).await.unwrap();
        let fired: Vec<_> = fired.iter().map(|fired| (fired.entry.as_str(), fired.slot)).collect();
        assert_eq!(fired, [("sweep", second(now))]);
        let intents = house.client.open_intents().await.unwrap();
        let slots: Vec<_> = intents.iter().map(|intent| intent.slot).collect();
        assert_eq!(slots, [*held.get_or_insert(second(now))], "only the first one is held");
    }
    house.redis.cli(&["hdel", control, "cap"]);
    let now = Utc::now() + TimeDelta::seconds(2);
    let fired = beat.step(now).await.unwrap();

    let of_prune: Vec<_> = fired.iter().filter(|fired| fired.entry == "prune").cloned().collect();
    assert_eq!(slots(&of_prune), [held.unwrap(), second(now)]);
    assert_eq!(house.queued("upkeep").await, 2);
}

#[tokio::test]
async fn an_intent_that_nobody_can_read_does_not_stop_what_is_due() {
    let house = House::start();
    house.redis.cli(&["hset", "umbel:{beat}:intents", "sweep 1", "not a task"]);
    let now = Utc::now();
    let fired = house.beat(&sweep(every_second())).step(now).await.unwrap();
    assert_eq!(slots(&fired), [second(now)]);
}

#[tokio::test]
async fn a_slot_whose_key_stands_for_another_call_is_given_up() {
    let house = House::start();
    let mut beat = house.beat(&sweep(every_second()));
    let now = Utc::now();
    let mut other = NewTask::of(&Sweep { area: 2 }).unwrap();
    other.call.idempotency_key = Some(format!("beat:sweep:{}", second(now).timestamp_millis()));
    house.client.submit(other).await.unwrap();

    assert_eq!(beat.step(now).await.unwrap(), []);
    assert_eq!(house.queued("default").await, 1);
    assert_eq!(house.noted("sweep"), [(second(now).timestamp_millis(), "missed".to_owned())]);
    assert_eq!(house.client.open_intents().await.unwrap(), []);
}

#[tokio::test]
async fn a_step_with_nothing_due_asks_redis_for_its_clock_and_for_open_slots() {
    let house = House::start();
    let mut beat = house.beat(&sweep(cron("@yearly").unwrap()));
    assert_eq!(beat.step(Utc::now()).await.unwrap(), []);
    house.redis.cli(&["config", "resetstat"]);
    assert_eq!(beat.step(Utc::now()).await.unwrap(), []);

    let stats = house.redis.cli(&["info", "commandstats"]);
    let commands = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
    let mut commands: Vec<_> = commands.filter_map(|line| line.split(':').next()).collect();
    commands.retain(|command| *command != "config|resetstat");
    commands.sort_unstable();
    assert_eq!(commands, ["hgetall", "time"]);
}

#[tokio::test]
async fn a_beat_that_lives_shows_its_entries_to_a_redis_that_lost_all_and_fires_no_slot_again() {
    let house = House::start();
    let mut beat = house.beat(&sweep(every_second()));
    let now = Utc::now();
    let next = now + TimeDelta::seconds(1);
    assert_eq!(slots(&beat.step(now).await.unwrap()), [second(now)]);

    house.redis.cli(&["flushall"]);
    house.redis.kill9();
    house.redis.restart();

    assert_eq!(step_through(&mut beat, now).await, []);
    assert_eq!(house.redis.cli(&["hkeys", "umbel:{beat}:entries"]), "sweep");
    assert_eq!(slots(&beat.step(next).await.unwrap()), [second(next)]);
}

#[tokio::test]
async fn nothing_fires_while_the_clock_is_not_that_of_redis() {
    let house = House::start();
    let mut beat = house.beat(&sweep(every_second()));
    for seconds in [-3600, -7, 7, 3600] {
        let wrong = Utc::now() + TimeDelta::seconds(seconds);
        let error = beat.step(wrong).await.unwrap_err();
        assert!(matches!(error, StepError::Clocks { here, .. } if here == wrong), "{error}");
    }
    assert_eq!(house.queued("default").await, 0);
    let now = Utc::now();
    assert_eq!(slots(&beat.step(now).await.unwrap()), [second(now)]);
}

#[tokio::test]
async fn a_beat_goes_on_after_redis_was_killed_with_the_latest_slot_and_no_slot_twice() {
    let house = House::start();
    let mut beat = house.beat(&sweep(every_second()));
    let before = beat.step(Utc::now() - TimeDelta::seconds(2)).await.unwrap();
    assert_eq!(before.len(), 1);

    house.redis.kill9();
    for ahead in [-1, 0] {
        let error = beat.step(Utc::now() + TimeDelta::seconds(ahead)).await.unwrap_err();
        let StepError::Broker(error) = error else { panic!("{error}") };
        assert!(matches!(error, BrokerError::Unavailable(_)), "{error}");
    }
    house.redis.restart();

    let now = Utc::now() + TimeDelta::seconds(1);
    assert_eq!(slots(&step_through(&mut beat, now).await), [second(now)]);
    assert_eq!(beat.step(now).await.unwrap(), []);
    assert_eq!(house.queued("default").await, 2);
}

#[tokio::test]
async fn a_running_beat_outlives_a_missing_redis_fires_on_time_and_stops_when_asked() {
    let house = House::start();
    house.redis.kill9();
    let shutdown = CancellationToken::new();
    let beat = house.beat(&sweep(every_second()));
    let running = tokio::spawn(beat.run(shutdown.clone()));
    house.redis.restart();
    fired_again(&house, 3).await;
    house.redis.kill9();
    house.redis.restart();
    fired_again(&house, 3).await;

    shutdown.cancel();
    timeout(PATIENCE, running).await.expect("it stops").expect("it did not panic");
    let noted = house.noted("sweep");
    let mut slots: Vec<_> = noted.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(house.queued("default").await, noted.len() as u64);
    slots.dedup();
    assert_eq!(slots.len(), noted.len(), "{noted:?}");
    assert!(slots.is_sorted() && slots.iter().all(|slot| slot % 1000 == 0), "{slots:?}");
    // However slow this machine is, some slot came right after the one before.
    assert!(slots.windows(2).any(|pair| pair[1] - pair[0] == 1000), "{slots:?}");
}

/// A connection may notice only at its next call that it is gone.
async fn step_through(beat: &mut Beat, now: DateTime<Utc>) -> Vec<Fired> {
    match beat.step(now).await {
        Err(StepError::Broker(error)) if error.is_transient() => beat.step(now).await,
        answer => answer,
    }
    .expect("redis is back")
}

/// Waits until `n` more slots have been fired.
async fn fired_again(house: &House, n: usize) {
    let before = house.noted("sweep").len();
    let more = async {
        while house.noted("sweep").len() < before + n {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, more).await.expect("the beat fires again");
}
