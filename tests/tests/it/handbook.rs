//! A real site of more than a hundred pages, through all of the scraper: the Debian
//! Administrator's Handbook.

use std::{path::PathBuf, time::Duration};

use umbel_tasks::{PageCounts, Status, SweepSites};
use umbel_tests::pages::Pages;

use super::scraper::House;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_the_handbook_is_found_and_scraped_once() {
    let folder = std::env::var_os("UMBEL_PAGES").map(PathBuf::from).expect(
        "UMBEL_PAGES must name the folder of the handbook: `scripts/test` sets it, and \
         `scripts/pages` prints it",
    );
    let web = Pages::start(&folder, Duration::ZERO).await.unwrap();
    let house = House::start().await;
    let workers = [house.worker(8), house.worker(8)];
    let index = format!("{}index.html", web.url());
    let put = house.put(&index, 20, 1000).await;
    house.client.enqueue(SweepSites {}).await.unwrap();

    let site = house.scraped(put.id).await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(site.status, Status::Succeeded);
    let succeeded = site.pages.succeeded;
    assert_eq!(site.pages, PageCounts { succeeded, ..PageCounts::default() });
    assert!(succeeded > 100, "only {succeeded} pages");

    // Each page was asked for once, and nothing else was.
    let hits = web.hits();
    assert!(hits.values().all(|hits| *hits == 1), "{hits:?}");
    let pages = house.pages().await;
    let mut found: Vec<_> = pages.iter().map(|page| page.url.as_str()).collect();
    let mut asked: Vec<_> =
        hits.keys().map(|path| format!("{}{}", web.url(), &path[1..])).collect();
    found.sort_unstable();
    asked.sort_unstable();
    assert_eq!(found, asked);
    assert!(pages.iter().all(|page| page.title.is_some() && page.attempt == 1));

    let first = house.page(&index).await;
    assert_eq!(first.title.as_deref(), Some("The Debian Administrator's Handbook"));
    assert_eq!((first.depth, first.http_status), (0, Some(200)));
    assert_eq!(
        first.description.as_deref(),
        Some(
            "A reference book presenting the Debian distribution, from initial installation to \
             configuration of services."
        )
    );
    assert_eq!(first.canonical.as_deref(), Some("https://debian-handbook.info/browse/stable/"));
    assert_eq!(first.truncated, Some(false));
    assert!(first.links_internal.is_some_and(|links| links > 100));
}
