//! One task goes round: enqueue, fetch, run, settle, on a real Redis.

use std::{future::IntoFuture, task::Poll, time::Duration};

use chrono::Utc;
use nix::sys::signal::Signal;
use umbel_broker::{BrokerError, WaitError};
use umbel_proto::{Priority, TaskId, TaskState};
use umbel_tests::{
    eventually::{eventually, eventually_eq},
    house::House,
    probe::{Act, Probe, shard},
    process::send,
};
use umbel_worker::End;

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_run_and_its_typed_result_comes_back() {
    let house = House::start();
    let worker = house.worker(4);
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    assert_eq!(handle.wait(LONG).await.unwrap(), 1);
    let record = house.client.task(handle.id()).await.unwrap().unwrap();
    assert_eq!(record.state, TaskState::Succeeded);
    assert_eq!((record.attempt, record.max_attempts), (1, 3));
    assert!(record.enqueued <= record.started && record.started <= record.finished);
    assert_eq!(record.worker.as_deref(), Some(worker.id.as_str()));
    // Nothing is left behind: entries are deleted when they are acknowledged.
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.running, queue.delayed, queue.dead), (0, 0, 0, 0));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_enqueued_before_the_first_worker_came_is_run() {
    let house = House::start();
    let handles = house
        .client
        .enqueue_many((0..300).map(|n| Probe::new(&format!("n{n}"), Act::Ok)))
        .await
        .unwrap();
    assert_eq!(house.queue().await.queued, 300);
    let worker = house.worker(8);
    for handle in &handles {
        assert_eq!(handle.as_ref().unwrap().wait(LONG).await.unwrap(), 1);
    }
    let mut ran = house.record.order();
    assert_eq!(ran.len(), 300, "each ran once");
    ran.sort_unstable();
    ran.dedup();
    assert_eq!(ran.len(), 300, "with its own arguments");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_enqueued_by_several_calls_at_once_is_run_in_its_order() {
    let house = House::start();
    let names: Vec<String> = (0..600).map(|n| format!("n{n}")).collect();
    let probes = names.iter().map(|name| Probe::new(name, Act::Ok));
    let handles = house.client.enqueue_many(probes).await.unwrap();
    let worker = house.worker(1);
    handles.last().unwrap().as_ref().unwrap().wait(LONG).await.unwrap();
    let ran = house.record.order();
    let first_wrong = ran.iter().zip(&names).find(|(ran, name)| ran != name);
    assert_eq!((first_wrong, ran.len()), (None, names.len()));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_states_of_a_tracked_task_can_be_read_as_it_goes() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("a", Act::Hold)).await.unwrap();
    let state = async || handle.record().await.unwrap().map(|record| record.state);
    assert_eq!(state().await, Some(TaskState::Queued));
    let worker = house.worker(1);
    eventually_eq("runs", Some(TaskState::Running), state).await;
    let shown = house.redis.cli(&["HGETALL", &format!("umbel:{{default}}:task:{}", handle.id())]);
    for word in ["probe", "running", &worker.id] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    house.record.open("a");
    eventually_eq("succeeds", Some(TaskState::Succeeded), state).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_deleted_is_never_half_there_and_is_whole_at_the_end() {
    let house = House::start();
    let worker = house.worker(1);
    let hold = |name| house.client.enqueue(Probe::new(name, Act::Hold)).into_future();
    let runs = async |name: &str| {
        let started = async || (house.record.attempts_of(name) == [1]).then_some(());
        eventually("it runs", started).await;
    };
    let delete = |id: &TaskId| {
        assert_eq!(house.redis.cli(&["DEL", &format!("umbel:{{default}}:task:{id}")]), "1");
    };
    let first = hold("first").await.unwrap();
    runs("first").await;
    let waits = hold("waits").await.unwrap();
    delete(waits.id());
    // It runs by now, as its start was noted.
    delete(first.id());
    house.record.open("first");
    runs("waits").await;
    assert_eq!(waits.record().await.unwrap(), None, "half a record would be an error");
    house.record.open("waits");
    for deleted in [first, waits] {
        let record = house.ended(deleted.id()).await;
        assert_eq!((record.task.as_str(), record.state), ("probe", TaskState::Succeeded));
        assert_eq!((record.attempt, record.max_attempts), (1, 3));
        assert!(record.enqueued <= record.started && record.started <= record.finished);
        assert_eq!(record.worker.as_deref(), Some(worker.id.as_str()));
    }
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_record_keeps_no_due_task_from_its_stream() {
    let house = House::start();
    let later = |name: &str| {
        let task = house.client.enqueue(Probe::new(name, Act::Ok));
        task.delay(Duration::from_millis(500)).into_future()
    };
    let (broken, other) = (later("broken").await.unwrap(), later("other").await.unwrap());
    let record = format!("umbel:{{default}}:task:{}", broken.id());
    house.redis.cli(&["SET", &record, "by hand"]);
    house.client.tick(&shard(), Utc::now() + Duration::from_secs(1)).await.unwrap();
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.delayed), (2, 0), "{} as well", other.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_task_is_tried_until_it_succeeds() {
    let house = House::start();
    let worker = house.worker(2);
    let handle = house.client.enqueue(Probe::new("a", Act::FailFirst(2))).await.unwrap();
    assert_eq!(handle.wait(LONG).await.unwrap(), 3);
    assert_eq!(house.record.attempts_of("a"), [1, 2, 3]);
    assert!(house.record.ends_of("a").is_empty());
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_spends_its_attempts_becomes_a_dead_letter_and_is_told() {
    let house = House::start();
    let worker = house.worker(2);
    let handle = house.client.enqueue(Probe::new("a", Act::Fail("no luck".into()))).await.unwrap();
    let WaitError::Ended { state, error } = handle.wait(LONG).await.unwrap_err() else {
        panic!("must end")
    };
    assert_eq!((state, error.as_str()), (TaskState::Failed, "no luck"));
    assert_eq!(house.record.attempts_of("a"), [1, 2, 3]);
    let told = End::Failed { why: "attempts", error: "no luck".into() };
    assert_eq!(house.record.ends_of("a"), [told]);
    let letter = house.dead_letters();
    for word in ["no luck", "attempts", handle.id().as_str(), "probe", &worker.id] {
        assert!(letter.contains(word), "{word} in {letter}");
    }
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_succeeds_at_last_does_not_show_its_old_errors() {
    let house = House::start();
    let worker = house.worker(2);
    let handle = house.client.enqueue(Probe::new("a", Act::FailFirst(1))).await.unwrap();
    handle.wait(LONG).await.unwrap();
    assert_eq!(handle.record().await.unwrap().unwrap().error, None);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_kept_for_ever_does_not_spoil_the_settles_beside_it() {
    let house = House::start();
    let mut handles = Vec::new();
    for n in 0..10 {
        let kept = house.client.enqueue(Probe::new(&format!("kept{n}"), Act::Ok));
        handles.push(kept.result_ttl(Duration::MAX).await.unwrap());
        let retried = house.client.enqueue(Probe::new(&format!("retried{n}"), Act::FailFirst(1)));
        handles.push(retried.await.unwrap());
    }
    let worker = house.worker(16);
    for handle in &handles {
        handle.wait(LONG).await.unwrap();
        let key = format!("umbel:{{default}}:task:{}", handle.id());
        let ttl: i64 = house.redis.cli(&["TTL", &key]).trim().parse().unwrap();
        assert!(ttl > 0, "{ttl}");
    }
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_a_run_is_dropped_is_an_outcome_too() {
    let house = House::start();
    let worker = house.worker(1);
    let bomb = house.client.enqueue(Probe::new("a", Act::PanicWhenDropped));
    let handle = bomb.time_limit(Duration::from_millis(50)).max_attempts(1).await.unwrap();
    let record = house.ended(handle.id()).await;
    assert_eq!(record.error.as_deref(), Some("panicked: dropped"));
    assert_eq!(worker.stop().await.unwrap().unsettled, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_is_not_tried_again() {
    let house = House::start();
    let worker = house.worker(2);
    let handle = house.client.enqueue(Probe::new("a", Act::Fatal("never".into()))).await.unwrap();
    assert_eq!(house.ended(handle.id()).await.error.as_deref(), Some("never"));
    assert_eq!(house.record.attempts_of("a"), [1]);
    assert!(house.dead_letters().contains("fatal"));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_outcome_and_the_worker_goes_on() {
    let house = House::start();
    let worker = house.worker(1);
    let bad = Probe::new("bad", Act::Panic("went wrong".into()));
    let bad = house.client.enqueue(bad).max_attempts(1).await.unwrap();
    let good = house.client.enqueue(Probe::new("good", Act::Ok)).await.unwrap();
    assert_eq!(house.ended(bad.id()).await.error.as_deref(), Some("panicked: went wrong"));
    assert_eq!(good.wait(LONG).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_too_long_is_ended_and_tried_again() {
    let house = House::start();
    let worker = house.worker(1);
    let hang = house.client.enqueue(Probe::new("a", Act::Hang));
    let handle = hang.time_limit(Duration::from_millis(50)).max_attempts(2).await.unwrap();
    let record = house.ended(handle.id()).await;
    assert_eq!(record.error.as_deref(), Some("ran longer than its limit of 50ms"));
    assert_eq!(house.record.attempts_of("a"), [1, 2]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snoozed_task_comes_back_as_the_same_attempt() {
    let house = House::start();
    let worker = house.worker(1);
    let handle = house.client.enqueue(Probe::new("a", Act::Snooze(30))).await.unwrap();
    assert_eq!(handle.wait(LONG).await.unwrap(), 1);
    assert_eq!(house.record.attempts_of("a"), [1, 1]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_task_waits_for_its_time() {
    let house = House::start();
    let worker = house.worker(1);
    let later = Probe::new("later", Act::Ok);
    let later = house.client.enqueue(later).delay(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(later.record().await.unwrap().unwrap().state, TaskState::Scheduled);
    assert_eq!(house.queue().await.delayed, 1);

    let delay = Duration::from_millis(700);
    let before = chrono::Utc::now();
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).delay(delay).await.unwrap();
    handle.wait(LONG).await.unwrap();
    let started = handle.record().await.unwrap().unwrap().started.unwrap();
    // Times in Redis are whole milliseconds.
    let waited = (started - before).num_milliseconds() + 1;
    assert!(waited >= 700, "started after {waited} ms");
    assert!(house.record.attempts_of("later").is_empty());
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_priorities_are_served_first() {
    let house = House::start();
    for n in 0..5 {
        for (name, priority) in
            [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)]
        {
            let probe = Probe::new(&format!("{name}{n}"), Act::Ok);
            house.client.enqueue(probe).priority(priority).await.unwrap();
        }
    }
    let worker = house.worker(1);
    eventually("all run", async || (house.record.order().len() == 15).then_some(())).await;
    let order = house.record.order();
    let kinds: Vec<&str> =
        order.iter().map(|name| name.trim_end_matches(char::is_numeric)).collect();
    let expected: Vec<&str> =
        ["high", "normal", "low"].into_iter().flat_map(|kind| [kind; 5]).collect();
    assert_eq!(kinds, expected);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_taken_than_there_are_permits() {
    let house = House::start();
    let names: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
    let probes = names.iter().map(|name| Probe::new(name, Act::Hold));
    let handles = house.client.enqueue_many(probes).await.unwrap();
    let worker = house.worker(3);
    eventually("three run", async || (house.record.order().len() == 3).then_some(())).await;
    // What waits, waits in Redis, where other workers can take it.
    let queue = house.queue().await;
    assert_eq!((queue.running, queue.queued), (3, 7));
    let other = house.worker(7);
    eventually("all run", async || (house.record.order().len() == 10).then_some(())).await;
    names.iter().for_each(|name| house.record.open(name));
    for handle in handles {
        handle.unwrap().wait(LONG).await.unwrap();
    }
    worker.stop().await.unwrap();
    other.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_is_the_same_task() {
    let house = House::start();
    let probe = || house.client.enqueue(Probe::new("a", Act::Ok)).idempotency_key("order-7");
    let first = probe().await.unwrap();
    let second = probe().await.unwrap();
    assert_eq!(first.id(), second.id());
    let other = house.client.enqueue(Probe::new("b", Act::Ok)).idempotency_key("order-7").await;
    assert!(matches!(other, Err(umbel_broker::BrokerError::KeyConflict { .. })));
    assert_eq!(house.queue().await.queued, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_at_its_cap_refuses_and_loses_nothing() {
    let house = House::start();
    house.redis.cli(&["HSET", "umbel:{default}:control", "cap", "2"]);
    let probe = |name| house.client.enqueue(Probe::new(name, Act::Ok));
    probe("a").await.unwrap();
    probe("b").delay(Duration::from_secs(60)).await.unwrap();
    let full = probe("c").await;
    assert!(matches!(full, Err(umbel_broker::BrokerError::QueueFull { .. })));
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.delayed), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_entry_goes_to_the_dead_letters_as_it_came() {
    let house = House::start();
    house.redis.cli(&["XADD", "umbel:{default}:ready:normal", "*", "what", "is this", "n", "1"]);
    let worker = house.worker(1);
    let letter = eventually("a dead letter", async || {
        let letters = house.dead_letters();
        letters.contains("unreadable").then_some(letters)
    })
    .await;
    assert!(letter.contains("is this"), "{letter}");

    // One that is tracked says so where a person looks for it.
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).delay(LONG).await.unwrap();
    let id = handle.id().as_str();
    house.redis.cli(&["ZREM", "umbel:{default}:delayed", id]);
    house.redis.cli(&["XADD", "umbel:{default}:ready:normal", "*", "id", id, "env", "?"]);
    let record = house.ended(handle.id()).await;
    assert_eq!((record.state, record.task.as_str()), (TaskState::Failed, "probe"));
    // The worker goes on.
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    handle.wait(LONG).await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_the_same_time_share_calls_and_each_is_told_of_its_own_task() {
    const CALLERS: usize = 64;
    let house = House::start();
    // It is in the list of queues from here on.
    house.client.enqueue(Probe::new("first", Act::Ok)).await.unwrap();
    let calls = || {
        let stats = house.redis.cli(&["info", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        line.and_then(|line| line.split(',').next()?.parse::<usize>().ok()).unwrap()
    };
    // A task of each kind: what one is refused with must not reach another.
    let probe = |n: usize| {
        let call = house.client.enqueue(Probe::new(&format!("n{n}"), Act::Ok));
        match n % 4 {
            0 => call.untracked(),
            1 => call.delay(Duration::from_secs(3600)),
            2 => call.idempotency_key("the-same"),
            _ => call,
        }
    };
    let before = calls();
    let answers = futures::future::join_all((0..CALLERS).map(|n| probe(n).into_future())).await;
    let made = calls() - before;
    assert!(made <= 8, "{made} calls for {CALLERS} callers");
    for (n, answer) in answers.iter().enumerate() {
        match (n % 4, answer) {
            (2, Err(BrokerError::KeyConflict { key })) => assert_eq!(key, "the-same"),
            (_, Ok(handle)) => {
                let state = handle.record().await.unwrap().map(|record| record.state);
                let expected = [None, Some(TaskState::Scheduled), Some(TaskState::Queued)];
                assert_eq!(state, expected[(n % 4).min(2)], "{n}");
            }
            (_, Err(error)) => panic!("{n}: {error}"),
        }
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), CALLERS / 4 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_half_way_keeps_nobody_waiting() {
    let house = House::start();
    house.client.enqueue(Probe::new("first", Act::Ok)).await.unwrap();
    let probe = |name: &str| house.client.enqueue(Probe::new(name, Act::Ok)).into_future();
    let (mut gives_up, waits) = (probe("a"), probe("b"));
    // Until it goes on, Redis answers nobody.
    send(house.redis.pid(), Signal::SIGSTOP);
    let sent = std::future::poll_fn(|cx| Poll::Ready(gives_up.as_mut().poll(cx)));
    assert!(sent.await.is_pending(), "it is on its way");
    let mut waits = waits;
    let queued = std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx)));
    assert!(queued.await.is_pending(), "it waits for the one on its way");
    drop(gives_up);
    let waits = tokio::spawn(waits);
    send(house.redis.pid(), Signal::SIGCONT);
    let handle = tokio::time::timeout(LONG, waits).await.unwrap().unwrap().unwrap();
    assert_eq!(handle.record().await.unwrap().unwrap().state, TaskState::Queued);
}
