//! What hosts ask of their visitors.

use std::time::{Duration, Instant};

use axum::{Router, http::StatusCode, http::header, response::Html, routing::get};
use umbel_tasks::{PageCounts, ScrapePage, Status, SweepSites};
use umbel_tests::eventually::within;

use super::{Counter, House, PATIENCE, Web, html};

/// A site with these rules, whose first page leads to some others.
async fn web(rules: &'static str) -> (Web, Counter) {
    let visits = Counter::default();
    let page = |title: &'static str, links: &'static [&'static str]| {
        let visits = visits.clone();
        get(async move || {
            visits.next();
            Html(html(title, links))
        })
    };
    let router = Router::new()
        .route("/robots.txt", get(async move || rules))
        .route("/", page("home", &["/open", "/private/a", "/list?sort=up", "/paper.pdf"]))
        .route("/open", page("open", &["/private/b"]))
        .route("/private/{page}", page("private", &[]))
        .route("/list", page("list", &[]))
        .route("/paper.pdf", get(async || ([(header::CONTENT_TYPE, "application/pdf")], "%PDF")));
    (Web::serve(router).await, visits)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_robots_txt_forbids_are_not_visited_and_what_is_no_html_is_skipped() {
    let (web, visits) = web("User-agent: *\nDisallow: /private/\nDisallow: /*?sort=\n").await;
    let house = House::start().await;
    let worker = house.worker(2);
    let put = house.put(web.url.as_str(), 5, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!(site.status, Status::Succeeded);
    assert_eq!(site.pages, PageCounts { succeeded: 2, skipped: 1, ..PageCounts::default() });
    assert_eq!(visits.get(), 2, "home and open");
    let paper = house.page(&web.at("paper.pdf")).await;
    assert_eq!((paper.status, paper.error_class.as_deref()), (Status::Skipped, Some("not-html")));
    // No dead letter is left of it.
    assert!(house.redis.cli(&["XLEN", "umbel:{scrape}:dead"]).trim() == "0");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_wants_no_visitors_is_skipped_but_a_page_asked_for_by_itself_is_read() {
    let (web, visits) = web("User-agent: umbel\nDisallow: /\n").await;
    let house = House::start().await;
    let worker = house.worker(1);
    let put = house.put(web.url.as_str(), 5, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!((site.status, site.error_class.as_deref()), (Status::Skipped, Some("robots")));
    assert_eq!(site.error.as_deref(), Some("robots.txt of its host asks not to"));
    assert_eq!(visits.get(), 0);
    let alone = ScrapePage { url: web.url.clone(), page: None };
    let read = house.client.enqueue(alone).await.unwrap().wait(PATIENCE).await.unwrap();
    assert_eq!(read.title.as_deref(), Some("home"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_rules_cannot_be_read_is_not_visited_before_they_can() {
    let (asked, visits) = (Counter::default(), Counter::default());
    let (asking, visiting) = (asked.clone(), visits.clone());
    let rules = async move || match asking.next() {
        1 => Err(StatusCode::INTERNAL_SERVER_ERROR),
        _ => Ok("User-agent: *\nDisallow: /\n"),
    };
    let page = async move || {
        visiting.next();
        Html(html("x", &[]))
    };
    let web =
        Web::serve(Router::new().route("/robots.txt", get(rules)).route("/", get(page))).await;
    let house = House::start().await;
    let worker = house.worker(1);
    let put = house.put(web.url.as_str(), 1, 10).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    assert_eq!(house.scraped(put.id).await.status, Status::Skipped);
    assert_eq!((asked.get(), visits.get()), (2, 0));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_wants_time_between_two_visits_has_it_and_no_attempt_is_spent() {
    let (web, visits) = web("User-agent: *\nCrawl-delay: 1.2\nDisallow: /private/\n").await;
    let house = House::start().await;
    let worker = house.worker(4);
    let began = Instant::now();
    let put = house.put(web.url.as_str(), 1, 4).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = within(PATIENCE, "its run ends", async || {
        let site = house.site(put.id).await;
        (site.status == Status::Succeeded).then_some(site)
    })
    .await;
    // Home, two pages and a paper: three pauses between four visits.
    assert_eq!((site.pages.succeeded, site.pages.skipped, visits.get()), (3, 1, 3));
    assert!(began.elapsed() >= Duration::from_millis(3600), "{:?}", began.elapsed());
    assert!(house.pages().await.iter().all(|page| page.attempt == 1));
    worker.stop().await;
}
