//! Documents of Debian that other generators have made, in other languages and encodings.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use umbel_tasks::{Page, ScraperApiOptions, Source, Status};
use umbel_tests::{pages::Pages, scraperapi::FakeScraperApi};

use super::{Copy, House, read, titles, titles_of};

/// Packages, and what there is to know of their pages.
const DOCUMENTS: [Document; 4] = [
    Document {
        package: "aptitude-doc-ru",
        generator: Some("DocBook XSL"),
        charset: "UTF-8",
        python: "utf-8",
        language: "rus",
        title: "Руководство пользователя aptitude",
        pages: 80,
    },
    Document {
        package: "developers-reference-ja",
        generator: Some("Docutils"),
        charset: "UTF-8",
        python: "utf-8",
        language: "ja",
        title: "Debian デベロッパー レファレンス",
        pages: 10,
    },
    Document {
        package: "libjlha-java-doc-ja",
        generator: None,
        // What javadoc calls so is what Windows made of it.
        charset: "Shift_JIS",
        python: "cp932",
        // The frame that javadoc draws around the Japanese text is English, and so are the titles.
        language: "eng",
        title: "Overview (LHA Library for Java)",
        pages: 150,
    },
    Document {
        package: "m4-doc",
        generator: Some("makeinfo"),
        charset: "UTF-8",
        python: "utf-8",
        language: "eng",
        title: "Top (GNU M4 1.4.19 macro processor)",
        pages: 100,
    },
];

struct Document {
    package: &'static str,
    /// What nearly all of its pages name as their generator, if they name one.
    generator: Option<&'static str>,
    /// As a page's row has it.
    charset: &'static str,
    /// As Python calls it.
    python: &'static str,
    /// What a good part of its pages call their language, or are taken for.
    language: &'static str,
    /// A part of the title of its first page.
    title: &'static str,
    /// More than so many.
    pages: usize,
}

impl Document {
    fn folder(&self) -> PathBuf {
        let all = std::env::var_os("UMBEL_DOCUMENTS").map(PathBuf::from).expect(
            "UMBEL_DOCUMENTS must name the folder of Debian's documents: `scripts/test` sets it, \
             and `scripts/pages --all` prints it",
        );
        all.join(self.package)
    }
}

/// Serves a copy that has a sitemap: some pages are linked from nowhere.
async fn serve(copy: &Copy) -> Pages {
    let web = Pages::start(&copy.0, Duration::ZERO).await.unwrap();
    let page = |path: &String| format!("<url><loc>{}{path}</loc></url>\n", web.url());
    let map: String = copy.pages().iter().map(page).collect();
    fs::write(copy.0.join("sitemap.xml"), format!("<urlset>\n{map}</urlset>\n")).unwrap();
    web
}

/// Looks at what was read of the pages of a document.
fn check(document: &Document, web: &Pages, pages: Vec<Page>, expected: &BTreeMap<String, String>) {
    let package = document.package;
    // Links lead to sources of pages too, which are no HTML, and rightly skipped.
    let (skipped, pages): (Vec<_>, Vec<_>) =
        pages.into_iter().partition(|page| page.status == Status::Skipped);
    for page in skipped {
        assert_eq!(page.error_class.as_deref(), Some("not-html"), "{package}: {}", page.url);
        assert!(!page.url.ends_with(".html"), "{package}: {}", page.url);
    }
    assert!(pages.len() > document.pages, "{package} has only {}", pages.len());
    for page in &pages {
        assert_eq!(page.status, Status::Succeeded, "{package}: {}", page.url);
        assert_eq!(page.charset.as_deref(), Some(document.charset), "{package}: {}", page.url);
    }
    let count = pages.len();
    let named = pages.iter().filter(|page| match document.generator {
        Some(generator) => page.generator.as_deref().is_some_and(|it| it.contains(generator)),
        None => page.generator.is_none(),
    });
    assert!(named.count() * 10 >= count * 8, "{package}: another generator");
    let first = pages.iter().find(|page| page.url.ends_with("/index.html")).unwrap();
    assert!(first.title.as_deref().unwrap().contains(document.title), "{package}: {first:?}");
    let told = |page: &Page| [page.language.clone(), page.language_guess.clone()];
    let right = |page: &&Page| told(page).iter().any(|it| it.as_deref() == Some(document.language));
    let known = pages.iter().filter(right).count();
    assert!(known * 5 >= count, "{package}: {:?}", pages.iter().map(told).collect::<Vec<_>>());
    assert_eq!(&titles_of(web, pages), expected, "{package}");
}

#[tokio::test(flavor = "multi_thread")]
async fn titles_of_other_generators_and_languages_are_those_that_another_parser_reads() {
    let api = FakeScraperApi::start("key", 0).await.unwrap();
    let url = api.url();
    let env = [
        ("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"),
        ("SCRAPERAPI_KEY", "key"),
        ("SCRAPERAPI_URL", url.as_str()),
    ];
    let house = House::with(&env).await;
    let mut asked = 0;
    for document in &DOCUMENTS {
        let expected = titles(&document.folder(), document.python);
        for source in [Source::Direct, Source::ScraperApi(ScraperApiOptions::default())] {
            let copy = Copy::new(&document.folder());
            let web = serve(&copy).await;
            let pages = read(&house, &web, source.clone()).await;
            if source != Source::Direct {
                asked += pages.len();
            }
            check(document, &web, pages, &expected);
        }
    }
    assert_eq!(api.asked().len(), asked, "each page once, and nobody else read them");
}

#[tokio::test(flavor = "multi_thread")]
async fn titles_that_are_all_in_a_legacy_encoding_are_read_as_another_parser_does() {
    let house = House::start().await;
    let [russian, japanese, ..] = DOCUMENTS;
    for (document, encoding, charset, letters) in
        [(russian, "koi8-r", "KOI8-R", 'а'..='я'), (japanese, "euc-jp", "EUC-JP", 'ァ'..='ヶ')]
    {
        let copy = Copy::reencoded(&document.folder(), encoding, |text| text);
        let expected = titles(&copy.0, encoding);
        let foreign = |title: &String| title.chars().any(|letter| letters.contains(&letter));
        let count = expected.values().filter(|title| foreign(title)).count();
        assert!(count * 2 > expected.len(), "{count} of {expected:?}");
        let web = serve(&copy).await;
        let pages = read(&house, &web, Source::Direct).await;
        check(&Document { charset, ..document }, &web, pages, &expected);
    }
}
