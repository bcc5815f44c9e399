//! What is not kept for ever.

use umbel_tasks::{PruneSteps, Pruned};

use super::{House, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_forgotten_after_a_week() {
    let house = House::start().await;
    house.database.sql(
        "insert into umbel_steps (task_id, step, done_at)
         select 'scrape-' || days, 'effect', now() - make_interval(days => days)
         from unnest(array[0, 6, 8, 90]) as days",
    );
    let worker = house.worker(1);
    let pruned = house.client.enqueue(PruneSteps {}).await.unwrap().wait(PATIENCE).await.unwrap();
    assert_eq!(pruned, Pruned { steps: 2 });
    let kept = house.database.sql("select task_id from umbel_steps order by done_at");
    assert_eq!(kept, "scrape-6\nscrape-0");
    worker.stop().await;
}
