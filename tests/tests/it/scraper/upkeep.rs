//! What is not kept for ever.

use umbel_tasks::{PrunePages, PruneSteps, Pruned, PrunedPages};

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

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_no_run_finds_any_more_are_forgotten_after_ninety_days() {
    let house = House::start().await;
    house.database.sql(
        "insert into sites (url, run) values ('https://a.example/', 7);
         insert into pages (site_id, url, run, status, finished_at)
         select s.id, 'https://a.example/' || page.name, page.run, page.status,
             now() - make_interval(days => page.days)
         from sites s, (values
             ('found', 7, 'succeeded', 100), ('gone', 6, 'succeeded', 91), ('fresh', 6, 'failed', 89),
             ('skipped', 5, 'skipped', 200), ('open', 6, 'queued', 200)
         ) as page (name, run, status, days);
         insert into pages (url, status, finished_at)
         select 'https://alone.example/' || n, 'succeeded', now() - interval '91 days'
         from generate_series(1, 2500) n;
         insert into credits (source, day, spent, requests)
         values ('s', now() - interval '401 days', 1, 1), ('s', now(), 1, 1)",
    );
    let worker = house.worker(1);
    let pruned = house.client.enqueue(PrunePages {}).await.unwrap().wait(PATIENCE).await.unwrap();
    assert_eq!(pruned, PrunedPages { pages: 2502 });
    let kept = house.database.sql("select url from pages order by id");
    let expected = ["found", "fresh", "open"].map(|name| format!("https://a.example/{name}"));
    assert_eq!(kept, expected.join("\n"));
    assert_eq!(house.database.sql("select count(*) from credits"), "1");
    worker.stop().await;
}
