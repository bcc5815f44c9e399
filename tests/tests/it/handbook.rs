//! A real site of more than a hundred pages, through all of the scraper: the Debian
//! Administrator's Handbook. And what other generators make, in other languages.

mod documents;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use umbel_tasks::{Page, PageCounts, ScraperApiOptions, SiteOptions, Source, Status, SweepSites};
use umbel_tests::{pages::Pages, scraperapi::FakeScraperApi};
use uuid::Uuid;

use super::scraper::House;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_of_the_handbook_is_found_and_scraped_once() {
    let folder = folder();
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

fn folder() -> PathBuf {
    std::env::var_os("UMBEL_PAGES").map(PathBuf::from).expect(
        "UMBEL_PAGES must name the folder of the handbook: `scripts/test` sets it, and \
         `scripts/pages` prints it",
    )
}

/// A folder of pages of our own, gone when dropped.
struct Copy(PathBuf);

impl Copy {
    fn new(folder: &Path) -> Self {
        let name = format!("umbel-copy-{}", Uuid::new_v4().simple());
        let copy = Self(std::env::temp_dir().join(name));
        let done = Command::new("cp").arg("-r").args([folder, &copy.0]).status();
        assert!(done.unwrap().success());
        copy
    }

    /// The pages in an encoding that they declare, which are in UTF-8, after an edit.
    fn reencoded(folder: &Path, encoding: &str, edit: impl Fn(String) -> String) -> Self {
        let copy = Self::new(folder);
        let mut pages = 0;
        for page in copy.pages() {
            let (page, source) = (copy.0.join(&page), copy.0.join("page.utf-8"));
            let text = edit(fs::read_to_string(&page).unwrap());
            let text = text.replace("UTF-8", encoding).replace("utf-8", encoding);
            fs::write(&source, text).unwrap();
            let done = Command::new("iconv")
                .args(["-f", "utf-8", "-t", &format!("{encoding}//TRANSLIT"), "-o"])
                .args([&page, &source])
                .status();
            assert!(done.unwrap().success(), "{}", page.display());
            pages += 1;
        }
        assert!(pages > 10, "only {pages}");
        copy
    }

    /// The paths of its pages.
    fn pages(&self) -> Vec<String> {
        let mut folders = vec![self.0.clone()];
        let mut pages = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "html") {
                    pages.push(path.strip_prefix(&self.0).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        pages
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // A test that failed has other worries.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The titles of the files under a folder, as a parser reads them that is not ours.
fn titles(folder: &Path, encoding: &str) -> BTreeMap<String, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/handbook/titles.py");
    let output = Command::new("python3").arg(script).arg(folder).arg(encoding).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the scraper reads of all pages that the first one and the sitemap lead to.
async fn read(house: &House, web: &Pages, source: Source) -> Vec<Page> {
    let worker = house.worker(8);
    let options = SiteOptions {
        url: format!("{}index.html", web.url()).parse().unwrap(),
        owner: None,
        max_depth: Some(20),
        max_pages: Some(1000),
        every_s: None,
        source: Some(source),
    };
    let put = house.app.sites.put(&options, 3600).await.unwrap();
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    worker.stop().await;
    assert_eq!((site.pages.failed, site.sitemap_error), (0, None));
    let mut pages = house.pages().await;
    pages.retain(|page| page.site_id == Some(put.id));
    pages
}

/// The titles of these pages, by their paths.
fn titles_of(web: &Pages, pages: Vec<Page>) -> BTreeMap<String, String> {
    let path = |page: &Page| page.url.strip_prefix(&web.url()).unwrap().to_owned();
    pages.into_iter().map(|page| (path(&page), page.title.unwrap_or_default())).collect()
}

async fn scraped(house: &House, web: &Pages, source: Source) -> BTreeMap<String, String> {
    titles_of(web, read(house, web, source).await)
}

fn same(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) {
    assert!(found.len() > 100, "only {} pages", found.len());
    for (name, title) in found {
        assert_eq!(Some(title), expected.get(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_title_is_the_one_that_another_parser_reads_directly_and_through_scraperapi() {
    let (folder, api) = (folder(), FakeScraperApi::start("key", 0).await.unwrap());
    let expected = titles(&folder, "utf-8");
    let url = api.url();
    let env = [
        ("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"),
        ("SCRAPERAPI_KEY", "key"),
        ("SCRAPERAPI_URL", url.as_str()),
    ];
    let house = House::with(&env).await;
    let web = Pages::start(&folder, Duration::ZERO).await.unwrap();
    same(&scraped(&house, &web, Source::Direct).await, &expected);
    let elsewhere = Pages::start(&folder, Duration::ZERO).await.unwrap();
    let through = Source::ScraperApi(ScraperApiOptions::default());
    let found = scraped(&house, &elsewhere, through).await;
    same(&found, &expected);
    assert_eq!(api.asked().len(), found.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn titles_are_the_same_in_a_legacy_encoding_that_the_pages_declare() {
    // The handbook's titles are in English; these have the letters that encodings disagree on.
    let latin = Copy::reencoded(&folder(), "windows-1252", |text| {
        text.replacen("</title>", " Äpfel – œuvre „š“</title>", 1)
    });
    let web = Pages::start(&latin.0, Duration::ZERO).await.unwrap();
    let house = House::start().await;
    let found = scraped(&house, &web, Source::Direct).await;
    same(&found, &titles(&latin.0, "windows-1252"));
    assert!(found.values().all(|title| title.ends_with(" Äpfel – œuvre „š“")), "{found:?}");
    let charsets: Vec<_> = house.pages().await.into_iter().map(|page| page.charset).collect();
    assert!(charsets.iter().all(|charset| charset.as_deref() == Some("windows-1252")));
}
