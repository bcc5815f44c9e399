//! A page, and how it ends.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect},
    routing::get,
};
use tokio::sync::Semaphore;
use umbel_proto::TaskState;
use umbel_tasks::{PageCounts, ScrapePage, Status, SweepSites};
use umbel_tests::eventually::{eventually, within};

use super::{Counter, House, PATIENCE, Web, html};

fn alone(url: &str) -> ScrapePage {
    ScrapePage { url: url.parse().unwrap(), page: None }
}

fn ok(title: &str, links: &[&str]) -> Html<String> {
    Html(html(title, links))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_not_there_fails_and_its_site_goes_on() {
    let index = ok("index", &["/there", "/gone"]);
    let web = Web::serve(
        Router::new()
            .route("/", get(async || index))
            .route("/there", get(async || ok("there", &[]))),
    )
    .await;
    let house = House::start().await;
    let worker = house.worker(2);
    let put = house.put(web.url.as_str(), 3, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!((site.status, site.error), (Status::Succeeded, None));
    assert_eq!(site.pages, PageCounts { succeeded: 2, failed: 1, ..PageCounts::default() });
    let gone = house.page(&web.at("gone")).await;
    assert_eq!((gone.status, gone.attempt), (Status::Failed, 1), "no attempt could mend it");
    assert_eq!(gone.error.as_deref(), Some("the host answers with status 404"));
    assert!(gone.finished_at.is_some() && gone.title.is_none());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_own_page_fails_has_failed() {
    let web = Web::serve(Router::new()).await;
    let house = House::start().await;
    let worker = house.worker(1);
    let put = house.put(web.url.as_str(), 3, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!(site.status, Status::Failed);
    assert_eq!(site.error.as_deref(), Some("the host answers with status 404"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_trouble_is_tried_until_it_succeeds_and_its_row_tells_of_it() {
    let (asked, gate) = (Counter::default(), Arc::new(Semaphore::new(0)));
    let (count, opened) = (asked.clone(), gate.clone());
    let answer = async move || {
        if count.next() < 3 {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        let _ = opened.acquire().await;
        ok("at last", &[]).into_response()
    };
    let web = Web::serve(Router::new().route("/", get(answer))).await;
    let house = House::start().await;
    let worker = house.worker(1);
    house.put(web.url.as_str(), 3, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    // The third answer waits for us.
    within(PATIENCE, "the third attempt", async || (asked.get() == 3).then_some(())).await;
    let page = house.page(web.url.as_str()).await;
    assert_eq!((page.status, page.attempt), (Status::Running, 3));
    assert_eq!(page.error.as_deref(), Some("the host answers with status 500"));
    gate.add_permits(1);
    let page = house.ended(web.url.as_str()).await;
    assert_eq!((page.status, page.attempt, page.error), (Status::Succeeded, 3, None));
    assert_eq!(page.title.as_deref(), Some("at last"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_for_patience_burns_no_attempt() {
    let asked = Counter::default();
    let count = asked.clone();
    let answer = async move || {
        if count.next() < 3 {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response();
        }
        ok("at last", &[]).into_response()
    };
    let web = Web::serve(Router::new().route("/", get(answer))).await;
    let house = House::start().await;
    let worker = house.worker(1);
    house.client.enqueue(alone(web.url.as_str())).max_attempts(1).await.unwrap();
    let page = house.ended(web.url.as_str()).await;
    assert_eq!((page.status, page.attempt), (Status::Succeeded, 1));
    assert_eq!(asked.get(), 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_private_network_fails_with_a_sentence() {
    let house = House::with(&[]).await;
    let worker = house.worker(1);
    let put = house.put("http://127.0.0.1/", 3, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    let refused = "`127.0.0.1` does not lead to a public address";
    assert_eq!((site.status, site.error.as_deref()), (Status::Failed, Some(refused)));
    let page = house.page("http://127.0.0.1/").await;
    assert_eq!((page.status, page.error.as_deref()), (Status::Failed, Some(refused)));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_takes_too_long_fails_for_good_with_its_task() {
    let web =
        Web::serve(Router::new().route("/", get(async || std::future::pending::<()>().await)))
            .await;
    let house = House::start().await;
    let worker = house.worker(1);
    let limit = Duration::from_millis(300);
    let task = alone(web.url.as_str());
    let handle = house.client.enqueue(task).time_limit(limit).max_attempts(1).await.unwrap();
    let page = house.ended(web.url.as_str()).await;
    assert_eq!((page.status, page.site_id), (Status::Failed, None));
    assert_eq!(page.error.as_deref(), Some("ran longer than its limit of 300ms"));
    assert_eq!(page.task_id.as_deref(), Some(handle.id().as_str()));
    eventually("the task has failed", async || {
        let record = handle.record().await.unwrap()?;
        (record.state == TaskState::Failed).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_asked_for_by_itself_is_read_each_time_and_leads_nowhere() {
    let asked = Counter::default();
    let count = asked.clone();
    let answer = async move || ok(&format!("the {}.", count.next()), &["/further"]);
    let web = Web::serve(Router::new().route("/", get(answer))).await;
    let house = House::start().await;
    let worker = house.worker(2);
    for time in 1..=2 {
        let handle = house.client.enqueue(alone(web.url.as_str())).await.unwrap();
        let output = house.output(handle.id().clone()).await;
        let page = house.page(web.url.as_str()).await;
        assert_eq!((page.id, page.site_id), (output.id, None));
        assert_eq!(page.title, Some(format!("the {time}.")));
        assert_eq!(page.title, output.title);
    }
    assert_eq!(house.pages().await.len(), 1);
    assert!(house.sites().await.is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_that_read_one_page_at_once_both_succeed() {
    let house = House::start().await;
    let worker = house.worker(2);
    // Whichever ends first, the row is the second one's: it began last.
    for order in [[0, 1], [1, 0]] {
        let (asked, gates) = (Counter::default(), Arc::new([0, 0].map(Semaphore::new)));
        let (count, opened) = (asked.clone(), gates.clone());
        let answer = async move || {
            let number = count.next();
            opened[number as usize - 1].acquire().await.unwrap().forget();
            ok(&format!("answer {number}"), &[])
        };
        let web = Web::serve(Router::new().route("/", get(answer))).await;
        let mut tasks = Vec::new();
        for number in 1..=2 {
            tasks.push(house.client.enqueue(alone(web.url.as_str())).await.unwrap());
            eventually("it reads", async || (asked.get() == number).then_some(())).await;
        }
        for which in order {
            gates[which].add_permits(1);
            let output = tasks[which].wait(PATIENCE).await.unwrap();
            assert_eq!(output.title, Some(format!("answer {}", which + 1)), "{order:?}");
        }
        let page = house.page(web.url.as_str()).await;
        assert_eq!((page.status, page.error), (Status::Succeeded, None));
        assert_eq!(page.title.as_deref(), Some("answer 2"));
        assert_eq!(page.task_id.as_deref(), Some(tasks[1].id().as_str()));
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_no_row_can_bear_fails_and_leaves_no_row() {
    let house = House::start().await;
    let worker = house.worker(1);
    for url in ["ftp://127.0.0.1/", "http://ann:secret@127.0.0.1/"] {
        let handle = house.client.enqueue(alone(url)).await.unwrap();
        let error = handle.wait(PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("failed") && !error.contains("secret"), "{error}");
    }
    let long = format!("http://127.0.0.1/{}", "a".repeat(5000));
    let handle = house.client.enqueue(alone(&long)).await.unwrap();
    assert!(handle.wait(PATIENCE).await.unwrap_err().to_string().contains("2048 bytes"));
    assert!(house.pages().await.is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_where_its_own_page_leads_to_and_ends_where_others_lead_away() {
    let away = Web::serve(
        Router::new()
            .route("/elsewhere", get(async || ok("elsewhere", &["/trap"])))
            .route("/trap", get(async || ok("trap", &[]))),
    )
    .await;
    let leave = away.at("elsewhere");
    let home = Web::serve(
        Router::new()
            .route("/", get(async || ok("home", &["/further", "/leave"])))
            .route("/further", get(async || ok("further", &[])))
            .route("/leave", get(async move || Redirect::temporary(&leave))),
    )
    .await;
    let moved_to = home.url.to_string();
    let old =
        Web::serve(Router::new().route("/", get(async move || Redirect::permanent(&moved_to))))
            .await;
    let house = House::start().await;
    let worker = house.worker(2);
    let put = house.put(old.url.as_str(), 5, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    house.scraped(put.id).await;
    let mut found: Vec<_> = house.pages().await.into_iter().map(|p| (p.url, p.title)).collect();
    found.sort_unstable();
    let mut expected = [
        (old.url.to_string(), "home"),
        (home.at("further"), "further"),
        (home.at("leave"), "elsewhere"),
    ]
    .map(|(url, title)| (url, Some(title.to_owned())));
    expected.sort_unstable();
    assert_eq!(found, expected);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_site_that_two_tasks_read_at_once_fails_neither() {
    let gate = Arc::new(Semaphore::new(0));
    let (asked, opened) = (Counter::default(), gate.clone());
    let count = asked.clone();
    let answer = async move || {
        count.next();
        opened.acquire().await.map_err(|_| StatusCode::GONE)?.forget();
        Ok::<_, StatusCode>(Html(html("read by two", &[])))
    };
    let web = Web::serve(Router::new().route("/", get(answer))).await;
    let house = House::start().await;
    let site = house.put(web.url.as_str(), 3, 100).await.id;
    house.claim_and_plan().await;
    let page = house.app.pages.pending(Some(site), 0, 9).await.unwrap().pop().unwrap().page;
    let worker = house.worker_for(&["scrape"], 2);
    let mut tasks = Vec::new();
    for number in 1..=2 {
        let task = ScrapePage { url: web.url.clone(), page: Some(page) };
        tasks.push(house.client.enqueue(task).await.unwrap());
        eventually("it reads", async || (asked.get() == number).then_some(())).await;
    }
    gate.add_permits(2);
    for task in &tasks {
        let output = task.wait(PATIENCE).await.unwrap();
        assert_eq!(output.title.as_deref(), Some("read by two"));
    }
    assert_eq!(house.scraped(site).await.status, Status::Succeeded);
    let row = house.page(web.url.as_str()).await;
    assert_eq!((row.status, row.error), (Status::Succeeded, None));
    worker.stop().await;
}

/// Postgres takes no NUL in a text, and no half of a character in JSON.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_page_holds_makes_it_unstorable() {
    let mut page =
        String::from("<!doctype html><html lang='d\0e&#0;'><head><title>a\0&#0;b</title>");
    for odd in ["\0", "&#0;", "&#xD800;", "%00", "\u{fffe}", "\u{1b}", "\\u0000", "\\ud800"] {
        page += &format!(
            "<meta name='description' content='d{odd}'><meta name='generator' content='g{odd}'>
             <meta name='robots' content='index{odd}'>
             <meta property='og:title{odd}' content='o{odd}'>
             <meta name='twitter:card{odd}' content='t{odd}'>
             <link rel='canonical' href='/c{odd}'><link rel='icon' href='/i{odd}' sizes='1{odd}'>
             <link rel='alternate' type='application/rss+xml' href='/f{odd}' title='f{odd}'>
             <link rel='alternate' hreflang='d{odd}' href='/l{odd}'>
             <script type='application/ld+json'>{{\"@type\": [\"Product\", \"T{odd}\"],
                 \"name\": \"n{odd}\", \"brand\": {{\"name\": \"b{odd}\"}}, \"k{odd}\": 1}}</script>
             <a href='mailto:a{odd}@b.example'>m</a><a href='mailto:a@b{odd}.example'>m</a>
             <a href='tel:123{odd}45'>t</a><a href='https://x.com/lamps{odd}'>x</a>
             <a href='/p{odd}?q={odd}#{odd}'>p</a>
             <div itemscope itemtype='https://schema.org/Article urn:t{odd}'>
             <span itemprop='headline'>h{odd}</span><meta itemprop='author{odd}' content='a{odd}'>
             </div>"
        );
    }
    // The same where each byte is a letter, and no text at all.
    let whole = page.clone().into_bytes();
    let cut = [page.as_bytes(), &[0xff, 0xfe, 0x00, 0xed, 0xa0, 0x80]].concat();
    let kind = |charset: &str| [(header::CONTENT_TYPE, format!("text/html; charset={charset}"))];
    let (utf8, latin, wide) = (kind("utf-8"), kind("windows-1252"), kind("utf-16le"));
    let (two, three) = (cut.clone(), cut.clone());
    let rules =
        b"User-agent: *\nDisallow: /private\0\nSitemap: http://a\0/\nCrawl-delay: nan\n\0\xff";
    let router = Router::new()
        .route("/robots.txt", get(async move || rules.to_vec()))
        .route("/", get(async move || (utf8, whole)))
        .route("/latin", get(async move || (latin, two)))
        .route("/wide", get(async move || (wide, three)));
    let web = Web::serve(router).await;
    let house = House::start().await;
    let worker = house.worker(2);
    for path in ["", "latin", "wide"] {
        house.put(&web.at(path), 0, 1).await;
    }
    house.client.enqueue(SweepSites {}).await.unwrap();
    for path in ["", "latin", "wide"] {
        let page = house.ended(&web.at(path)).await;
        assert_eq!((page.status, page.attempt), (Status::Succeeded, 1), "{path}: {:?}", page.error);
    }
    let page = house.page(&web.at("")).await;
    assert!(page.title.unwrap().starts_with('a') && page.contacts.is_some());
    worker.stop().await;
}

/// Pages may say as much as is kept of them, and an answer has an end all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_large_pages_comes_in_parts() {
    let house = House::start().await;
    // Each as large as 200 KiB of JSON, and one that is larger than an answer.
    house.database.sql(
        "insert into pages (url, status, things)
         select 'https://example.com/' || n, 'succeeded',
             jsonb_build_array(jsonb_build_object('text', repeat('x', case when n = 3 then 2000000 else 200000 end)))
         from generate_series(1, 12) as n",
    );
    let (mut parts, mut after) = (Vec::new(), 0);
    loop {
        let filter = umbel_tasks::PageFilter { after, limit: 500, ..Default::default() };
        let part = house.app.pages.list(&filter).await.unwrap();
        let Some(last) = part.last() else { break };
        after = last.id;
        parts.push(part.len());
    }
    assert_eq!(parts, [2, 1, 5, 4]);
}
