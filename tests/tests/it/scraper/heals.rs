//! What a crash between two systems leaves behind, and who puts it right.

use std::time::Duration;

use chrono::Utc;
use umbel_tasks::{
    Attempt, PageCounts, PageRun, Plan, PlannedSite, ScrapePage, ScrapeSite, Scraped, SiteAttempt,
    Status, SweepSites, WantedSite,
};
use umbel_tests::pages::Pages;
use url::Url;

use super::{Folder, House};

const AT_ONCE: Duration = Duration::ZERO;

/// A first page with three others.
async fn web() -> (Folder, Pages, String) {
    let folder = Folder::new()
        .page("index", &["a.html", "b.html", "c.html"])
        .page("a", &[])
        .page("b", &[])
        .page("c", &[]);
    let web = Pages::start(&folder.0, AT_ONCE).await.unwrap();
    let url = format!("{}index.html", web.url());
    (folder, web, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_a_site_or_its_page_is_enqueued_is_healed_by_the_next_sweep() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let put = house.put(&url, 3, 100).await;
    let other = house.put(&format!("{}c.html", web.url()), 0, 1).await;
    // A task that commits its plan and dies, before it enqueues a page.
    assert_eq!(house.claim_and_plan().await, 2);
    // A sweep that commits its claim and dies, before it enqueues a site.
    house.database.sql(&format!(
        "update sites set planned_at = null, task_id = null, status = 'queued' where id = {}",
        other.id
    ));
    assert_eq!(house.waiting().await, 0);

    let swept = house.sweep().await;
    assert_eq!((swept.claimed, swept.enqueued), (0, 2));
    let worker = house.worker(4);
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 4, ..PageCounts::default() });
    assert_eq!(house.scraped(other.id).await.status, Status::Succeeded);
    let hits = ["index", "a", "b", "c"].map(|name| web.hits_of(&format!("/{name}.html")));
    assert_eq!(hits, [1, 1, 1, 2]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_it_is_noted_that_a_page_is_enqueued_does_not_enqueue_it_twice() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let put = house.put(&url, 3, 100).await;
    house.claim_and_plan().await;
    house.sweep().await;
    let first = house.page(&url).await.task_id;
    // The sweep enqueued and died: the row does not know.
    house.database.sql("update pages set status = 'pending', task_id = null, queued_at = null");

    assert_eq!(house.sweep().await.enqueued, 1);
    assert_eq!((house.waiting().await, house.page(&url).await.task_id), (1, first));
    let worker = house.worker(4);
    house.scraped(put.id).await;
    assert_eq!(web.hits_of("/index.html"), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_it_is_noted_that_a_site_is_enqueued_does_not_enqueue_it_twice() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let put = house.put(&url, 0, 1).await;
    house.sweep().await;
    let first = house.site(put.id).await.task_id;
    house.database.sql("update sites set task_id = null, queued_at = null");

    assert_eq!(house.sweep().await.enqueued, 1);
    assert_eq!((house.waiting().await, house.site(put.id).await.task_id), (1, first.clone()));
    // The same, and a worker was faster than the sweep that comes then.
    house.database.sql("update sites set task_id = null, queued_at = null");
    let worker = house.worker_for(&["scrape"], 1);
    let site = house.scraped(put.id).await;
    assert_eq!((site.status, site.task_id), (Status::Succeeded, first));
    assert_eq!(house.sweep().await.enqueued, 0);
    assert_eq!((web.hits_of("/robots.txt"), web.hits_of("/index.html")), (1, 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_own_page_is_enqueued_is_healed_by_the_same_task() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let put = house.put(&url, 3, 100).await;
    house.app.sites.claim_due().await.unwrap();
    let WantedSite { site, .. } = house.app.sites.claimed(0, 9).await.unwrap().pop().unwrap();
    let task = ScrapeSite { url: url.parse().unwrap(), site };
    let handle = house.client.enqueue(task.clone()).await.unwrap();
    // A worker runs the task up to the commit of its plan, and dies.
    let attempt = SiteAttempt { site, task_id: handle.id(), attempt: 1 };
    house.app.sites.begin(&attempt, &task.url, Utc::now()).await.unwrap().unwrap();
    assert_eq!(house.site(put.id).await.status, Status::Running);
    let sitemap = vec![task.url.join("named.html").unwrap()];
    let plan = Plan { sitemap, ..Plan::default() };
    assert!(house.app.sites.plan(&attempt, &plan).await.unwrap());
    // A run of the same task beside this one comes too late.
    assert!(!house.app.sites.plan(&attempt, &Plan::default()).await.unwrap());

    let worker = house.worker_for(&["scrape"], 1);
    let planned = handle.wait(super::PATIENCE).await.unwrap();
    assert_eq!(planned, PlannedSite { id: put.id, named: 0 });
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 4, failed: 1, ..PageCounts::default() });
    let hits = ["robots.txt", "index.html", "named.html"].map(|it| web.hits_of(&format!("/{it}")));
    assert_eq!(hits, [0, 1, 1], "planned by the first");
    assert_eq!(house.database.sql("select sitemap is null from sites"), "t", "it is followed");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_further_pages_are_enqueued_is_healed_by_the_same_task() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let put = house.put(&url, 3, 100).await;
    house.claim_and_plan().await;
    let wanted = house.app.pages.pending(None, 0, 9).await.unwrap().pop().unwrap();
    let task = ScrapePage { url: url.parse().unwrap(), page: Some(wanted.page) };
    let handle = house.client.enqueue(task).await.unwrap();
    // A worker runs the task up to the commit of what it read, and dies.
    let attempt = Attempt { page: wanted.page, owner: None, task_id: handle.id(), attempt: 1 };
    store(&house, &attempt, &url).await;
    assert_eq!(house.site(put.id).await.pages.pending, 3);

    let worker = house.worker_for(&["scrape"], 1);
    let output = house.output(handle.id().clone()).await;
    assert_eq!((output.id, output.title.as_deref()), (wanted.page.id, Some("read before")));
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 4, ..PageCounts::default() });
    assert_eq!((web.hits_of("/index.html"), web.hits_of("/a.html")), (0, 1), "read by the first");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_a_page_without_a_site_was_stored_has_it_read_again() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let task = ScrapePage { url: url.parse().unwrap(), page: None };
    let handle = house.client.enqueue(task.clone()).await.unwrap();
    let page = house.app.pages.adopt(&task.url, None).await.unwrap();
    let attempt = Attempt { page, owner: None, task_id: handle.id(), attempt: 1 };
    let place = house.app.pages.begin(&attempt, &task.url, Utc::now()).await.unwrap().unwrap();
    let stored = house.app.pages.succeed(&attempt, place.site_id, &read_before(&task.url)).await;
    assert_eq!(stored.unwrap(), Some(0));

    let worker = house.worker_for(&["scrape"], 1);
    let output = house.output(handle.id().clone()).await;
    assert_eq!((output.id, output.title.as_deref()), (page.id, Some("index")));
    assert_eq!(house.page(&url).await.title, output.title);
    assert_eq!(web.hits_of("/index.html"), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_another_release_enqueued_keeps_no_other_from_being_enqueued() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let first = house.put(&url, 0, 1).await;
    let second = house.put(&format!("{}a.html", web.url()), 0, 1).await;
    house.claim_and_plan().await;
    let page = house.app.pages.pending(Some(first.id), 0, 9).await.unwrap().pop().unwrap().page;
    // The same page under the same key, in another call; its release died before it said so.
    let task = ScrapePage { url: url.parse().unwrap(), page: Some(page) };
    let key = format!("page:{}:{}", page.id, page.run);
    let other = house.client.enqueue(task).time_limit(Duration::from_secs(59));
    other.idempotency_key(key).await.unwrap();

    let swept = house.sweep().await;
    assert_eq!((swept.claimed, swept.enqueued), (0, 1));
    assert_eq!(house.page(&url).await.status, Status::Pending);
    let worker = house.worker(2);
    for site in [first.id, second.id] {
        assert_eq!(house.scraped(site).await.status, Status::Succeeded);
    }
    assert_eq!((web.hits_of("/index.html"), web.hits_of("/a.html")), (1, 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_page_went_on_without_it_changes_nothing() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    house.put(&url, 3, 100).await;
    house.claim_and_plan().await;
    let wanted = house.app.pages.pending(None, 0, 9).await.unwrap().pop().unwrap();
    let late = PageRun { run: wanted.page.run - 1, ..wanted.page };
    let elsewhere = format!("{}a.html", web.url());
    let worker = house.worker_for(&["scrape"], 1);
    for (url, page) in [(&url, late), (&elsewhere, wanted.page)] {
        let task = ScrapePage { url: url.parse().unwrap(), page: Some(page) };
        let handle = house.client.enqueue(task).await.unwrap();
        let error = handle.wait(super::PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("no such page in that run"), "{error}");
        assert_eq!(web.hits().len(), 0);
    }
    let page = house.page(&url).await;
    assert_eq!((page.status, page.task_id, page.error), (Status::Pending, None, None));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_and_pages_whose_tasks_the_broker_has_lost_are_enqueued_again() {
    let (_folder, web, url) = web().await;
    let house = House::start().await;
    let put = house.put(&url, 3, 100).await;
    house.claim_and_plan().await;
    let other = house.put(&format!("{}c.html", web.url()), 0, 1).await;
    assert_eq!(house.sweep().await.enqueued, 2, "a site and the page of another");
    let alone = ScrapePage { url: "http://127.0.0.1/alone".parse().unwrap(), page: None };
    let lost = house.client.enqueue(alone.clone()).await.unwrap();
    let row = house.app.pages.adopt(&alone.url, None).await.unwrap();
    let attempt = Attempt { page: row, owner: None, task_id: lost.id(), attempt: 1 };
    house.app.pages.begin(&attempt, &alone.url, Utc::now()).await.unwrap().unwrap();
    assert_eq!(house.redis.cli(&["flushall"]), "OK");

    let soon = house.sweep().await;
    assert_eq!((soon.repaired, soon.enqueued), (0, 0), "nobody is asked for who was just heard of");
    for table in ["sites", "pages"] {
        let sql = format!("update {table} set updated_at = now() - interval '11 minutes'");
        house.database.sql(&sql);
    }
    let later = house.sweep().await;
    assert_eq!((later.repaired, later.enqueued), (3, 2));
    let page = house.page(alone.url.as_str()).await;
    assert_eq!(page.error.as_deref(), Some("the broker has lost its task"));
    let worker = house.worker(4);
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 4, ..PageCounts::default() });
    assert_eq!(house.scraped(other.id).await.status, Status::Succeeded);
    assert_eq!((web.hits_of("/index.html"), web.hits_of("/c.html")), (1, 2));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_task_waits_is_left_alone_and_one_whose_task_failed_fails() {
    let house = House::start().await;
    let waits = house.put("http://127.0.0.1/waits", 0, 1).await;
    let fails = house.put("http://127.0.0.1/fails", 0, 1).await;
    // A task that failed while the database was away: its row does not know.
    let task = ScrapePage { url: "ftp://127.0.0.1/".parse().unwrap(), page: None };
    let failed = house.client.enqueue(task).await.unwrap();
    let worker = house.worker_for(&["scrape"], 1);
    failed.wait(super::PATIENCE).await.unwrap_err();
    worker.stop().await;
    assert_eq!(house.sweep().await.enqueued, 2);
    house.database.sql(&format!(
        "update sites set status = 'running', task_id = '{}' where id = {};
         update sites set updated_at = now() - interval '11 minutes'",
        failed.id(),
        fails.id
    ));

    let swept = house.sweep().await;
    assert_eq!((swept.repaired, swept.enqueued), (1, 0));
    let (waits, fails) = (house.site(waits.id).await, house.site(fails.id).await);
    assert_eq!((waits.status, waits.pages.pending), (Status::Queued, 1));
    assert_eq!((fails.status, fails.pages.failed), (Status::Failed, 1));
    assert_eq!(fails.error.as_deref(), Some("only http and https are fetched, not `ftp`"));
    // The one that waits was heard of: the next sweep does not ask for it.
    let stale = "select count(*) from sites where updated_at < now() - interval '10 minutes'";
    assert_eq!(house.database.sql(stale), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_task_waits_is_left_alone_and_one_whose_task_failed_fails() {
    let house = House::start().await;
    let waits = house.put("http://127.0.0.1/waits", 0, 1).await;
    let fails = house.put("http://127.0.0.1/fails", 0, 1).await;
    house.claim_and_plan().await;
    house.sweep().await;
    // A task that failed while the database was away: its row does not know.
    let task = ScrapePage { url: "ftp://127.0.0.1/".parse().unwrap(), page: None };
    let failed = house.client.enqueue(task).await.unwrap();
    let pages = house.pages().await;
    let queued = house.waiting().await;
    let worker = house.worker_for(&["scrape"], 1);
    failed.wait(super::PATIENCE).await.unwrap_err();
    worker.stop().await;
    // Meanwhile the worker has tried the two pages as well; put both back to where they were.
    assert_eq!((queued, pages.len()), (3, 2));
    let alive = house.client.enqueue(SweepSites {}).delay(Duration::from_secs(3600)).await.unwrap();
    let set = |id: i64, task: &str| {
        house.database.sql(&format!(
            "update pages set status = 'queued', error = null, finished_at = null,
                 task_id = '{task}', updated_at = now() - interval '11 minutes'
             where site_id = {id};
             update sites set status = 'running' where id = {id}"
        ));
    };
    set(waits.id, alive.id().as_str());
    set(fails.id, failed.id().as_str());

    let swept = house.sweep().await;
    assert_eq!((swept.repaired, swept.enqueued), (1, 0));
    let (waits, fails) = (house.site(waits.id).await, house.site(fails.id).await);
    assert_eq!((waits.status, waits.pages.queued), (Status::Running, 1));
    assert_eq!((fails.status, fails.pages.failed), (Status::Failed, 1));
    assert_eq!(fails.error.as_deref(), Some("only http and https are fetched, not `ftp`"));
    // The one that waits was heard of: the next sweep does not ask for it.
    let stale = "select count(*) from pages where updated_at < now() - interval '10 minutes'";
    assert_eq!(house.database.sql(stale), "0");
}

/// What the scraper writes of a page that leads to three others.
async fn store(house: &House, attempt: &Attempt<'_>, url: &str) {
    let url = url.parse().unwrap();
    let place = house.app.pages.begin(attempt, &url, Utc::now()).await.unwrap().unwrap();
    let scraped = read_before(&url);
    let found = house.app.pages.succeed(attempt, place.site_id, &scraped).await.unwrap();
    assert_eq!(found, Some(3));
    // A run of the same task beside this one comes too late.
    let again = house.app.pages.succeed(attempt, place.site_id, &scraped).await.unwrap();
    assert_eq!(again, None);
}

fn read_before(url: &Url) -> Scraped {
    let metadata = umbel_tasks::metadata::PageMetadata {
        title: Some("read before".to_owned()),
        ..Default::default()
    };
    let links = ["a.html", "b.html", "c.html"].map(|link| url.join(link).unwrap()).to_vec();
    let (final_url, content_hash) = (url.clone(), String::new());
    Scraped {
        http_status: 200,
        bytes: 1,
        truncated: false,
        final_url,
        content_hash,
        metadata,
        links,
    }
}
