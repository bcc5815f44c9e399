//! What failed for good is seen, runs again once, or is deleted; and nothing of it is lost without a word.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use redis::{Connection, cmd};
use umbel_broker::{
    BrokerError, BrokerSettings, Client, Held, NewTask, Settlement, Settler, TaskHandle, Terms,
    Verdict, Why,
    dead::{DeadLetter, LetterFilter},
    keys::Stream,
};
use umbel_proto::{QueueName, TaskState, codec};
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::{House, terms},
    probe::{Act, LATER, Probe, shard},
};

const LONG: Duration = Duration::from_secs(20);

fn queue() -> QueueName {
    shard().queue().clone()
}

fn all() -> LetterFilter {
    LetterFilter::default()
}

async fn letters(house: &House) -> Vec<DeadLetter> {
    house.client.dead_letters(&queue(), &all(), None, 100).await.unwrap().letters
}

/// Buries all that is ready, by its attempts, though it might have succeeded.
async fn bury(house: &House, why: Why) {
    let held = Held::default();
    let mut consumer = house.consumer("gravedigger", &held);
    consumer.stop().request().await.unwrap();
    let (settler, settling) =
        Settler::start(house.client.clone(), "gravedigger".to_owned(), held.clone());
    loop {
        let taken = consumer.fetch(64).await.unwrap();
        if taken.is_empty() {
            break;
        }
        for delivery in taken {
            let verdict = Verdict::Bury { why, error: "hopeless".to_owned() };
            let terms = Terms { started: None, ..terms() };
            settler.settle(Settlement { delivery, verdict, terms }).await;
        }
    }
    drop(settler);
    settling.await.unwrap();
}

async fn enqueue(house: &House, names: impl IntoIterator<Item = String>) -> Vec<TaskHandle<u32>> {
    let probes: Vec<Probe> = names.into_iter().map(|name| Probe::new(&name, Act::Ok)).collect();
    let answers = house.client.enqueue_many(probes).tracked().await.unwrap();
    answers.into_iter().map(Result::unwrap).collect()
}

fn raw(house: &House) -> Connection {
    redis::Client::open(house.redis.url()).unwrap().get_connection().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_tells_what_it_was_and_why_it_failed() {
    let house = House::start();
    let worker = house.worker(1);
    let probe = Probe::new("a", Act::Fatal("no such host".to_owned()));
    let handle = house.client.enqueue(probe.clone()).await.unwrap();
    house.ended(handle.id()).await;
    let [letter] = <[_; 1]>::try_from(letters(&house).await).unwrap();
    assert_eq!((&*letter.why, &*letter.error), ("fatal", "no such host"));
    assert_eq!(letter.worker, worker.id);
    assert_eq!(letter.id.as_deref(), Some(handle.id().as_str()));
    assert_eq!(letter.task.as_deref(), Some("probe"));
    assert_eq!((letter.attempt, letter.crashes), (Some(1), Some(0)));
    assert!(letter.died.unwrap() >= letter.enqueued.unwrap());
    let opened = house.client.dead_letter(&queue(), letter.letter).await.unwrap().unwrap();
    assert_eq!(opened.letter, letter);
    assert_eq!(codec::decode::<Probe>(&opened.args.unwrap()).unwrap(), probe);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_paged_the_newest_first_and_narrowed_by_task_and_why() {
    let house = House::start();
    enqueue(&house, (0..25).map(|n| format!("n{n}"))).await;
    bury(&house, Why::Attempts).await;
    let mut other = NewTask::of(&Probe::new("other", Act::Ok)).unwrap();
    other.task = LATER.parse().unwrap();
    house.client.submit(other).await.unwrap();
    bury(&house, Why::Crash).await;

    let (mut seen, mut before, mut pages) = (Vec::new(), None, Vec::new());
    loop {
        let page = house.client.dead_letters(&queue(), &all(), before, 10).await.unwrap();
        pages.push(page.letters.len());
        seen.extend(page.letters);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(pages, [10, 10, 6]);
    assert!(seen.is_sorted_by(|a, b| a.letter > b.letter), "the newest first, none twice");
    assert_eq!(seen[0].task.as_deref(), Some(LATER));

    let of = |task: Option<&str>, why| LetterFilter { task: task.map(|t| t.parse().unwrap()), why };
    for (filter, count) in [
        (of(Some("probe"), None), 25),
        (of(Some(LATER), None), 1),
        (of(None, Some(Why::Crash)), 1),
        (of(Some("probe"), Some(Why::Crash)), 0),
    ] {
        let page = house.client.dead_letters(&queue(), &filter, None, 100).await.unwrap();
        assert_eq!(page.letters.len(), count, "{filter:?}");
    }
    // Of a page all of whose letters are others' there is a next one.
    let none =
        house.client.dead_letters(&queue(), &of(Some("probe"), None), None, 1).await.unwrap();
    assert!(none.letters.is_empty() && none.next.is_some());

    let crashed = of(None, Some(Why::Crash));
    assert_eq!(house.client.delete_letters(&queue(), &crashed, None).await.unwrap().done, 1);
    assert_eq!(house.queue().await.dead, 25, "the others stay");
    let oldest = seen.last().unwrap().letter;
    assert!(house.client.delete_letter(&queue(), oldest).await.unwrap());
    assert!(!house.client.delete_letter(&queue(), oldest).await.unwrap());
    assert!(house.client.dead_letter(&queue(), oldest).await.unwrap().is_none());
    let rest = house.client.delete_letters(&queue(), &all(), None).await.unwrap();
    assert_eq!((rest.done, rest.next, house.queue().await.dead), (24, None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_again_is_a_first_attempt_under_its_own_id_and_its_record_waits_with_it() {
    let house = House::start();
    let handles = enqueue(&house, ["a".to_owned(), "forgotten".to_owned()]).await;
    bury(&house, Why::Attempts).await;
    let ended = house.ended(handles[0].id()).await;
    assert_eq!((ended.state, ended.error.as_deref()), (TaskState::Failed, Some("hopeless")));
    // Of the other one nothing is known any more.
    let record = shard().task(handles[1].id());
    house.redis.cli(&["DEL", &record]);

    for letter in letters(&house).await {
        let id = house.client.redrive(&queue(), letter.letter).await.unwrap().unwrap();
        assert_eq!(Some(id.to_string()), letter.id);
        assert_eq!(house.client.redrive(&queue(), letter.letter).await.unwrap(), None, "only once");
    }
    for handle in &handles {
        let waits = handle.record().await.unwrap().unwrap();
        assert_eq!((waits.state, waits.attempt), (TaskState::Queued, 1));
        assert_eq!((waits.error, waits.finished, waits.worker), (None, None, None));
        assert!(waits.enqueued.is_some() && waits.max_attempts >= 1);
        assert_eq!(house.redis.cli(&["TTL", &shard().task(handle.id())]), "-1");
    }
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.dead), (2, 0));
    let worker = house.worker(2);
    for handle in &handles {
        assert_eq!(handle.wait(LONG).await.unwrap(), 1);
        let record = handle.record().await.unwrap().unwrap();
        assert_eq!((record.state, record.max_attempts), (TaskState::Succeeded, 3));
    }
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_run_all_again_at_once_run_each_once() {
    const LETTERS: usize = 300;
    let house = House::start();
    let handles = enqueue(&house, (0..LETTERS).map(|n| format!("n{n}"))).await;
    bury(&house, Why::Attempts).await;
    assert_eq!(house.queue().await.dead, LETTERS as u64);
    let two = [house.client.separate().unwrap(), house.client.separate().unwrap()];
    let sweeps = two.map(|client| {
        tokio::spawn(async move { client.redrive_all(&queue(), &all(), None).await.unwrap() })
    });
    let mut done = 0;
    for sweep in sweeps {
        let swept = sweep.await.unwrap();
        assert_eq!((swept.refused, swept.next), (0, None));
        done += swept.done;
    }
    assert_eq!(done, LETTERS as u64);
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.dead), (LETTERS as u64, 0));
    let worker = house.worker(16);
    for handle in &handles {
        assert_eq!(handle.wait(LONG).await.unwrap(), 1);
    }
    let ran = house.record.order();
    assert_eq!(ran.len(), LETTERS);
    assert_eq!(ran.into_iter().collect::<BTreeSet<_>>().len(), LETTERS);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_that_are_meant_run_again() {
    let house = House::start();
    enqueue(&house, (0..3).map(|n| format!("n{n}"))).await;
    bury(&house, Why::Attempts).await;
    let mut crashed = enqueue(&house, ["crashed".to_owned()]).await;
    bury(&house, Why::Crash).await;
    let of = |why, task: &str| LetterFilter { why, task: Some(task.parse().unwrap()) };
    for (task, done) in [(LATER, 0), ("probe", 1)] {
        let meant = of(Some(Why::Crash), task);
        let swept = house.client.redrive_all(&queue(), &meant, None).await.unwrap();
        assert_eq!(swept.done, done, "{task}");
    }
    let record = crashed.pop().unwrap().record().await.unwrap().unwrap();
    assert_eq!(record.state, TaskState::Queued);
    assert!(letters(&house).await.iter().all(|letter| letter.why == "attempts"));
    assert_eq!((house.queue().await.queued, house.queue().await.dead), (1, 3));
}

/// An entry that was copied with so many fields more than its own.
fn widen(house: &House, more: usize) {
    let mut connection = raw(house);
    let stream = shard().ready(Stream::Normal);
    type Entries = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;
    let found: Entries =
        cmd("XRANGE").arg(&stream).arg("-").arg("+").query(&mut connection).unwrap();
    let (entry, fields) = found.into_iter().next().unwrap();
    let mut wide = cmd("XADD");
    wide.arg(&stream).arg("*");
    for (name, value) in &fields {
        wide.arg(name).arg(value);
    }
    for n in 0..more {
        wide.arg(format!("more{n}")).arg(n);
    }
    wide.exec(&mut connection).unwrap();
    cmd("XDEL").arg(&stream).arg(entry).exec(&mut connection).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_task_or_was_cut_is_refused_with_a_reason_and_stays() {
    let house = House::start();
    house.client.enqueue(Probe::new("wide", Act::Ok)).await.unwrap();
    widen(&house, 2_100);
    bury(&house, Why::Attempts).await;
    house.redis.cli(&["XADD", &shard().ready(Stream::Normal), "*", "a", "b"]);
    bury(&house, Why::Unreadable).await;
    let handles = enqueue(&house, ["good".to_owned()]).await;
    bury(&house, Why::Attempts).await;

    let mut reasons = BTreeMap::new();
    for letter in letters(&house).await.iter().skip(1) {
        match house.client.redrive(&queue(), letter.letter).await {
            Err(BrokerError::Unredrivable { letter: refused, reason }) => {
                assert_eq!(refused, letter.letter);
                reasons.insert(letter.why.clone(), reason);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(reasons["attempts"].contains("too many fields"), "{reasons:?}");
    assert!(reasons["unreadable"].contains("missing"), "{reasons:?}");
    assert_eq!(house.queue().await.dead, 3);

    let swept = house.client.redrive_all(&queue(), &all(), None).await.unwrap();
    assert_eq!((swept.done, swept.refused, swept.next), (1, 2, None));
    assert_eq!(house.queue().await.dead, 2, "those that were refused");
    // What cannot be read can be looked at.
    let unreadable = letters(&house).await.into_iter().find(|l| l.why == "unreadable").unwrap();
    assert_eq!((&unreadable.id, &unreadable.task), (&None, &None));
    let opened = house.client.dead_letter(&queue(), unreadable.letter).await.unwrap().unwrap();
    assert!(opened.args.is_err());
    let worker = house.worker(1);
    assert_eq!(handles[0].wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_or_a_full_redis_has_no_room_for_stays_and_can_be_deleted() {
    let house = House::start();
    enqueue(&house, (0..3).map(|n| format!("n{n}"))).await;
    bury(&house, Why::Attempts).await;
    house.redis.cli(&["HSET", &shard().control(), "cap", "1"]);
    let full = house.client.redrive_all(&queue(), &all(), None).await;
    assert!(matches!(full, Err(BrokerError::QueueFull { .. })), "{full:?}");
    assert_eq!((house.queue().await.queued, house.queue().await.dead), (1, 2));
    let letter = letters(&house).await[0].letter;
    let full = house.client.redrive(&queue(), letter).await;
    assert!(matches!(full, Err(BrokerError::QueueFull { .. })), "{full:?}");

    house.redis.cli(&["HDEL", &shard().control(), "cap"]);
    house.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = house.client.redrive(&queue(), letter).await;
    assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
    assert_eq!(house.queue().await.dead, 2);
    assert_eq!(house.client.delete_letters(&queue(), &all(), None).await.unwrap().done, 2);
    assert_eq!(house.queue().await.dead, 0);
}

/// More than one call looks at: the next one goes on where it ended, also past what is refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_call_does_not_reach_the_next_ones_do() {
    let house = House::start();
    let mut connection = raw(&house);
    let mut many = redis::pipe();
    for n in 0..5_000 {
        many.cmd("XADD").arg(shard().dead()).arg("*").arg("why").arg("unreadable").arg("n").arg(n);
        many.ignore();
    }
    many.query::<()>(&mut connection).unwrap();
    enqueue(&house, ["good".to_owned()]).await;
    bury(&house, Why::Attempts).await;
    let first = house.client.redrive_all(&queue(), &all(), None).await.unwrap();
    assert_eq!((first.done, first.refused), (0, 4_096));
    let second = house.client.redrive_all(&queue(), &all(), first.next).await.unwrap();
    assert_eq!((second.done, second.refused, second.next), (1, 904, None));
    let mut deleted = 0;
    let mut after = None;
    let calls = loop {
        let swept = house.client.delete_letters(&queue(), &all(), after).await.unwrap();
        deleted += swept.done;
        after = swept.next;
        if after.is_none() {
            break deleted;
        }
    };
    assert_eq!((calls, house.queue().await.dead), (5_000, 0));
}

/// The letters of before, not those that die anew meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_dies_again_stays_dead() {
    let house = House::start();
    let worker = house.worker(8);
    let answers = house
        .client
        .enqueue_many((0..200).map(|n| Probe::new(&format!("n{n}"), Act::Fatal("no".to_owned()))))
        .tracked()
        .await
        .unwrap();
    assert!(answers.iter().all(Result::is_ok));
    eventually_eq("all are dead", 200, async || house.queue().await.dead).await;
    let swept = house.client.redrive_all(&queue(), &all(), None).await.unwrap();
    assert_eq!((swept.done, swept.next), (200, None));
    eventually_eq("all are dead again", 200, async || house.queue().await.dead).await;
    eventually("each ran twice", async || (house.record.order().len() == 400).then_some(())).await;
    worker.stop().await.unwrap();
}

/// The role that does it over HTTP may do it.
#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_the_api_may_look_after_dead_letters() {
    let house = House::on(umbel_tests::services::RedisServer::start_restricted());
    enqueue(&house, (0..3).map(|n| format!("n{n}"))).await;
    bury(&house, Why::Attempts).await;
    let api = Client::open(&BrokerSettings::new(house.redis.url_as("api")), "api").unwrap();
    let page = api.dead_letters(&queue(), &all(), None, 100).await.unwrap();
    assert_eq!(page.letters.len(), 3);
    assert!(api.dead_letter(&queue(), page.letters[0].letter).await.unwrap().is_some());
    assert!(api.delete_letter(&queue(), page.letters[0].letter).await.unwrap());
    assert!(api.redrive(&queue(), page.letters[1].letter).await.unwrap().is_some());
    assert_eq!(api.redrive_all(&queue(), &all(), None).await.unwrap().done, 1);
}
