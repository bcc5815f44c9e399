//! A consumer that was deleted while it was reading: the blocked read makes it again, and takes what
//! comes next to a worker that everybody knows to be dead.

use umbel_broker::liveness::Cause;
use umbel_proto::TaskOptions;
use umbel_tests::house::House;

use super::*;

/// How often it is tried to delete a consumer within one of its blocked reads.
const TRIES: usize = 20;

/// A reader that has gone silent, but for its connection.
struct Reader {
    consumer: Consumer,
    held: Held,
}

impl Reader {
    /// It has worked before: its consumer is there.
    async fn new(house: &House) -> Self {
        let held = Held::default();
        let client = house.client.separate().unwrap();
        let mut consumer = Consumer::new(client, "gone".to_owned(), vec![shard()], held.clone());
        house.client.enqueue(Probe::new("before", Act::Ok)).await.unwrap();
        let taken = consumer.fetch(1).await.unwrap();
        let reader = Self { consumer, held };
        assert_eq!(reader.settle(house, taken).await, 0);
        assert!(is_known(house).await);
        reader
    }

    /// Settles, and tells how many were refused.
    async fn settle(&self, house: &House, taken: Vec<Delivery>) -> u64 {
        let (client, held) = (house.client.clone(), self.held.clone());
        let (settler, settling) = Settler::start(client, "gone".to_owned(), held.clone());
        for delivery in taken {
            let verdict = Verdict::Complete { output: vec![2] };
            let terms = Terms::not_run(&TaskOptions::DEFAULT);
            settler.settle(Settlement { delivery, verdict, terms }).await;
        }
        eventually("the settle is answered", async || held.is_empty().then_some(())).await;
        let refused = settler.stale();
        drop(settler);
        settling.await.unwrap();
        refused
    }

    /// Reads until something comes.
    fn read_on(mut self) -> JoinHandle<(Self, Vec<Delivery>)> {
        tokio::spawn(async move {
            loop {
                let taken = self.consumer.fetch(1).await.unwrap();
                if !taken.is_empty() {
                    return (self, taken);
                }
            }
        })
    }
}

async fn is_known(house: &House) -> bool {
    house.client.consumers(&shard()).await.unwrap().contains("gone")
}

/// Whether its read is blocked in the server.
fn is_blocked(house: &House) -> bool {
    let clients = house.redis.cli(&["CLIENT", "LIST"]);
    let mut readers = clients.lines().filter(|line| line.contains("name=umbel:worker:gone"));
    readers.any(|line| line.contains("flags=b"))
}

async fn declare_dead(house: &House) {
    let now = Utc::now();
    assert!(house.client.declare_dead("gone", "", &Cause::Silent, now).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_read_makes_its_deleted_consumer_again_and_a_second_recovery_brings_back_what_it_took()
 {
    let house = House::start();
    let reader = Reader::new(&house).await;
    declare_dead(&house).await;
    let reading = reader.read_on();
    // A read may end by itself between the two, and the next one makes the consumer again.
    let mut was_deleted = false;
    for _ in 0..TRIES {
        eventually("it reads", async || is_blocked(&house).then_some(())).await;
        house.client.recover_all(&shard(), "gone", true).await.unwrap();
        was_deleted = !is_known(&house).await && is_blocked(&house);
        if was_deleted {
            break;
        }
    }
    assert!(was_deleted);
    let handle = house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let (reader, taken) = reading.await.unwrap();
    assert!(is_known(&house).await, "the read has made its consumer again");
    assert_eq!((house.queue().await.running, taken.len()), (1, 1));

    house.client.recover_all(&shard(), "gone", true).await.unwrap();
    assert!(!is_known(&house).await);
    assert_eq!(house.queue().await.queued, 1);
    assert_eq!(reader.settle(&house, taken).await, 1, "refused");
    let worker = house.worker(1);
    assert_eq!(handle.wait(Duration::from_secs(20)).await.unwrap(), 1);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_look_at_the_dead_again_and_again_and_find_what_such_a_read_took() {
    let house = House::start();
    let reader = Reader::new(&house).await;
    // It has no room, so that it does not read beside the other.
    let worker = house.worker(1);
    house.client.enqueue(Probe::new("busy", Act::Hold)).await.unwrap();
    eventually("it is busy", async || (house.record.order().len() == 1).then_some(())).await;
    let reading = reader.read_on();
    eventually("it reads", async || is_blocked(&house).then_some(())).await;
    assert!(is_known(&house).await);
    declare_dead(&house).await;
    eventually("its consumer is deleted while it reads", async || {
        (!is_known(&house).await && is_blocked(&house)).then_some(())
    })
    .await;
    let handle = house.client.enqueue(Probe::new("taken", Act::Ok)).await.unwrap();
    let (reader, taken) = reading.await.unwrap();
    assert_eq!(taken.len(), 1);

    eventually("it waits again", async || (house.queue().await.queued == 1).then_some(())).await;
    assert_eq!(reader.settle(&house, taken).await, 1, "refused");
    house.record.open("busy");
    assert_eq!(handle.wait(Duration::from_secs(20)).await.unwrap(), 1);
    assert_eq!(house.record.order(), ["busy", "taken"]);
    assert!(!is_known(&house).await);
    worker.stop().await.unwrap();
}
