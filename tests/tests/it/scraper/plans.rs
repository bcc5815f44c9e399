//! What is asked of a host before any page of its site is read, and what its row says of that.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, http::StatusCode, response::Html, routing::get};
use umbel::Env;
use umbel_broker::dead::LetterFilter;
use umbel_store::{Db, StoreSettings};
use umbel_tasks::{
    App, MIGRATIONS, PageCounts, ScrapeSite, SiteRun, Status, SweepSites, WantedSite,
};
use umbel_tests::{eventually::within, services::PostgresServer};

use super::{Counter, House, PATIENCE, Web, html};

/// Pages that count their visitors.
fn page(visits: &Counter, links: &'static [&'static str]) -> axum::routing::MethodRouter {
    let visits = visits.clone();
    get(async move || {
        visits.next();
        Html(html("page", links))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_rules_cannot_be_read_says_so_until_it_fails_and_can_be_planned_after_all() {
    let (visits, mended) = (Counter::default(), Arc::new(AtomicBool::new(false)));
    let is_well = mended.clone();
    let rules = async move || match is_well.load(Ordering::SeqCst) {
        true => Ok("User-agent: *\n"),
        false => Err(StatusCode::BAD_GATEWAY),
    };
    let router = Router::new().route("/robots.txt", get(rules)).route("/", page(&visits, &[]));
    let web = Web::serve(router).await;
    let house = House::start().await;
    let worker = house.worker(1);
    let put = house.put(web.url.as_str(), 1, 10).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let told = "robots.txt cannot be read: the host answers with status 502";
    let waits = within(PATIENCE, "its row tells of the trouble", async || {
        Some(house.site(put.id).await).filter(|site| site.error.is_some())
    })
    .await;
    assert!(matches!(waits.status, Status::Queued | Status::Running), "{:?}", waits.status);
    let row = (waits.error.as_deref(), waits.http_status);
    assert_eq!(row, (Some(told), Some(502)));
    assert_eq!(waits.pages, PageCounts { pending: 1, ..PageCounts::default() });

    let failed = house.scraped(put.id).await;
    assert_eq!(
        (failed.status, failed.attempt, failed.error.as_deref()),
        (Status::Failed, 5, Some(told))
    );
    assert_eq!((failed.error_class.as_deref(), failed.http_status), (Some("status"), Some(502)));
    let own = house.page(web.url.as_str()).await;
    assert_eq!(
        (own.status, own.error.as_deref(), own.http_status),
        (Status::Failed, Some(told), Some(502))
    );
    assert_eq!(visits.get(), 0);

    // Somebody has the dead letter run again, once the host is well.
    mended.store(true, Ordering::SeqCst);
    let queue = "scrape".parse().unwrap();
    let redriven = house.client.redrive_all(&queue, &LetterFilter::default(), None).await.unwrap();
    assert_eq!(redriven.done, 1);
    let site = within(PATIENCE, "it is read after all", async || {
        Some(house.site(put.id).await).filter(|site| site.status == Status::Succeeded)
    })
    .await;
    assert_eq!((site.error, site.http_status), (None, Some(200)));
    assert_eq!(site.pages, PageCounts { succeeded: 1, ..PageCounts::default() });
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_cannot_be_read_is_told_of_and_the_links_are_followed() {
    for (rules, map, told) in [
        ("", StatusCode::NOT_FOUND, None),
        ("", StatusCode::BAD_GATEWAY, Some("sitemap.xml: the host answers with status 502")),
        ("Sitemap: {}map\n", StatusCode::NOT_FOUND, Some("map: the host answers with status 404")),
        (
            "Sitemap: http://169.254.169.254/map\n",
            StatusCode::NOT_FOUND,
            Some("http://169.254.169.254/map: `169.254.169.254` does not lead to a public address"),
        ),
    ] {
        let visits = Counter::default();
        let here = Arc::new(std::sync::OnceLock::<String>::new());
        let known = here.clone();
        let router = Router::new()
            .route("/robots.txt", get(async move || rules.replace("{}", known.get().unwrap())))
            .route("/sitemap.xml", get(async move || map))
            .route("/", page(&visits, &["/a"]))
            .route("/a", page(&visits, &[]));
        let web = Web::serve(router).await;
        here.set(web.url.to_string()).unwrap();
        let house = House::start().await;
        let worker = house.worker(2);
        let put = house.put(web.url.as_str(), 1, 10).await;
        house.client.enqueue(SweepSites {}).await.unwrap();
        let site = house.scraped(put.id).await;
        assert_eq!((site.status, site.error), (Status::Succeeded, None), "{rules}");
        let error = site.sitemap_error.unwrap_or_default();
        assert!(error.ends_with(told.unwrap_or_default()), "{error}");
        assert_eq!(error.is_empty(), told.is_none(), "{error}");
        assert_eq!((site.pages.succeeded, visits.get()), (2, 2), "{rules}");
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_are_not_asked_for_where_a_run_has_a_place_for_no_other_page() {
    let (visits, asked) = (Counter::default(), Counter::default());
    let asking = asked.clone();
    let map = async move || {
        asking.next();
        StatusCode::NOT_FOUND
    };
    let router = Router::new().route("/sitemap.xml", get(map)).route("/", page(&visits, &[]));
    let web = Web::serve(router).await;
    let house = House::start().await;
    let worker = house.worker(1);
    for (depth, most, times) in [(0, 100, 0), (3, 1, 0), (1, 2, 1)] {
        let put = house.put(web.url.as_str(), depth, most).await;
        assert_eq!(house.site(put.id).await.status, Status::Pending);
        house.client.enqueue(SweepSites {}).await.unwrap();
        house.scraped(put.id).await;
        assert_eq!(asked.get(), times, "{depth} deep, {most} pages");
    }
    assert_eq!(visits.get(), 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_are_more_pages_than_places_the_links_of_the_own_page_come_first() {
    let visits = Counter::default();
    let here = Arc::new(std::sync::OnceLock::<String>::new());
    let known = here.clone();
    let map = async move || {
        let here = known.get().unwrap();
        ["x", "b", "y", "z"].map(|page| format!("<url><loc>{here}{page}</loc></url>")).concat()
    };
    let router = Router::new()
        .route("/sitemap.xml", get(map))
        .route("/", page(&visits, &["/a", "/b"]))
        .route("/{page}", page(&visits, &[]));
    let web = Web::serve(router).await;
    here.set(web.url.to_string()).unwrap();
    let house = House::start().await;
    let worker = house.worker(2);
    let put = house.put(web.url.as_str(), 1, 5).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    assert_eq!(house.scraped(put.id).await.pages.succeeded, 5);
    let found: Vec<_> = house.pages().await.into_iter().map(|page| page.url).collect();
    assert_eq!(found, ["", "a", "b", "x", "y"].map(|path| web.at(path)));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_site_went_on_without_it_changes_nothing() {
    let visits = Counter::default();
    let web = Web::serve(Router::new().fallback(page(&visits, &[]))).await;
    let house = House::start().await;
    house.put(web.url.as_str(), 1, 10).await;
    house.app.sites.claim_due().await.unwrap();
    let WantedSite { site, .. } = house.app.sites.claimed(0, 9).await.unwrap().pop().unwrap();
    let worker = house.worker_for(&["scrape"], 1);
    let elsewhere = web.url.join("elsewhere").unwrap();
    for (url, run) in [(&web.url, site.run - 1), (&elsewhere, site.run)] {
        let task = ScrapeSite { url: url.clone(), site: SiteRun { run, ..site } };
        let handle = house.client.enqueue(task).await.unwrap();
        let error = handle.wait(PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("no such site in that run"), "{error}");
    }
    let row = house.sites().await.pop().unwrap();
    assert_eq!((row.status, row.error, visits.get()), (Status::Queued, None, 0));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_an_older_release_has_begun_go_on_and_are_not_planned_again() {
    let house = House::start().await;
    let database = PostgresServer::shared().database();
    let db = Db::open(&StoreSettings::new(database.url())).unwrap();
    let (older, newest) = MIGRATIONS.split_at(2);
    assert_eq!(newest[0].version, 3, "this is about the third");
    db.migrate("scraper", older).await.unwrap();
    database.sql(
        "insert into sites (url, run, status, next_due) values
             ('https://a.example/', 7, 'queued', now() + interval '1 hour'),
             ('https://b.example/', 7, 'running', now() + interval '1 hour'),
             ('https://c.example/', 0, 'pending', now());
         insert into pages (site_id, url, run, status)
         select id, url, run, 'pending' from sites where run > 0",
    );
    db.migrate("scraper", MIGRATIONS).await.unwrap();

    let app = App::new(&Env::default(), house.client.clone(), db).unwrap();
    assert!(app.sites.claimed(0, 9).await.unwrap().is_empty());
    let pending = app.pages.pending(None, 0, 9).await.unwrap();
    let urls: Vec<_> = pending.iter().map(|wanted| wanted.url.as_str()).collect();
    assert_eq!(urls, ["https://a.example/", "https://b.example/"]);
    // A site that had no run is planned as all are from now on.
    assert_eq!(app.sites.claim_due().await.unwrap(), 1);
    let claimed = app.sites.claimed(0, 9).await.unwrap().pop().unwrap();
    assert_eq!(claimed.url, "https://c.example/");
    assert_eq!(app.pages.pending(None, 0, 9).await.unwrap().len(), 2);
}
