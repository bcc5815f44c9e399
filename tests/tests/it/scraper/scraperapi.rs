//! Sites that ScraperAPI fetches for us.

use std::time::Duration;

use axum::{
    Router,
    http::{HeaderMap, StatusCode, Uri, header},
    response::Redirect,
    routing::get,
};
use chrono::{TimeDelta, Utc};
use umbel_tasks::{Ledger, PageCounts, Put, ScraperApiOptions, SiteOptions, Source, Status};
use umbel_tests::{
    eventually::{eventually, within},
    pages::Pages,
    scraperapi::FakeScraperApi,
};

use super::{Folder, House, PATIENCE, Web, html};

const KEY: &str = "canary-0b5f7e2d";

async fn house(api: &FakeScraperApi, more: &[(&str, &str)]) -> House {
    let url = api.url();
    let env = [
        ("SCRAPE_ALLOW_PRIVATE", "127.0.0.1,localhost"),
        ("SCRAPERAPI_KEY", KEY),
        ("SCRAPERAPI_URL", &*url),
    ];
    House::with(&[&env[..], more].concat()).await
}

async fn put(house: &House, url: &str, options: ScraperApiOptions) -> Put {
    let options = SiteOptions {
        url: url.parse().unwrap(),
        owner: None,
        max_depth: Some(3),
        max_pages: Some(100),
        every_s: None,
        source: Some(Source::ScraperApi(options)),
    };
    let put = house.app.sites.put(&options, 3600).await.unwrap();
    house.client.enqueue(umbel_tasks::SweepSites {}).await.unwrap();
    put
}

/// The one source there is, as it is shown.
async fn source(house: &House) -> umbel_tasks::SourceStatus {
    house.app.ledger.list(Utc::now()).await.unwrap().pop().expect("a source was used")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_read_through_the_service_as_its_options_say_and_the_credits_are_counted() {
    let folder = Folder::new().page("index", &["a.html", "gone.html"]).page("a", &[]);
    let web = Pages::start(&folder.0, Duration::ZERO).await.unwrap();
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[]).await;
    let worker = house.worker(2);
    let options = ScraperApiOptions {
        render: true,
        country_code: Some("ch".to_owned()),
        session_number: Some(7),
        ..Default::default()
    };
    let url = format!("{}index.html", web.url());
    let site = put(&house, &url, options.clone()).await.id;
    let site = house.scraped(site).await;
    assert_eq!(site.source, Source::ScraperApi(options));
    assert_eq!(site.pages, PageCounts { succeeded: 2, failed: 1, ..PageCounts::default() });
    let first = house.page(&url).await;
    assert_eq!((first.title.as_deref(), first.final_url.as_deref()), (Some("index"), Some(&*url)));
    let gone = house.page(&format!("{}gone.html", web.url())).await;
    assert_eq!((gone.error_class.as_deref(), gone.http_status), (Some("status"), Some(404)));

    let asked = api.asked();
    assert_eq!((asked.len(), web.hits().values().sum::<u64>()), (3, 3), "nobody else read them");
    for request in asked {
        let shown: Vec<_> = request.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let options = ["country_code=ch", "render=true", "session_number=7"];
        assert!(
            shown.len() == 4 && options.iter().all(|it| shown.contains(&(*it).into())),
            "{shown:?}"
        );
    }
    // 404 is charged like a page.
    let counted = source(&house).await;
    assert_eq!(
        (&*counted.name, counted.spent_today, counted.requests_today),
        ("scraperapi", 30, 3)
    );
    assert_eq!(counted.stopped_until, None);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_service_was_led_to_is_where_the_page_is() {
    let web = Web::serve(
        Router::new()
            .route("/", get(async || Redirect::permanent("/home/")))
            .route("/home/", get(async || axum::response::Html(html("home", &["further"]))))
            .route("/home/further", get(async || axum::response::Html(html("further", &[])))),
    )
    .await;
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[]).await;
    let worker = house.worker(1);
    put(&house, web.url.as_str(), ScraperApiOptions::default()).await;
    let further = house.ended(&web.at("home/further")).await;
    assert_eq!(further.title.as_deref(), Some("further"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_wants_nothing_of_us_is_read_through_the_service_at_once() {
    // We say who we are; the service does not.
    let answer = async |headers: HeaderMap, uri: Uri| {
        let is_us = headers.get(header::USER_AGENT).is_some();
        match (is_us, uri.path()) {
            (true, _) => Err((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "3600")])),
            (false, "/") => Ok(axum::response::Html(html("home", &["/a"]))),
            (false, _) => Ok(axum::response::Html(html("a", &[]))),
        }
    };
    let web = Web::serve(Router::new().fallback(answer)).await;
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[]).await;
    let worker = house.worker(2);
    let site = put(&house, web.url.as_str(), ScraperApiOptions::default()).await.id;
    let site = house.scraped(site).await;
    assert_eq!(site.pages, PageCounts { succeeded: 2, ..PageCounts::default() });
    assert!(site.sitemap_error.unwrap().ends_with("sitemap.xml: the host answers with status 429"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_trouble_is_asked_again_and_one_that_wants_a_pause_costs_no_attempt() {
    let web =
        Web::serve(Router::new().route("/", get(async || axum::response::Html(html("x", &[])))));
    let web = web.await;
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    api.refuse_with(&[429, 500]);
    let house = house(&api, &[]).await;
    let worker = house.worker(1);
    put(&house, web.url.as_str(), ScraperApiOptions::default()).await;
    let page = house.ended(web.url.as_str()).await;
    assert_eq!((page.status, page.attempt, page.error_class), (Status::Succeeded, 2, None));
    assert_eq!(api.asked().len(), 3);
    let counted = source(&house).await;
    assert_eq!((counted.spent_today, counted.requests_today), (1, 3), "only the page is paid for");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_out_of_credits_or_with_another_key_is_stopped_and_says_so() {
    for (status, why) in [
        (403, "scraperapi is out of credits"),
        (401, "scraperapi refuses the key: SCRAPERAPI_KEY must be right"),
    ] {
        let api = FakeScraperApi::start(KEY, 0).await.unwrap();
        api.refuse_with(&[status]);
        let house = house(&api, &[]).await;
        let worker = house.worker(1);
        put(&house, "http://127.0.0.1:9/one", ScraperApiOptions::default()).await;
        let stopped = eventually("it is stopped", async || {
            house
                .app
                .ledger
                .list(Utc::now())
                .await
                .unwrap()
                .pop()
                .filter(|it| it.stopped_until.is_some())
        })
        .await;
        assert_eq!(stopped.stopped_why.as_deref(), Some(why));
        assert_eq!(stopped.spent_today, 0);
        let wait = stopped.stopped_until.unwrap() - Utc::now();
        assert!((TimeDelta::minutes(58)..TimeDelta::minutes(61)).contains(&wait), "{wait}");
        // Another page does not ask, and waits too.
        put(&house, "http://127.0.0.1:9/two", ScraperApiOptions::default()).await;
        for path in ["one", "two"] {
            let url = format!("http://127.0.0.1:9/{path}");
            let page = within(PATIENCE, "it is deferred", async || {
                let page = house.pages().await.into_iter().find(|page| page.url == url)?;
                page.error.is_some().then_some(page)
            })
            .await;
            assert_eq!((page.status, page.attempt), (Status::Queued, 1));
            assert_eq!(page.error_class.as_deref(), Some("deferred"));
            assert_eq!(page.error.as_deref(), Some(why));
        }
        assert_eq!(api.asked().len(), 1);
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_beyond_the_budget_of_a_day_waits_for_the_next_day() {
    let folder = Folder::new().page("index", &["a.html", "b.html"]).page("a", &[]).page("b", &[]);
    let web = Pages::start(&folder.0, Duration::ZERO).await.unwrap();
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[("SCRAPERAPI_DAILY_CREDITS", "2")]).await;
    let worker = house.worker(2);
    let put = put(&house, &format!("{}index.html", web.url()), ScraperApiOptions::default()).await;
    let deferred = eventually("one is deferred", async || {
        house.pages().await.into_iter().find(|it| it.error_class.as_deref() == Some("deferred"))
    })
    .await;
    assert_eq!((deferred.status, deferred.attempt), (Status::Queued, 1));
    assert!(deferred.error.unwrap().starts_with("the credits of scraperapi for 2"));
    within(PATIENCE, "the other is read", async || {
        (house.site(put.id).await.pages.succeeded == 2).then_some(())
    })
    .await;
    assert_eq!((source(&house).await.spent_today, api.asked().len()), (2, 2));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_reserve_at_once_none_goes_over_the_budget() {
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[]).await;
    let now = Utc::now();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let ledger: Ledger = house.app.ledger.clone();
        all.spawn(async move { ledger.reserve("s", 3, Some(100), now).await.unwrap().is_ok() });
    }
    assert_eq!(all.join_all().await.into_iter().filter(|taken| *taken).count(), 33);
    // Tomorrow there are new ones, and what cost less makes room again.
    let tomorrow = now + TimeDelta::days(1);
    let reserved = house.app.ledger.reserve("s", 100, Some(100), tomorrow).await.unwrap().unwrap();
    let full = house.app.ledger.reserve("s", 1, Some(100), tomorrow).await.unwrap().unwrap_err();
    assert_eq!(full.until.date_naive(), (tomorrow + TimeDelta::days(1)).date_naive());
    house.app.ledger.settle(&reserved, 99).await.unwrap();
    house.app.ledger.reserve("s", 1, Some(100), tomorrow).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_judged_as_if_we_fetched_them_and_without_a_key_none_is_fetched() {
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[("SCRAPE_ALLOW_PRIVATE", "127.0.0.9")]).await;
    let worker = house.worker(1);
    for url in ["http://169.254.169.254/latest/", "http://localhost/", "http://127.0.0.1:6379/"] {
        put(&house, url, ScraperApiOptions::default()).await;
        let page = house.ended(url).await;
        assert_eq!((page.status, page.error_class.as_deref()), (Status::Failed, Some("refused")));
    }
    assert!(api.asked().is_empty());
    worker.stop().await;

    let house = House::start().await;
    let worker = house.worker(1);
    put(&house, "http://127.0.0.1:9/", ScraperApiOptions::default()).await;
    let page = house.ended("http://127.0.0.1:9/").await;
    assert!(page.error.unwrap().contains("SCRAPERAPI_KEY is not set"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_in_no_row_no_task_and_no_error() {
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    // It answers once, and then is gone: the client's own errors name where they went.
    api.refuse_with(&[500]);
    let house = house(&api, &[]).await;
    let worker = house.worker(1);
    let gone = house.app.settings.scraperapi.url.clone();
    put(&house, "http://127.0.0.1:9/", ScraperApiOptions::default()).await;
    eventually("it was asked", async || (!api.asked().is_empty()).then_some(())).await;
    drop(api);
    let page = within(PATIENCE, "the service is missed", async || {
        let page = house.pages().await.pop()?;
        (page.error_class.as_deref() == Some("unreachable")).then_some(page)
    })
    .await;
    assert!(!gone.as_str().contains(KEY));
    let ended = house.ended("http://127.0.0.1:9/").await;
    assert_eq!((ended.status, ended.attempt), (Status::Failed, 5));
    let tables = ["sites", "pages", "sources", "credits", "umbel_steps"];
    let rows: String = tables
        .map(|table| house.database.sql(&format!("select row_to_json(t)::text from {table} t")))
        .concat();
    assert!(rows.contains("127.0.0.1:9") && !rows.contains(KEY), "{rows}");
    assert!(!format!("{page:?} {:?}", house.app).contains(KEY));
    let dump = house.redis.cli(&["-e", "EVAL", DUMP, "0"]);
    assert!(dump.contains("pages.scrape") && !dump.contains(KEY), "{dump}");
    worker.stop().await;
}

/// All that Redis has, in one text.
const DUMP: &str = "
    local all = {}
    for _, key in ipairs(redis.call('KEYS', '*')) do
      local kind = redis.call('TYPE', key).ok
      if kind == 'stream' then
        for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
          all[#all + 1] = table.concat(entry[2], ' ')
        end
      elseif kind == 'hash' then
        all[#all + 1] = table.concat(redis.call('HGETALL', key), ' ')
      end
    end
    return table.concat(all, '\\n')";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_no_days_budget_pays_for_fails_and_says_why() {
    let api = FakeScraperApi::start(KEY, 0).await.unwrap();
    let house = house(&api, &[("SCRAPERAPI_DAILY_CREDITS", "9")]).await;
    let worker = house.worker(1);
    let dear = ScraperApiOptions { render: true, ..Default::default() };
    put(&house, "http://127.0.0.1:9/", dear).await;
    let page = house.ended("http://127.0.0.1:9/").await;
    assert_eq!((page.status, page.attempt), (Status::Failed, 1));
    assert_eq!(page.error_class.as_deref(), Some("source-budget"));
    let why = page.error.unwrap();
    assert!(why.contains("costs 10 credits") && why.contains("DAILY_CREDITS is 9"), "{why}");
    assert!(api.asked().is_empty());
    worker.stop().await;
}

/// The service counts a request that was cut off: what may have been spent is never left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_sent_and_not_answered_counts_as_a_page() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // It takes the request, and hangs up.
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 4096]).await;
        }
    });
    let settings =
        [("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"), ("SCRAPERAPI_KEY", KEY), ("SCRAPERAPI_URL", &*url)];
    let house = House::with(&settings).await;
    let worker = house.worker(1);
    let dear = ScraperApiOptions { premium: true, render: true, ..Default::default() };
    put(&house, "http://127.0.0.1:9/", dear).await;
    within(PATIENCE, "an attempt has failed", async || {
        let page = house.pages().await.pop()?;
        page.error_class.filter(|class| class == "unreachable")
    })
    .await;
    let counted = source(&house).await;
    assert_eq!(counted.spent_today, 25 * counted.requests_today);
    worker.stop().await;
}
