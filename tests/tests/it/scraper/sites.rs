//! A site, its runs, and its limits.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use tokio::task::JoinSet;
use umbel_tasks::{PageCounts, Put, Status};
use umbel_tests::{eventually::eventually_eq, pages::Pages};

use super::{Folder, House};

const AT_ONCE: Duration = Duration::ZERO;

/// Two levels under a first page, with ways back and a link that leads away.
fn small() -> Folder {
    Folder::new()
        .page("index", &["a.html", "b.html", "https://example.com/", "index.html#top"])
        .page("a", &["c.html", "index.html"])
        .page("b", &["c.html", "a.html"])
        .page("c", &["index.html"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_has_every_page_of_a_due_site_scraped_once() {
    let folder = small();
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let url = format!("{}index.html", web.url());
    let put = house.put(&url, 3, 100).await;
    assert_eq!(put, Put { id: put.id, created: true });
    let waits = house.site(put.id).await;
    assert_eq!((waits.status, waits.pages.pending), (Status::Pending, 1));

    let swept = house.sweep().await;
    assert_eq!((swept.claimed, swept.repaired, swept.enqueued), (1, 0, 1));
    let claimed = house.site(put.id).await;
    assert_eq!((claimed.status, claimed.pages.pending), (Status::Queued, 1));
    assert!(claimed.due_at.is_some_and(|due| due <= Utc::now()));
    assert!(claimed.task_id.is_some_and(|id| id.starts_with("scrape-")));
    assert!(
        (TimeDelta::minutes(59)..TimeDelta::minutes(61)).contains(&(claimed.next_due - Utc::now()))
    );

    let worker = house.worker(4);
    let site = house.scraped(put.id).await;
    assert_eq!((site.status, site.error), (Status::Succeeded, None));
    assert_eq!(site.pages, PageCounts { succeeded: 4, ..PageCounts::default() });
    assert!(site.last_scraped_at.is_some());
    let pages: BTreeMap<_, _> = house
        .pages()
        .await
        .into_iter()
        .map(|page| {
            assert_eq!((page.status, page.attempt, page.error), (Status::Succeeded, 1, None));
            assert_eq!((page.http_status, page.language.as_deref()), (Some(200), Some("en")));
            assert!(page.queued_at <= page.started_at && page.started_at <= page.finished_at);
            assert!(page.task_id.is_some_and(|id| id.starts_with("scrape-")));
            (page.url.rsplit('/').next().unwrap().to_owned(), (page.title.unwrap(), page.depth))
        })
        .collect();
    let expected = [("index", 0), ("a", 1), ("b", 1), ("c", 2)];
    let expected = expected.map(|(name, depth)| (format!("{name}.html"), (name.to_owned(), depth)));
    assert_eq!(pages, BTreeMap::from(expected));
    assert_eq!(web.hits().values().copied().collect::<Vec<_>>(), [1, 1, 1, 1]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_followed_no_deeper_than_the_site_allows() {
    let folder = Folder::new()
        .page("0", &["1.html"])
        .page("1", &["2.html"])
        .page("2", &["3.html"])
        .page("3", &[]);
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let worker = house.worker(2);
    for (depth, expected) in [(0, 1), (2, 3)] {
        let put = house.put(&format!("{}0.html", web.url()), depth, 100).await;
        house.client.enqueue(umbel_tasks::SweepSites {}).await.unwrap();
        let site = house.scraped(put.id).await;
        assert_eq!(site.pages, PageCounts { succeeded: expected, ..PageCounts::default() });
        assert_eq!(web.hits_of("/3.html"), 0);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_find_links_at_once_share_what_the_site_allows() {
    // Eight pages that each lead to eight more: whoever counts wrong finds too many.
    let names =
        |from: usize| -> Vec<String> { (0..8).map(|to| format!("{from}-{to}.html")).collect() };
    let hubs: Vec<String> = (0..8).map(|hub| format!("{hub}.html")).collect();
    let links = |names: &[String]| names.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let mut folder = Folder::new().page("index", &links(&hubs).split(' ').collect::<Vec<_>>());
    for hub in 0..8 {
        let leaves = names(hub);
        folder = folder.page(&hub.to_string(), &links(&leaves).split(' ').collect::<Vec<_>>());
        for leaf in &leaves {
            folder = folder.page(leaf.strip_suffix(".html").unwrap(), &[]);
        }
    }
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let workers = [house.worker(8), house.worker(8)];
    let put = house.put(&format!("{}index.html", web.url()), 5, 30).await;
    house.client.enqueue(umbel_tasks::SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 30, ..PageCounts::default() });
    assert_eq!(web.hits().values().sum::<u64>(), 30, "each once");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_scraped_anew_when_it_is_due_again_and_not_before() {
    let folder = small();
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let url = format!("{}index.html", web.url());
    let put = house.put(&url, 3, 100).await;
    let worker = house.worker_for(&["scrape"], 4);
    house.sweep().await;
    house.scraped(put.id).await;
    let again = house.sweep().await;
    assert_eq!((again.claimed, again.enqueued), (0, 0), "it is not due");

    // What is gone from the site stays as it was, and what is new is found.
    let folder = folder.page("b", &["d.html"]).page("d", &[]);
    std::fs::remove_file(folder.0.join("c.html")).unwrap();
    let folder = folder.page("a", &[]);
    let known = house.put(&url, 3, 100).await;
    assert_eq!(known, Put { id: put.id, created: false });
    let waits = house.site(put.id).await;
    let counts = PageCounts { pending: 1, succeeded: 3, ..PageCounts::default() };
    assert_eq!((waits.status, waits.pages), (Status::Pending, counts));
    assert_eq!(house.sweep().await.claimed, 1);
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 4, ..PageCounts::default() });
    let hits = ["index", "a", "b", "c", "d"].map(|name| web.hits_of(&format!("/{name}.html")));
    assert_eq!(hits, [2, 2, 2, 1, 1]);
    let left = house.page(&format!("{}c.html", web.url())).await;
    assert_eq!((left.status, left.title.as_deref()), (Status::Succeeded, Some("c")));
    worker.stop().await;
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_run_goes_on_is_not_begun_again() {
    let folder = small();
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let url = format!("{}index.html", web.url());
    let put = house.put(&url, 3, 100).await;
    house.sweep().await;
    // Its page waits for a worker; somebody asks for it once more.
    house.put(&url, 3, 100).await;
    assert_eq!(house.sweep().await.claimed, 0);
    assert_eq!(house.site(put.id).await.status, Status::Queued);
    let worker = house.worker_for(&["scrape"], 4);
    house.scraped(put.id).await;
    assert_eq!(house.sweep().await.claimed, 1, "it was asked for after its run had begun");
    worker.stop().await;
}

/// A house with sites that are due, none of which can be fetched.
async fn house_with_sites(count: usize) -> House {
    let house = House::start().await;
    house.database.sql(&format!(
        "insert into sites (url) select 'http://127.0.0.1/' || n from generate_series(1, {count}) n"
    ));
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_due_whatever_somebody_has_written_as_its_time_and_as_often_as_it_is_written() {
    let folder = small();
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let put = house.put(&format!("{}a.html", web.url()), 0, 1).await;
    let worker = house.worker_for(&["scrape"], 2);
    for (times, due) in [(1, "-infinity"), (2, "-infinity"), (3, "2001-02-03"), (4, "2001-02-03")] {
        house.database.sql(&format!("update sites set next_due = '{due}'"));
        assert_eq!(house.sweep().await.claimed, 1, "{due}");
        house.scraped(put.id).await;
        assert_eq!(web.hits_of("/a.html"), times, "{due}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_due_is_claimed_by_one_of_many() {
    let house = house_with_sites(1000).await;
    let mut claims = JoinSet::new();
    for _ in 0..8 {
        let sites = house.app.sites.clone();
        claims.spawn(async move { sites.claim_due().await.unwrap() });
    }
    assert_eq!(claims.join_all().await.iter().sum::<u64>(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_at_the_same_time_enqueue_each_site_once() {
    let house = house_with_sites(250).await;
    let sweeper = house.worker_for(&["default"], 4);
    let sweeps = house.client.enqueue_many((0..4).map(|_| umbel_tasks::SweepSites {})).await;
    let mut claimed = 0;
    for sweep in sweeps.unwrap() {
        claimed += sweep.unwrap().wait(super::PATIENCE).await.unwrap().claimed;
    }
    assert_eq!(claimed, 250);
    eventually_eq("each site has one task", 250, async || house.waiting().await).await;
    let sites = house.sites().await;
    let tasks: HashSet<_> = sites.iter().filter_map(|site| site.task_id.as_deref()).collect();
    assert_eq!(tasks.len(), 250);
    assert!(sites.iter().all(|site| site.status == Status::Queued));
    assert!(house.pages().await.iter().all(|page| page.status == Status::Pending));
    sweeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_was_written_by_hand_is_scraped_or_told_what_is_wrong() {
    let folder = Folder::new().page("index", &[]);
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let house = House::start().await;
    let good = format!("{}index.html", web.url());
    house.database.sql(&format!(
        "insert into sites (url) values
             ('example.com'), ('{good}'), ('http://Example.com'), ('ftp://example.com/')"
    ));
    let worker = house.worker(2);
    house.client.enqueue(umbel_tasks::SweepSites {}).await.unwrap();
    let mut told = Vec::new();
    for site in house.sites().await {
        let site = house.scraped(site.id).await;
        told.push((site.status, site.error));
    }
    let failed = |error: &str| (Status::Failed, Some(error.to_owned()));
    assert_eq!(
        told,
        [
            failed("`example.com` is no address: relative URL without a base"),
            (Status::Succeeded, None),
            failed("the address must be written as `http://example.com/`"),
            failed("only http and https are fetched, not `ftp`"),
        ]
    );
    worker.stop().await;
}
