//! Something foreign stands where a queue has its control: somebody must mend that, and until then
//! only this queue stands still.

use umbel_broker::NewTask;
use umbel_proto::{QueueName, TaskState};
use umbel_tests::{
    eventually::{eventually, stays},
    house::House,
    probe::{Act, Probe, shard},
};

use super::LONG;

const CONTROL: &str = "umbel:{other}:control";

#[tokio::test(flavor = "multi_thread")]
async fn what_one_queue_refuses_for_good_keeps_no_other_from_settling() {
    let house = House::start();
    let other: QueueName = "other".parse().unwrap();
    let queues = vec![shard().queue().clone(), other.clone()];
    let worker = house.worker_with(|settings| {
        settings.queues = queues;
        settings.concurrency = 4;
    });
    let mut new = NewTask::of(&Probe::new("there", Act::Hold)).unwrap();
    new.queue = other.clone();
    new.call.tracked = true;
    let there = house.client.submit(new).await.unwrap().id;
    let here = house.client.enqueue(Probe::new("here", Act::Hold)).await.unwrap();
    let both = async || (house.record.order().len() == 2).then_some(());
    eventually("both run", both).await;
    house.redis.cli(&["RENAME", CONTROL, "umbel:kept"]);
    house.redis.cli(&["SET", CONTROL, "theirs"]);
    house.record.open("there");
    let state = async || house.client.task(&there).await.unwrap().unwrap().state;
    stays(TaskState::Running, state).await;
    house.record.open("here");
    assert_eq!(here.wait(LONG).await.unwrap(), 1);
    assert_eq!(house.redis.cli(&["EXISTS", CONTROL]), "1");
    house.redis.cli(&["RENAME", "umbel:kept", CONTROL]);
    assert_eq!(house.ended(&there).await.attempt, 1);
    assert_eq!(house.record.order().len(), 2, "each ran once");
    worker.stop().await.unwrap();
}
