//! What hosts ask of their visitors.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use umbel_tasks::{PageCounts, ScrapePage, Status, SweepSites};
use umbel_tests::eventually::within;

use super::{Counter, House, PATIENCE, Web, html};

/// How far requests may be off their turns, in any window of time: what a busy machine needs to bring
/// one from its turn to the clock of the host.
const OFF: Duration = Duration::from_millis(100);

/// By how much the requests of a host came too soon, in the window where that is most: any number of
/// them in a row takes that many times `every` from the first to the last, less one.
fn too_soon(came: &[Instant], every: Duration) -> Duration {
    let mut most = Duration::ZERO;
    for (first, from) in came.iter().enumerate() {
        for (more, to) in (1..).zip(&came[first + 1..]) {
            most = most.max((every * more).saturating_sub(*to - *from));
        }
    }
    most
}

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

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_only_a_sitemap_names_are_found_within_the_limits_of_the_site() {
    let at = std::sync::Arc::new(std::sync::OnceLock::<url::Url>::new());
    let known = at.clone();
    let here = move |path: &str| known.get().unwrap().join(path).unwrap().to_string();
    let (rules, index, map) = (here.clone(), here.clone(), here);
    let page = |title: &'static str| get(async move || Html(html(title, &[])));
    let router = Router::new()
        .route(
            "/robots.txt",
            get(async move || {
                let index = rules("/maps/index");
                format!("User-agent: *\nDisallow: /private/\nSitemap: {index}\n")
            }),
        )
        .route(
            "/maps/index",
            get(async move || {
                let all = [
                    index("/maps/pages"),
                    "http://169.254.169.254/map".into(),
                    index("/maps/gone"),
                ];
                all.map(|map| format!("<sitemap><loc>{map}</loc></sitemap>")).concat()
            }),
        )
        .route(
            "/maps/pages",
            get(async move || {
                let pages = ["/a", "/private/b", "/a", "/c", "/d", "/e"].map(&map);
                let all = [&pages[..], &["https://elsewhere.example/".to_owned()]].concat();
                all.iter().map(|page| format!("<url><loc>{page}</loc></url>")).collect::<String>()
            }),
        )
        .route("/", page("home"))
        .route("/{page}", page("named"))
        .route("/private/{page}", page("private"));
    let web = Web::serve(router).await;
    at.set(web.url.clone()).unwrap();
    let house = House::start().await;
    let worker = house.worker(2);
    let put = house.put(web.url.as_str(), 1, 4).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 4, ..PageCounts::default() });
    assert_eq!(site.sitemap_error, None, "there were enough pages without the other maps");
    let mut urls: Vec<_> = house.pages().await.into_iter().map(|page| page.url).collect();
    urls.sort_unstable();
    assert_eq!(urls, ["", "a", "c", "d"].map(|path| web.at(path)));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_together_keep_the_pace_of_a_host_and_leave_it_alone_when_it_says_so() {
    const EVERY: Duration = Duration::from_millis(300);
    const PAUSE: Duration = Duration::from_secs(2);
    const PAGES: usize = 10;
    let visits: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = visits.clone();
    let page = move |home: bool| {
        let seen = seen.clone();
        async move {
            let mut seen = seen.lock().unwrap();
            seen.push(Instant::now());
            let links = ["/p/1", "/p/2", "/p/3", "/p/4", "/p/5", "/p/6", "/p/7", "/p/8", "/p/9"];
            match seen.len() {
                // The last that comes before the pause.
                4 => Err((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "2")])),
                _ => Ok(Html(html("page", if home { &links } else { &[] }))),
            }
        }
    };
    let other = page.clone();
    let router = Router::new()
        .route("/", get(async move || page(true).await))
        .route("/p/{n}", get(async move || other(false).await));
    let web = Web::serve(router).await;
    let settings = [("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"), ("HOST_EVERY", "300ms")];
    let house = House::with(&settings).await;
    let workers = [house.worker(4), house.worker(4), house.worker(4)];
    let put = house.put(web.url.as_str(), 2, 100).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    house.scraped(put.id).await;
    within(PATIENCE, "every page is read", async || {
        (visits.lock().unwrap().len() > PAGES).then_some(())
    })
    .await;
    let visits = visits.lock().unwrap().clone();
    let soon = too_soon(&visits, EVERY);
    assert!(soon <= OFF, "{soon:?} too soon: {visits:?}");
    let left_alone = visits[4] - visits[3];
    assert!(left_alone + OFF >= PAUSE, "only for {left_alone:?}");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_fifty_hosts_is_visited_at_its_own_pace_whichever_of_three_workers_comes() {
    const EVERY: Duration = Duration::from_secs(1);
    const HOSTS: usize = 50;
    /// When each visit of a host began, and how many were there at once at most.
    #[derive(Default)]
    struct Visits {
        began: Vec<Instant>,
        now: usize,
        most: usize,
    }
    let house = House::with(&[("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"), ("HOST_EVERY", "1s")]).await;
    let mut hosts = Vec::new();
    for _ in 0..HOSTS {
        let visits: Arc<Mutex<Visits>> = Arc::default();
        // Whatever is asked for, robots.txt and the sitemap included.
        let seen = visits.clone();
        let answer = async move |uri: Uri| {
            {
                let mut visits = seen.lock().unwrap();
                visits.began.push(Instant::now());
                visits.now += 1;
                visits.most = visits.most.max(visits.now);
            }
            tokio::time::sleep(EVERY * 3 / 2).await;
            seen.lock().unwrap().now -= 1;
            match uri.path() {
                "/" => Ok(Html(html("page", &["/a", "/b"]))),
                "/a" | "/b" => Ok(Html(html("page", &[]))),
                _ => Err(StatusCode::NOT_FOUND),
            }
        };
        let router = Router::new().fallback(answer);
        hosts.push((Web::serve(router).await, visits));
    }
    for (web, _) in &hosts {
        house.put(web.url.as_str(), 1, 10).await;
    }
    let workers = [house.worker(16), house.worker(16), house.worker(16)];
    house.client.enqueue(SweepSites {}).await.unwrap();
    within(PATIENCE * 3, "all pages are read", async || {
        let done = house.database.sql("select count(*) from pages where status = 'succeeded'");
        (done == (3 * HOSTS).to_string()).then_some(())
    })
    .await;
    for (web, visits) in &hosts {
        let visits = visits.lock().unwrap();
        assert_eq!(visits.began.len(), 5, "{}", web.url);
        let soon = too_soon(&visits.began, EVERY);
        assert!(soon <= OFF, "{}: {soon:?} too soon: {:?}", web.url, visits.began);
        assert!(visits.most <= 2, "{} at once at {}", visits.most, web.url);
    }
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_it_is_asked_too_much_is_left_alone_at_once_by_all_workers() {
    const PAUSE: Duration = Duration::from_secs(2);
    /// So long a worker may take to hear of it.
    const AT_ONCE: Duration = Duration::from_millis(100);
    /// The pages of the host, and how many of them are read before it has had enough.
    const PAGES: usize = 60;
    const ENOUGH: usize = 20;
    /// When each request came, by the clock of the host, and when it said that it is too much.
    #[derive(Default)]
    struct Seen {
        came: Vec<Instant>,
        refused: Option<Instant>,
    }
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let log = seen.clone();
    let answer = async move |uri: Uri| {
        let mut seen = log.lock().unwrap();
        seen.came.push(Instant::now());
        if seen.came.len() == ENOUGH {
            seen.refused = Some(Instant::now());
            return Err((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "2")]));
        }
        let links: Vec<String> = (0..PAGES).map(|page| format!("/p/{page}")).collect();
        let links: Vec<&str> = links.iter().map(String::as_str).collect();
        match uri.path() {
            "/" => Ok(Html(html("home", &links))),
            "/robots.txt" | "/sitemap.xml" => {
                Err((StatusCode::NOT_FOUND, [(header::RETRY_AFTER, "0")]))
            }
            _ => Ok(Html(html("page", &[]))),
        }
    };
    let web = Web::serve(Router::new().fallback(answer)).await;
    // So fast that all pages would be read within the pause: whoever does not hear of it is seen.
    let settings = [("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"), ("HOST_EVERY", "20ms")];
    let house = House::with(&settings).await;
    let workers = [house.worker(8), house.worker(8), house.worker(8)];
    let put = house.put(web.url.as_str(), 1, 1 + PAGES as u32).await;
    house.client.enqueue(SweepSites {}).await.unwrap();
    let site = house.scraped(put.id).await;
    assert_eq!(site.pages, PageCounts { succeeded: 1 + PAGES as u64, ..PageCounts::default() });
    for worker in workers {
        worker.stop().await;
    }
    let seen = seen.lock().unwrap();
    let refused = seen.refused.expect("the host has had enough");
    let after = |from: Duration, to: Duration| {
        let time = refused + from..refused + to;
        seen.came.iter().filter(|came| time.contains(*came)).count()
    };
    let late = after(AT_ONCE, PAUSE);
    assert_eq!(late, 0, "came later than {AT_ONCE:?} after it");
    // Each page was read once, and the one that was refused twice: nobody has given up.
    assert_eq!(seen.came.len(), 2 + 1 + PAGES + 1);
    assert!(after(PAUSE, PATIENCE) > 0, "there was something left to ask for");
}

/// A host that answers as `answer` says, and tells when it was asked.
async fn host(
    answer: impl Fn(&Uri) -> Response + Clone + Send + Sync + 'static,
) -> (Web, Arc<Mutex<Vec<Instant>>>) {
    let came: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = came.clone();
    let answer = async move |uri: Uri| {
        seen.lock().unwrap().push(Instant::now());
        answer(&uri)
    };
    (Web::serve(Router::new().fallback(answer)).await, came)
}

/// A host whose pages are on another.
async fn moved(to: &Web) -> (Web, Arc<Mutex<Vec<Instant>>>) {
    let to = to.url.clone();
    host(move |uri| Redirect::to(to.join(uri.path()).unwrap().as_str()).into_response()).await
}

fn page() -> Response {
    Html(html("page", &[])).into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_takes_its_turn_there_beside_all_others() {
    const EVERY: Duration = Duration::from_millis(400);
    const PAGES: usize = 4;
    let (target, at_target) = host(|_| page()).await;
    let (one, at_one) = moved(&target).await;
    let (other, at_other) = moved(&target).await;
    let settings = [("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"), ("HOST_EVERY", "400ms")];
    let house = House::with(&settings).await;
    let workers = [house.worker(4), house.worker(4)];
    let mut reading = Vec::new();
    for number in 0..PAGES {
        for web in [&one, &other, &target] {
            let url = web.at(&format!("{}/{number}", web.url.port().unwrap())).parse().unwrap();
            reading.push(house.client.enqueue(ScrapePage { url, page: None }).await.unwrap());
        }
    }
    for page in reading {
        page.wait(PATIENCE).await.unwrap();
    }
    assert!(house.pages().await.iter().all(|page| page.attempt == 1));
    assert_eq!(at_target.lock().unwrap().len(), 3 * PAGES);
    for came in [at_one, at_other, at_target] {
        let came = came.lock().unwrap();
        let soon = too_soon(&came, EVERY);
        assert!(soon <= OFF, "{soon:?} too soon: {came:?}");
    }
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_within_a_host_keeps_its_pace_and_is_not_put_off_by_a_long_one() {
    let answer = |uri: &Uri| match uri.path().strip_prefix("/old") {
        Some(path) => Redirect::to(path).into_response(),
        None => page(),
    };
    for (every, pages, pace) in
        [("500ms", 4, Duration::from_millis(500)), ("1h", 1, Duration::from_secs(5))]
    {
        let (web, came) = host(answer).await;
        let settings = [("SCRAPE_ALLOW_PRIVATE", "127.0.0.1"), ("HOST_EVERY", every)];
        let house = House::with(&settings).await;
        let workers = [house.worker(4), house.worker(4)];
        let mut reading = Vec::new();
        for number in 0..pages {
            let url = web.at(&format!("old/{number}")).parse().unwrap();
            reading.push(house.client.enqueue(ScrapePage { url, page: None }).await.unwrap());
        }
        for page in reading {
            page.wait(PATIENCE).await.unwrap();
        }
        let came = came.lock().unwrap().clone();
        assert_eq!(came.len(), 2 * pages, "every {every}: nothing is asked twice");
        let soon = too_soon(&came, pace);
        assert!(soon <= OFF, "every {every}: {soon:?} too soon: {came:?}");
        for worker in workers {
            worker.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_a_redirect_leads_to_is_left_alone_when_it_says_so_and_the_first_is_not() {
    let (target, at_target) =
        host(|_| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "600")]).into_response())
            .await;
    let to = target.at("there");
    let (first, _) = host(move |uri| match uri.path() {
        "/moved" => Redirect::to(&to).into_response(),
        _ => page(),
    })
    .await;
    let house = House::start().await;
    let worker = house.worker(2);
    let read = async |url: String| {
        let task = ScrapePage { url: url.parse().unwrap(), page: None };
        house.client.enqueue(task).await.unwrap()
    };
    let noted = async |url: &str, class: &str| {
        within(PATIENCE, "it is noted why the page waits", async || {
            let page = house.pages().await.into_iter().find(|page| page.url == url)?;
            (page.error_class.as_deref() == Some(class)).then_some(())
        })
        .await;
    };
    let _waits = read(first.at("moved")).await;
    noted(&first.at("moved"), "status").await;
    read(first.at("stays")).await.wait(PATIENCE).await.unwrap();
    let _waits_too = read(target.at("other")).await;
    noted(&target.at("other"), "deferred").await;
    assert_eq!(at_target.lock().unwrap().len(), 1, "nobody else asked it");
    worker.stop().await;
}
