//! A task that kills its workers is found and buried; those that ran beside it are not.

use chrono::Utc;
use umbel_broker::{Delivery, Held, Scripts, liveness::Cause};
use umbel_proto::TaskState;
use umbel_tests::{
    eventually::{eventually, stays},
    house::House,
    probe::{Act, Probe, shard},
};
use umbel_worker::End;

/// The worker dies: what it held is added again.
async fn dies(house: &House, worker: &str, cause: Cause) {
    assert!(house.client.declare_dead(worker, "", &cause, Utc::now()).await.unwrap());
    house.client.recover_all(&shard(), worker, cause.is_charged()).await.unwrap();
}

async fn take(house: &House, worker: &str, count: usize) -> Vec<Delivery> {
    let taken = house.consumer(worker, &Held::default()).fetch(count).await.unwrap();
    assert_eq!(taken.len(), count);
    taken
}

fn crashes(taken: &[Delivery]) -> Vec<u32> {
    let mut all: Vec<u32> =
        taken.iter().map(|d| d.contents.as_ref().unwrap().envelope.crashes).collect();
    all.sort_unstable();
    all
}

async fn enqueue(house: &House, count: usize) {
    let probes = (0..count).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).tracked().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_death_is_charged_to_all_a_second_only_to_what_was_started() {
    let house = House::start();
    enqueue(&house, 3).await;
    take(&house, "one", 3).await;
    dies(&house, "one", Cause::Silent).await;

    let held = Held::default();
    let mut two = house.consumer("two", &held);
    let mut taken = two.fetch(3).await.unwrap();
    assert_eq!(crashes(&taken), [1, 1, 1]);
    let started = house.client.start("two", &held, vec![taken.pop().unwrap()], Utc::now()).await;
    assert_eq!(started.unwrap().len(), 1);
    let suspects = house.redis.cli(&["HVALS", "umbel:{default}:suspects"]);
    assert_eq!(suspects.matches("two").count(), 1, "{suspects}");
    dies(&house, "two", Cause::Crashed("SIGSEGV".into())).await;

    let taken = take(&house, "three", 3).await;
    assert_eq!(crashes(&taken), [1, 1, 2]);
    assert!(house.redis.cli(&["HLEN", "umbel:{default}:suspects"]).contains('0'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_ended_from_outside_charges_nothing() {
    let house = House::start();
    enqueue(&house, 2).await;
    for (n, cause) in [Cause::Drained, Cause::Killed("SIGKILL".into())].into_iter().enumerate() {
        let worker = format!("w{n}");
        assert_eq!(crashes(&take(&house, &worker, 2).await), [0, 0]);
        dies(&house, &worker, cause).await;
    }
    assert_eq!(crashes(&take(&house, "last", 2).await), [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_twice_runs_alone_and_what_ends_well_is_no_suspect_any_more() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("suspect", Act::Hold)).await.unwrap();
    for worker in ["one", "two"] {
        let held = Held::default();
        let mut consumer = house.consumer(worker, &held);
        let taken = consumer.fetch(1).await.unwrap();
        house.client.start(worker, &held, taken, Utc::now()).await.unwrap();
        dies(&house, worker, Cause::Silent).await;
    }
    // Something else runs when it comes, so it waits; nothing starts while it waits or runs.
    let worker = house.worker(3);
    let running = house.record.order().len();
    assert_eq!(running, 0);
    eventually("the suspect runs", async || {
        house.record.order().contains(&"suspect".to_owned()).then_some(())
    })
    .await;
    let beside = house.client.enqueue(Probe::new("beside", Act::Ok)).await.unwrap();
    let suspects = house.redis.cli(&["HLEN", "umbel:{default}:suspects"]);
    assert!(suspects.contains('1'), "{suspects}");
    // The other is read only once the suspect has ended: a whole worker stands still for it.
    let queue = house.queue().await;
    assert_eq!((queue.queued, queue.running), (1, 1));
    assert_eq!(beside.record().await.unwrap().unwrap().state, TaskState::Queued);
    house.record.open("suspect");
    assert_eq!(handle.wait(umbel_tests::eventually::LONGEST).await.unwrap(), 1);
    beside.wait(umbel_tests::eventually::LONGEST).await.unwrap();
    assert_eq!(house.record.order(), ["suspect", "beside"]);
    assert!(house.redis.cli(&["HLEN", "umbel:{default}:suspects"]).contains('0'));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_waits_until_what_runs_has_ended() {
    let house = House::start();
    let worker = house.worker(3);
    let before = house.client.enqueue(Probe::new("before", Act::Hold)).await.unwrap();
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    // As it would stand after two deaths.
    let entry = NewEntry::with_crashes("suspect", 2);
    let id = entry.add(&house);
    eventually("the suspect is taken", async || (house.queue().await.running == 2).then_some(()))
        .await;
    assert_eq!(house.record.order(), ["before"]);
    assert!(house.redis.cli(&["HLEN", "umbel:{default}:suspects"]).contains('0'));
    house.record.open("before");
    before.wait(umbel_tests::eventually::LONGEST).await.unwrap();
    assert_eq!(house.ended(&id).await.state, TaskState::Succeeded);
    assert_eq!(house.record.order(), ["before", "suspect"]);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_beside_a_suspect_before_its_end_is_written_down() {
    let mut house = House::start();
    // Its end is refused, and so would be charged with the death of what started beside it.
    let refusing = Scripts::broken(
        "settle",
        "local runs, at = {}, FIRST",
        "error('refused'); local runs, at = {}, FIRST",
    );
    house.client = house.client.with_scripts(refusing);
    NewEntry::with_crashes("suspect", 2).add(&house);
    let worker = house.worker(3);
    eventually("it runs", async || (house.record.order().len() == 1).then_some(())).await;
    house.client.enqueue(Probe::new("beside", Act::Ok)).await.unwrap();
    stays(1, async || house.record.order().len()).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_running_in_three_deaths_is_buried_and_told() {
    let house = House::start();
    let handle = house.client.enqueue(Probe::new("killer", Act::Ok)).await.unwrap();
    for worker in ["one", "two", "three"] {
        let held = Held::default();
        let mut consumer = house.consumer(worker, &held);
        let taken = consumer.fetch(1).await.unwrap();
        assert_eq!(house.client.start(worker, &held, taken, Utc::now()).await.unwrap().len(), 1);
        dies(&house, worker, Cause::Silent).await;
    }
    let worker = house.worker(1);
    let record = house.ended(handle.id()).await;
    assert_eq!(record.state, TaskState::Failed);
    assert!(record.error.unwrap().contains("3 workers died"));
    assert!(house.record.attempts_of("killer").is_empty(), "the body was not run");
    let ends = house.record.ends_of("killer");
    assert!(matches!(ends.as_slice(), [End::Failed { why: "crash", .. }]), "{ends:?}");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_three_charged_deaths_it_is_buried_and_an_innocent_is_not() {
    let house = House::start();
    let killer = NewEntry::with_crashes("killer", 3).add(&house);
    let innocent = NewEntry::with_crashes("innocent", 2).add(&house);
    let worker = house.worker(1);
    let record = house.ended(&killer).await;
    assert_eq!(record.state, TaskState::Failed);
    assert!(house.dead_letters().contains("crash"));
    assert_eq!(house.ended(&innocent).await.state, TaskState::Succeeded);
    assert_eq!(house.record.attempts_of("innocent"), [1], "no attempt was burnt");
    worker.stop().await.unwrap();
}

/// An entry as it stands after so many charged deaths.
pub(crate) struct NewEntry {
    envelope: umbel_proto::Envelope,
}

impl NewEntry {
    pub(crate) fn with_crashes(name: &str, crashes: u32) -> Self {
        let args = umbel_proto::codec::encode(&Probe::new(name, Act::Ok)).unwrap();
        let id = umbel_proto::TaskId::new(&"default".parse().unwrap(), uuid::Uuid::now_v7());
        let body = umbel_proto::Body { args, tracked: true, ..Default::default() };
        let task = "probe".parse().unwrap();
        let envelope = umbel_proto::Envelope::seal(id, task, &body, Utc::now()).unwrap();
        Self { envelope: umbel_proto::Envelope { crashes, ..envelope } }
    }

    pub(crate) fn add(self, house: &House) -> umbel_proto::TaskId {
        let mut add = redis::cmd("XADD");
        add.arg(shard().ready(umbel_broker::keys::Stream::Recovered)).arg("*");
        for (name, value) in self.envelope.fields() {
            add.arg(name).arg(value);
        }
        let client = redis::Client::open(house.redis.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        add.query::<String>(&mut connection).unwrap();
        self.envelope.id
    }
}
