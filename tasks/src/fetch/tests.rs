//! The fetcher against real servers on loopback, which the settings of most tests allow.

use std::{
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Redirect},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const HTML: (HeaderName, &str) = (header::CONTENT_TYPE, "text/html");

/// A server, and a fetcher that may reach it.
struct House {
    address: SocketAddr,
    fetcher: Fetcher,
}

impl House {
    async fn open(routes: Router) -> Self {
        Self::with(routes, FetchSettings::default()).await
    }

    async fn with(routes: Router, settings: FetchSettings) -> Self {
        let address = serve(routes).await;
        let allowed_private = vec![address.to_string().parse().unwrap()];
        Self { address, fetcher: fetcher(FetchSettings { allowed_private, ..settings }) }
    }

    fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    async fn fetch(&self, path: &str) -> Result<FetchedPage, FetchError> {
        read(&self.fetcher, &self.url(path), Reading::Whole).await
    }
}

/// The page that an address leads to, by whichever way.
pub(super) async fn read(
    fetcher: &Fetcher,
    url: &Url,
    reading: Reading,
) -> Result<FetchedPage, FetchError> {
    let mut trail = fetcher.trail(url, fetcher.settings.timeout);
    loop {
        match fetcher.read_page(&trail, reading).await? {
            Hop::Arrived(page) => return Ok(page),
            Hop::Moved { to, .. } => trail.moved(to)?,
        }
    }
}

fn fetcher(settings: FetchSettings) -> Fetcher {
    // An error means that another test of this process was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Fetcher::new(settings).unwrap()
}

async fn serve(routes: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, routes).into_future());
    address
}

/// One route that answers any path with the same.
fn answer(response: impl IntoResponse + Clone + Send + Sync + 'static) -> Router {
    Router::new().fallback(move || {
        let response = response.clone();
        async move { response }
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn title(fetched: &FetchedPage) -> Option<&str> {
    fetched.page.metadata.title.as_deref()
}

#[tokio::test]
async fn a_page_is_fetched_and_read() {
    let html = "<title>Welcome</title><a href=/next>";
    let house = House::open(answer(Html(html))).await;
    let fetched = house.fetch("/home?a=1").await.unwrap();

    assert_eq!(fetched.status, 200);
    assert_eq!(fetched.final_url, house.url("/home?a=1"));
    assert_eq!(title(&fetched), Some("Welcome"));
    assert_eq!(fetched.page.links, [house.url("/next")]);
    assert_eq!((fetched.bytes, fetched.truncated), (html.len(), false));
}

#[tokio::test]
async fn we_name_ourselves_and_ask_for_html() {
    let echo = |headers: axum::http::HeaderMap| async move {
        let header = |name| headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or("-");
        Html(format!("<title>{} {}</title>", header("user-agent"), header("accept")))
    };
    let house = House::open(Router::new().fallback(echo)).await;
    let fetched = house.fetch("/").await.unwrap();
    let agent = FetchSettings::default().user_agent;
    assert_eq!(title(&fetched).unwrap(), format!("{agent} text/html,application/xhtml+xml"));
}

fn redirects() -> Router {
    Router::new()
        .route("/0", get(|| async { Html("<title>Arrived</title><a href=a>") }))
        .route(
            "/{left}",
            get(|path: axum::extract::Path<usize>| async move {
                // The first hops stay relative, the last one is absolute in its path.
                Redirect::temporary(&if path.0 > 1 {
                    format!("{}?from={}", path.0 - 1, path.0)
                } else {
                    "/0#top".to_owned()
                })
            }),
        )
        .route("/loop/a", get(|| async { Redirect::permanent("/loop/b") }))
        .route("/loop/b", get(|| async { Redirect::to("a") }))
        .route("/broken", get(|| async { (StatusCode::FOUND, [(header::LOCATION, "http://[")]) }))
        .route("/nowhere", get(|| async { StatusCode::FOUND }))
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_the_setting_says() {
    let house = House::open(redirects()).await;
    let fetched = house.fetch("/5").await.unwrap();
    assert_eq!(title(&fetched), Some("Arrived"));
    assert_eq!(fetched.final_url, house.url("/0#top"));

    let error = house.fetch("/6").await.unwrap_err();
    assert!(matches!(error, FetchError::TooManyRedirects { limit: 5 }) && error.is_fatal());

    let settings = FetchSettings { max_redirects: 0, ..Default::default() };
    let house = House::with(redirects(), settings).await;
    assert_eq!(title(&house.fetch("/0").await.unwrap()), Some("Arrived"));
    assert!(matches!(house.fetch("/1").await, Err(FetchError::TooManyRedirects { limit: 0 })));
}

#[tokio::test]
async fn a_redirect_in_circles_or_to_nowhere_ends() {
    let house = House::open(redirects()).await;
    for (path, expected) in [
        ("/loop/a", "the page redirects more than 5 times"),
        ("/broken", "the page redirects to something that is no address"),
        ("/nowhere", "the host answers with status 302"),
    ] {
        let error = house.fetch(path).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.is_fatal());
    }
}

/// A server that must not be reached.
async fn forbidden() -> (SocketAddr, Arc<AtomicUsize>) {
    let visits = Arc::new(AtomicUsize::new(0));
    let seen = visits.clone();
    let visit = move || async move {
        seen.fetch_add(1, Ordering::SeqCst);
        Html("<title>secret</title>")
    };
    (serve(Router::new().fallback(visit)).await, visits)
}

#[tokio::test]
async fn loopback_is_refused_unless_the_settings_name_it() {
    let (address, visits) = forbidden().await;
    let house = House::open(answer(Html("<title>open</title>"))).await;
    let strict = fetcher(FetchSettings::default());
    let port = address.port();

    for (fetcher, url, reason) in [
        (&strict, format!("http://{address}/"), format!("port {port} is not fetched from")),
        (&house.fetcher, format!("http://{address}/"), format!("port {port} is not fetched from")),
        (
            &strict,
            "http://127.0.0.1/".into(),
            "`127.0.0.1` does not lead to a public address".into(),
        ),
        (&strict, "http://[::1]/".into(), "`[::1]` does not lead to a public address".into()),
        (
            &strict,
            "http://localhost/".into(),
            "`localhost` does not lead to a public address".into(),
        ),
        (
            &house.fetcher,
            "https://localhost/".into(),
            "`localhost` does not lead to a public address".into(),
        ),
        (
            &strict,
            "file:///etc/passwd".into(),
            "only http and https are fetched, not `file`".into(),
        ),
    ] {
        let error = read(fetcher, &url.parse().unwrap(), Reading::Whole).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)) && error.is_fatal(), "{url}: {error:?}");
        assert_eq!(error.to_string(), reason, "{url}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_to_a_refused_address_is_not_followed() {
    let (address, visits) = forbidden().await;
    let targets = [
        format!("http://{address}/"),
        format!("//{address}/"),
        "http://localhost/".into(),
        "http://169.254.169.254/latest/meta-data/".into(),
        "http://0x7f.1/".into(),
        "http://ada:pw@example.com/".into(),
        "file:///etc/passwd".into(),
    ];
    let mut routes = Router::new();
    for (n, target) in targets.iter().cloned().enumerate() {
        routes = routes.route(&format!("/{n}"), get(|| async move { Redirect::to(&target) }));
    }
    let house = House::open(routes).await;
    for (n, target) in targets.iter().enumerate() {
        let error = house.fetch(&format!("/{n}")).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused(_)), "{target}: {error:?}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_page_longer_than_the_limit_is_cut() {
    let html = format!("<title>Long</title>{}<a href=/end>", "x".repeat(100_000));
    let read = async |max_bytes| {
        let settings = FetchSettings { max_bytes, ..Default::default() };
        House::with(answer(Html(html.clone())), settings).await.fetch("/").await.unwrap()
    };
    let cut = read(5000).await;
    assert_eq!((cut.bytes, cut.truncated, title(&cut)), (5000, true, Some("Long")));
    let cut = read(html.len() - 1).await;
    assert_eq!((cut.bytes, cut.truncated, cut.page.links.len()), (html.len() - 1, true, 0));
    let whole = read(html.len()).await;
    assert_eq!((whole.bytes, whole.truncated, whole.page.links.len()), (html.len(), false, 1));
}

#[tokio::test]
async fn an_endless_page_is_cut() {
    let endless = || async {
        // Of a size that a busy machine sends fast enough for the time limit.
        let chunk = Bytes::from("and more ".repeat(1_000));
        let chunks = stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone()));
        ([HTML], Body::from_stream(chunks))
    };
    let fetched = House::open(Router::new().fallback(endless)).await.fetch("/").await.unwrap();
    assert_eq!((fetched.bytes, fetched.truncated), (2 << 20, true));
}

#[tokio::test]
async fn a_page_that_needs_too_much_memory_is_kept_in_part() {
    let html = format!("<title>Deep</title>{}", "<b>".repeat(200_000));
    let fetched = House::open(answer(Html(html))).await.fetch("/").await.unwrap();
    assert_eq!((title(&fetched), fetched.truncated), (Some("Deep"), true));
    assert!(fetched.bytes < 600_000);
}

#[tokio::test]
async fn a_page_that_does_not_end_in_time_is_given_up() {
    let stuck = |start: &'static str| {
        move || async move {
            let start = stream::iter([Ok::<_, Infallible>(Bytes::from_static(start.as_bytes()))]);
            ([HTML], Body::from_stream(start.chain(stream::pending())))
        }
    };
    let routes = Router::new()
        .route("/body", get(stuck("<title>Slow</title>")))
        .route("/head", get(|| async { std::future::pending::<()>().await }))
        .route("/redirect", get(|| async { Redirect::to("/body") }));
    let limit = Duration::from_millis(200);
    let house = House::with(routes, FetchSettings { timeout: limit, ..Default::default() }).await;
    for path in ["/body", "/head", "/redirect"] {
        let error = house.fetch(path).await.unwrap_err();
        // A body that does not go on is too slow before its time is over.
        let in_time = match path {
            "/head" => matches!(error, FetchError::TimedOut { .. }),
            _ => matches!(error, FetchError::TooSlow { .. }),
        };
        assert!(in_time && !error.is_fatal(), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn a_compressed_page_is_read_and_a_bomb_is_cut() {
    let zipped = |bytes: &[u8]| answer(([HTML, (header::CONTENT_ENCODING, "gzip")], gzip(bytes)));
    let fetched = House::open(zipped(b"<title>Small</title>")).await.fetch("/").await.unwrap();
    assert_eq!((title(&fetched), fetched.bytes), (Some("Small"), 20));

    let mut bomb = b"<title>Bomb</title>".to_vec();
    bomb.resize(50 << 20, b' ');
    let fetched = House::open(zipped(&bomb)).await.fetch("/").await.unwrap();
    assert_eq!((title(&fetched), fetched.bytes, fetched.truncated), (Some("Bomb"), 2 << 20, true));

    let bad = answer(([HTML, (header::CONTENT_ENCODING, "gzip")], "<title>plain</title>"));
    let error = House::open(bad).await.fetch("/").await.unwrap_err();
    assert!(matches!(error, FetchError::Broken(_)) && !error.is_fatal());
}

#[tokio::test]
async fn a_status_that_is_no_success_is_an_error() {
    let status = async |status: u16, wait: &'static str| {
        let code = StatusCode::from_u16(status).unwrap();
        let page = (code, [HTML, (header::RETRY_AFTER, wait)], "<title>Sorry</title>");
        House::open(answer(page)).await.fetch("/").await.unwrap_err()
    };
    let gone = status(404, "7").await;
    assert!(matches!(gone, FetchError::Status { status: 404, .. }) && gone.is_fatal());
    let down = status(503, "soon").await;
    assert!(!down.is_fatal() && down.retry_after().is_none());
    let busy = status(429, "7").await;
    assert!(!busy.is_fatal());
    assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
    let down = status(503, "Wed, 21 Oct 2015 07:28:00 GMT").await;
    assert_eq!(down.retry_after(), Some(Duration::ZERO));
}

#[tokio::test]
async fn what_is_not_html_is_refused() {
    for (content_type, named) in [
        ("application/pdf", "application/pdf"),
        ("Image/PNG; charset=utf-8", "image/png"),
        ("text/htmlx", "text/htmlx"),
        ("", ""),
    ] {
        let routes = answer(([(header::CONTENT_TYPE, content_type)], "<title>no</title>"));
        let error = House::open(routes).await.fetch("/").await.unwrap_err();
        assert!(error.is_fatal());
        assert!(matches!(error, FetchError::NotHtml { content_type } if content_type == named));
    }
    let error = House::open(answer(StatusCode::NO_CONTENT)).await.fetch("/").await.unwrap_err();
    assert!(matches!(error, FetchError::NotHtml { .. }));
}

#[tokio::test]
async fn a_page_is_decoded_by_the_charset_of_its_header() {
    for content_type in [
        "text/html; charset=ISO-8859-1",
        "TEXT/HTML ;x=y; Charset = \"latin1\"",
        "application/xhtml+xml;charset='windows-1252';",
    ] {
        let routes = answer(([(header::CONTENT_TYPE, content_type)], b"<title>caf\xe9</title>"));
        let fetched = House::open(routes).await.fetch("/").await.unwrap();
        assert_eq!(title(&fetched), Some("café"), "{content_type}");
    }
    let routes =
        answer(([(header::CONTENT_TYPE, "text/html; charset=klingon")], "<title>café</title>"));
    assert_eq!(title(&House::open(routes).await.fetch("/").await.unwrap()), Some("café"));
}

#[tokio::test]
async fn a_response_that_breaks_off_and_a_host_that_is_not_there_are_worth_another_try() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let allowed_private = vec![address.to_string().parse().unwrap()];
    let fetcher = fetcher(FetchSettings { allowed_private, ..Default::default() });
    let url: Url = format!("http://{address}/?token=hush").parse().unwrap();

    let half = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 1000\r\n\r\n<title>";
        stream.write_all(head.as_bytes()).await.unwrap();
    });
    let broken = read(&fetcher, &url, Reading::Whole).await.unwrap_err();
    assert!(matches!(broken, FetchError::Broken(_)) && !broken.is_fatal());
    half.await.unwrap();

    // The listener went with its task.
    let gone = read(&fetcher, &url, Reading::Whole).await.unwrap_err();
    assert!(matches!(gone, FetchError::Unreachable(_)) && !gone.is_fatal());
    for error in [broken, gone] {
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
}
