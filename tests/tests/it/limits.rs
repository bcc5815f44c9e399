//! Limits by key that all workers share, counted where it counts: at what they protect.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use umbel_broker::{Acquired, Ahead, BrokerError, BrokerSettings, Client, LimitRules, Permit};
use umbel_proto::{Task, TaskOptions};
use umbel_tests::{
    chaos::{
        probe::{Act, ONE_PLACE, PLACE, Trial},
        site::Site,
    },
    eventually::{eventually, eventually_eq, within},
    house::House,
    process::send,
    services::RedisServer,
};
use umbel_worker::{Context, Handler, Registry, TaskResult, Worker, WorkerSettings};

const KEY: &str = "umbel:{limit:host:a}";

async fn acquire(client: &Client, rules: &LimitRules) -> Acquired {
    client.acquire("host", "a", rules).await.unwrap()
}

async fn granted(client: &Client, rules: &LimitRules) -> Permit {
    match acquire(client, rules).await {
        Acquired::Granted(permit) => permit,
        Acquired::NotBefore(_) => panic!("there is room"),
    }
}

/// How long from now somebody is told to wait.
async fn told_to_wait(client: &Client, rules: &LimitRules) -> Duration {
    match acquire(client, rules).await {
        Acquired::Granted(_) => panic!("there is no room"),
        Acquired::NotBefore(at) => at.saturating_duration_since(Instant::now()),
    }
}

fn client(redis: &RedisServer) -> Client {
    Client::open(&BrokerSettings::new(redis.url()), "test").unwrap()
}

/// What is protected: hosts that count their visitors themselves.
#[derive(Debug, Clone, Default)]
struct Hosts(Arc<Mutex<HashMap<u32, Host>>>);

#[derive(Debug, Default)]
struct Host {
    inside: usize,
    most: usize,
    visits: Vec<Seen>,
}

/// A visit: its permit was granted between these two.
#[derive(Debug)]
struct Seen {
    asked: Instant,
    came: Instant,
    attempt: u32,
}

impl Host {
    /// However late a visitor comes after its grant: what was asked for and came within some time was
    /// granted within it, and that cannot be more than fits.
    fn assert_apart(&self, every: Duration) {
        for first in &self.visits {
            for last in self.visits.iter().filter(|last| last.came > first.asked) {
                // The clock of Redis is asked for whole milliseconds.
                let span = last.came - first.asked + Duration::from_millis(1);
                let within = |seen: &&Seen| seen.asked >= first.asked && seen.came <= last.came;
                let count = self.visits.iter().filter(within).count() as f64;
                let fit = (span.as_secs_f64() / every.as_secs_f64()).floor() + 1.0;
                assert!(count <= fit, "{count} visits within {span:?}: {:#?}", self.visits);
            }
        }
    }
}

impl Hosts {
    fn at<T>(&self, host: u32, change: impl FnOnce(&mut Host) -> T) -> T {
        change(self.0.lock().unwrap().entry(host).or_default())
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Visit {
    host: u32,
}

impl Task for Visit {
    const NAME: &'static str = "visit";
    const OPTIONS: TaskOptions = TaskOptions::DEFAULT.max_attempts(1);
    type Output = ();
}

/// Few at once and each for long, so that the number bites; and one after the other and each for a
/// moment, so that the rate does.
const AT_ONCE: usize = 2;
const FEW: LimitRules = LimitRules::new().at_once(AT_ONCE as u32).every(Duration::from_millis(20));
const STAY: Duration = Duration::from_secs(1);
const APART: Duration = Duration::from_millis(250);
const SELDOM: LimitRules = LimitRules::new().every(APART);

impl Visit {
    fn rules(&self) -> (LimitRules, Duration) {
        if self.host.is_multiple_of(2) { (FEW, STAY) } else { (SELDOM, Duration::ZERO) }
    }
}

impl Handler<Hosts> for Visit {
    async fn run(self, ctx: &Context<Hosts>) -> TaskResult<()> {
        let (rules, stay) = self.rules();
        let asked = Instant::now();
        let permit = ctx.limit("host", &format!("host-{}", self.host), &rules).await?;
        ctx.app().at(self.host, |host| {
            host.inside += 1;
            host.most = host.most.max(host.inside);
            let (came, attempt) = (Instant::now(), ctx.run().attempt);
            host.visits.push(Seen { asked, came, attempt });
        });
        sleep(stay).await;
        ctx.app().at(self.host, |host| host.inside -= 1);
        permit.release().await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_and_fifty_hosts_never_exceed_number_and_rate_at_any_host() {
    const HOSTS: u32 = 50;
    const VISITS: usize = 6;
    let house = House::start();
    let hosts = Hosts::default();
    let visits = (0..VISITS).flat_map(|_| (0..HOSTS).map(|host| Visit { host }));
    let visits = house.client.enqueue_many(visits.collect::<Vec<_>>()).await.unwrap();
    assert!(visits.iter().all(Result::is_ok));
    let stop = CancellationToken::new();
    let workers = (1..=3).map(|n| {
        let registry = Registry::builder().register::<Visit>().build().unwrap();
        let mut settings = WorkerSettings::new("test", &format!("{n:016x}"));
        settings.concurrency = 64;
        let client = house.client.separate().unwrap();
        let worker = Worker::new(client, registry.bind(hosts.clone()), settings).unwrap();
        tokio::spawn(worker.run(stop.clone()))
    });
    let workers: Vec<_> = workers.collect();
    within(Duration::from_secs(90), "all have been there", async || {
        let came: usize = hosts.0.lock().unwrap().values().map(|host| host.visits.len()).sum();
        (came == HOSTS as usize * VISITS).then_some(())
    })
    .await;
    for (number, host) in &*hosts.0.lock().unwrap() {
        if number.is_multiple_of(2) {
            assert!(host.most <= AT_ONCE, "{} at once at host {number}", host.most);
        } else {
            host.assert_apart(APART);
        }
        // To wait burns no attempt: there is only one.
        assert!(host.visits.iter().all(|seen| seen.attempt == 1));
    }
    // Not at each: how the visits of one host fall apart is left to chance.
    let most = hosts.0.lock().unwrap().values().map(|host| host.most).max();
    assert_eq!(most, Some(AT_ONCE), "the number was never reached");
    stop.cancel();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    assert_eq!(house.queue().await.dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_killed_frees_its_place_within_its_lease_and_a_live_one_keeps_it() {
    let site = Site::new();
    let mut worker = site.launch("worker", &[]);
    let handle = site.client.enqueue(Trial::new(Act::Permit(600_000))).await.unwrap();
    eventually("it runs", async || (site.starts(handle.id()).len() == 1).then_some(())).await;
    let key = format!("umbel:{{limit:{}:{}}}", PLACE.0, PLACE.1);
    eventually("it holds the place", async || {
        site.redis.cli(&["HKEYS", &key]).contains("at:").then_some(())
    })
    .await;
    let ask = async || {
        let answer = site.client.acquire(PLACE.0, PLACE.1, &ONE_PLACE).await.unwrap();
        matches!(answer, Acquired::Granted(_))
    };
    let lease = Duration::from_secs(2);
    let until = Instant::now() + 2 * lease;
    while Instant::now() < until {
        assert!(!ask().await, "a live holder renews");
        sleep(Duration::from_millis(100)).await;
    }
    send(worker.pid(), Signal::SIGKILL);
    worker.ended().await;
    let killed = Instant::now();
    let slack = Duration::from_secs(1);
    within(lease + slack, "the place is free", async || ask().await.then_some(())).await;
    assert!(killed.elapsed() <= lease + slack);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_is_dropped_or_released_makes_room_at_once() {
    let redis = RedisServer::start();
    let (one, other) = (client(&redis), client(&redis));
    let rules = LimitRules::new().at_once(2).lease(Duration::from_secs(600));
    let first = granted(&one, &rules).await;
    let second = granted(&other, &rules).await;
    assert!(told_to_wait(&one, &rules).await <= Duration::from_secs(61));
    first.release().await;
    let third = granted(&other, &rules).await;
    drop(second);
    let fourth = eventually("the drop is told", async || match acquire(&one, &rules).await {
        Acquired::Granted(permit) => Some(permit),
        Acquired::NotBefore(_) => None,
    })
    .await;
    assert!(!third.was_lost() && !fourth.was_lost());
    // Another key, and another limit, are not concerned.
    let elsewhere = one.acquire("host", "b", &rules).await.unwrap();
    assert!(matches!(elsewhere, Acquired::Granted(_)));
    let elsewhere = one.acquire("tenant", "a", &rules).await.unwrap();
    assert!(matches!(elsewhere, Acquired::Granted(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_refused_are_told_to_come_one_after_the_other() {
    let redis = RedisServer::start();
    let client = client(&redis);
    let rules = LimitRules::new().every(Duration::from_secs(10));
    let _first = granted(&client, &rules).await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        waits.push(told_to_wait(&client, &rules).await.as_secs_f64());
    }
    for (n, wait) in waits.iter().enumerate().take(6) {
        let expected = 10.0 * (n + 1) as f64;
        assert!((expected - 2.0..=expected).contains(wait), "{n}: {wait} of {waits:?}");
    }
    let furthest = waits.iter().copied().fold(0.0, f64::max);
    assert!(furthest <= 70.0, "nobody is sent away for longer than there is room: {waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_booked_comes_before_those_who_wait_and_they_come_after_it() {
    let redis = RedisServer::start();
    let client = client(&redis);
    let book =
        async |rules: &LimitRules, ahead| client.book("host", "a", rules, ahead).await.unwrap();
    let ms = Duration::from_millis;
    let rules = LimitRules::new().every(ms(600));
    let began = Instant::now();
    let _first = granted(&client, &rules).await;
    let _told = told_to_wait(&client, &rules).await;
    let soon = book(&rules, Ahead::Within(ms(50))).await;
    assert!(matches!(soon, Acquired::NotBefore(_)), "its turn comes later than that");
    let (one, other) = tokio::join!(
        book(&rules, Ahead::Within(ms(5_000))),
        book(&rules, Ahead::Within(ms(5_000))),
    );
    assert!(matches!((one, other), (Acquired::Granted(_), Acquired::Granted(_))));
    // Beside the first, two turns of which the later was waited for.
    assert!((ms(1_150)..ms(2_500)).contains(&began.elapsed()), "{:?}", began.elapsed());
    let next = told_to_wait(&client, &rules).await;
    assert!(next > ms(100), "{next:?}");

    // Who will not wait for long goes on, and all others wait from then on.
    let rare = LimitRules::new().every(Duration::from_secs(60));
    let began = Instant::now();
    assert!(matches!(book(&rare, Ahead::AtTheLatest(ms(700))).await, Acquired::Granted(_)));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(told_to_wait(&client, &rare).await > Duration::from_secs(20));

    // A pause that comes meanwhile is heeded.
    let (late, paused) = tokio::join!(book(&rare, Ahead::AtTheLatest(ms(500))), async {
        tokio::task::yield_now().await;
        client.pause_limit("host", "a", Duration::from_secs(60)).await
    });
    paused.unwrap();
    assert!(matches!(late, Acquired::NotBefore(_)), "the key is paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_a_key_stops_all_and_ends_by_itself_or_by_a_word() {
    let redis = RedisServer::start();
    let (one, other) = (client(&redis), client(&redis));
    let anything = LimitRules::new();
    let _before = granted(&one, &anything).await;
    let pause = Duration::from_millis(800);
    one.pause_limit("host", "a", pause).await.unwrap();
    let since = Instant::now();
    for client in [&one, &other] {
        let wait = told_to_wait(client, &anything).await;
        assert!(wait <= pause && wait > Duration::ZERO, "{wait:?}");
    }
    assert!(matches!(one.acquire("host", "b", &anything).await.unwrap(), Acquired::Granted(_)));
    // A shorter word does not end a longer one.
    other.pause_limit("host", "a", Duration::from_millis(1)).await.unwrap();
    eventually("it goes on", async || {
        matches!(acquire(&other, &anything).await, Acquired::Granted(_)).then_some(())
    })
    .await;
    assert!(since.elapsed() >= pause - Duration::from_millis(20), "{:?}", since.elapsed());

    one.pause_limit("host", "a", Duration::MAX).await.unwrap();
    let day = Duration::from_hours(24);
    assert!(told_to_wait(&one, &anything).await <= day + Duration::from_secs(60));
    let ttl: u64 = redis.cli(&["TTL", KEY]).parse().unwrap();
    assert!(ttl <= day.as_secs() + 120, "{ttl}");
    one.pause_limit("host", "a", Duration::ZERO).await.unwrap();
    let _after = granted(&other, &anything).await;
}

/// As if it had been two hours later when these times were written.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_makes_nobody_wait_longer_than_once_more() {
    let redis = RedisServer::start();
    let client = client(&redis);
    let ahead = (chrono::Utc::now() + chrono::TimeDelta::hours(2)).timestamp_millis();
    let field =
        |name: &str, length: u32| redis.cli(&["HSET", KEY, name, &format!("{ahead} {length}")]);
    field("next", 300);
    field("paused", 500);
    field("turn", 400);
    field("at:of-one-that-died", 700);
    let rules = LimitRules::new().at_once(1).every(Duration::from_millis(300));
    assert!(told_to_wait(&client, &rules).await <= Duration::from_millis(1_200));
    let began = Instant::now();
    eventually("somebody is granted", async || {
        matches!(acquire(&client, &rules).await, Acquired::Granted(_)).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_holder_that_lost_its_place_takes_it_again_and_knows() {
    let redis = RedisServer::start();
    let client = client(&redis);
    let rules = LimitRules::new().at_once(1).lease(Duration::from_secs(1));
    let permit = granted(&client, &rules).await;
    assert!(!permit.was_lost());
    // As after a clock that was set forth, or a flush.
    redis.cli(&["DEL", KEY]);
    eventually("it is held again", async || {
        redis.cli(&["HKEYS", KEY]).contains("at:").then_some(())
    })
    .await;
    eventually("it knows", async || permit.was_lost().then_some(())).await;
    assert!(told_to_wait(&client, &rules).await > Duration::ZERO);
    permit.release().await;
    let _next = granted(&client, &rules).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_key_expires_and_is_bounded() {
    let redis = RedisServer::start();
    let client = client(&redis);
    let rules = LimitRules::new().at_once(3).every(Duration::from_millis(1));
    for _ in 0..50 {
        if let Acquired::Granted(permit) = acquire(&client, &rules).await {
            permit.release().await;
        }
        let pttl: i64 = redis.cli(&["PTTL", KEY]).parse().unwrap();
        assert!((1..=95_000).contains(&pttl), "{pttl}");
    }
    let fields: u32 = redis.cli(&["HLEN", KEY]).parse().unwrap();
    assert!(fields <= 3 + 3, "{fields}");
    for wrong in [LimitRules::new().at_once(0), LimitRules::new().every(Duration::MAX)] {
        let refused = client.acquire("host", "a", &wrong).await;
        assert!(matches!(refused, Err(BrokerError::Limit(_))), "{refused:?}");
    }
    let refused = client.acquire("host", "a\r\nb", &rules).await;
    assert!(matches!(refused, Err(BrokerError::Limit(_))), "{refused:?}");
    eventually_eq("nothing else was written", "1".to_owned(), async || redis.cli(&["DBSIZE"]))
        .await;
}
