//! Effects that happen once, through the pooler, whatever happens to the runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinSet};
use umbel_proto::TaskId;
use umbel_store::{Db, StoreError};
use umbel_tests::eventually::eventually;
use uuid::Uuid;

use super::House;

const EFFECT: &str = "insert into effects default values";

async fn house() -> (House, Db) {
    let house = House::start();
    let db = house.migrated_client().await;
    house.database.sql("create table effects ()");
    (house, db)
}

fn task() -> TaskId {
    TaskId::new(&"scrape".parse().expect("a queue"), Uuid::now_v7())
}

fn effects(house: &House) -> String {
    house.database.sql("select count(*) from effects")
}

/// Waits until a run waits for the row of another.
async fn somebody_waits(house: &House) {
    let waiting = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
    eventually("a run waits", async || (house.database.sql(waiting) != "0").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_runs_at_once_have_one_effect_and_one_output() {
    let (house, _) = house().await;
    let (task, ran) = (task(), Arc::new(AtomicU32::new(0)));
    let mut runs = JoinSet::new();
    for _ in 0..20 {
        let (db, task, ran) = (house.client(), task.clone(), Arc::clone(&ran));
        runs.spawn(async move {
            let effect = db.once(&task, "effect", async |tx| {
                ran.fetch_add(1, Ordering::Relaxed);
                tx.execute(EFFECT, &()).await?;
                Ok::<_, StoreError>(Uuid::new_v4())
            });
            effect.await
        });
    }
    let outputs: Result<Vec<Uuid>, StoreError> = runs.join_all().await.into_iter().collect();
    let outputs = outputs.expect("nobody fails");
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
    assert_eq!((ran.load(Ordering::Relaxed), effects(&house).as_str()), (1, "1"));
}

#[tokio::test]
async fn steps_and_tasks_are_told_apart() {
    let (house, db) = house().await;
    let (one, other) = (task(), task());
    for (task, step) in [(&one, "a"), (&one, "b"), (&other, "a"), (&one, "a"), (&other, "a")] {
        let effect = db.once(task, step, async |tx| tx.execute(EFFECT, &()).await);
        assert_eq!(effect.await.map_err(|error: StoreError| error.to_string()), Ok(1));
    }
    assert_eq!(effects(&house), "3");
}

#[tokio::test]
async fn an_output_of_nothing_is_remembered_too() {
    let (house, db) = house().await;
    let task = task();
    for _ in 0..2 {
        let effect = db.once(&task, "effect", async |tx| tx.execute(EFFECT, &()).await.map(drop));
        effect.await.map_err(|error: StoreError| error.to_string()).expect("done");
        let nothing: Result<Option<u8>, StoreError> =
            db.once(&task, "none", async |_| Ok(None)).await;
        assert_eq!(nothing.expect("done"), None);
    }
    assert_eq!(effects(&house), "1");
}

#[tokio::test]
async fn an_effect_that_failed_runs_again() {
    let (house, db) = house().await;
    let task = task();
    let failed: Result<(), StoreError> = db
        .once(&task, "effect", async |tx| {
            tx.execute(EFFECT, &()).await?;
            tx.execute("select 1 / 0", &()).await.map(drop)
        })
        .await;
    assert!(matches!(failed, Err(StoreError::Statement(_))), "{failed:?}");
    assert_eq!(effects(&house), "0");
    let mended: Result<u64, StoreError> =
        db.once(&task, "effect", async |tx| tx.execute(EFFECT, &()).await).await;
    assert_eq!((mended.expect("done"), effects(&house).as_str()), (1, "1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_one_that_fails_has_the_effect_itself() {
    let (house, first) = house().await;
    let (task, (fail, told_to_fail), (reached, first_is_inside)) =
        (task(), oneshot::channel::<()>(), oneshot::channel());
    let run = {
        let task = task.clone();
        tokio::spawn(async move {
            let effect = first.once(&task, "effect", async |tx| {
                tx.execute(EFFECT, &()).await?;
                reached.send(()).expect("the test waits");
                told_to_fail.await.expect("the test tells");
                Err::<(), _>(StoreError::BadParameter("as told".to_owned()))
            });
            effect.await
        })
    };
    first_is_inside.await.expect("the first run gets there");
    let second = {
        let (db, task) = (house.client(), task.clone());
        tokio::spawn(async move {
            let effect =
                db.once(&task, "effect", async |tx| tx.execute(EFFECT, &()).await.map(drop));
            effect.await
        })
    };
    somebody_waits(&house).await;
    fail.send(()).expect("the first run waits");
    assert!(matches!(run.await.expect("no panic"), Err(StoreError::BadParameter(_))));
    let second: Result<(), StoreError> = second.await.expect("no panic");
    second.expect("done");
    assert_eq!(effects(&house), "1");
}

#[tokio::test]
async fn a_run_that_is_cancelled_or_panics_leaves_nothing() {
    let (house, db) = house().await;
    let task = task();
    let (reached, inside) = oneshot::channel();
    let run = {
        let (db, task) = (db.clone(), task.clone());
        tokio::spawn(async move {
            let effect: Result<(), StoreError> = db
                .once(&task, "effect", async |tx| {
                    tx.execute(EFFECT, &()).await?;
                    reached.send(()).expect("the test waits");
                    std::future::pending().await
                })
                .await;
            effect
        })
    };
    inside.await.expect("the run gets there");
    run.abort();
    assert!(run.await.expect_err("cancelled").is_cancelled());
    let run = {
        let (db, task) = (db.clone(), task.clone());
        tokio::spawn(async move {
            let effect: Result<(), StoreError> = db
                .once(&task, "effect", async |tx| {
                    tx.execute(EFFECT, &()).await?;
                    panic!("in the middle")
                })
                .await;
            effect
        })
    };
    assert!(run.await.expect_err("panicked").is_panic());
    let done: Result<u64, StoreError> =
        db.once(&task, "effect", async |tx| tx.execute(EFFECT, &()).await).await;
    assert_eq!((done.expect("done"), effects(&house).as_str()), (1, "1"));
}

#[tokio::test]
async fn old_steps_are_forgotten_in_batches_and_young_ones_kept() {
    let (house, db) = house().await;
    house.database.sql(
        "insert into umbel_steps (task_id, step, done_at)
         select 'scrape-' || n, 'effect', now() - interval '90 days'
         from generate_series(1, 12000) as n;
         insert into umbel_steps (task_id, step, done_at)
         values ('scrape-0', 'old', now() - interval '29 days'), ('scrape-0', 'young', now())",
    );
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(db.prune_steps(30 * day).await.expect("pruned"), 12_000);
    assert_eq!(db.prune_steps(28 * day).await.expect("pruned"), 1);
    assert_eq!(house.database.sql("select step from umbel_steps"), "young");
}
