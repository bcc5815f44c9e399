//! Hosts that never come to an end.

use tokio::time::Instant;

use super::*;

/// A host that says `first`, and then `more` again and again, each time after `pause`; and a
/// fetcher that may reach it. Counts what it could send.
pub(super) struct Endless {
    pub url: String,
    sent: Arc<AtomicUsize>,
    pub fetcher: Fetcher,
}

impl Endless {
    pub async fn start(first: &str, more: &str, pause: Duration, settings: FetchSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, first, more) =
            (Arc::new(AtomicUsize::new(0)), first.to_owned(), more.to_owned());
        let count = sent.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(first.as_bytes()).await;
                while stream.write_all(more.as_bytes()).await.is_ok() {
                    count.fetch_add(more.len(), Ordering::SeqCst);
                    tokio::time::sleep(pause).await;
                }
            }
        });
        let allowed_private = vec![address.to_string().parse().unwrap()];
        let fetcher = fetcher_with(FetchSettings { allowed_private, ..settings }, SystemLookup);
        Self { url: format!("http://{address}/"), sent, fetcher }
    }
}

/// What a page begins with.
pub(super) const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n";

#[tokio::test]
async fn headers_without_end_are_given_up_before_they_fill_the_memory() {
    let line = format!("x-more: {}\r\n", "a".repeat(1000));
    for more in [&*line, "x: y\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let first = if more.starts_with("HTTP") { "" } else { HEAD };
        let host = Endless::start(first, more, Duration::ZERO, settings()).await;
        let began = Instant::now();
        let error = fetch(&host.fetcher, &host.url).await.unwrap_err();
        assert!(!error.is_fatal(), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
    // What is in one header ends too: the client stops reading, and the host cannot send on.
    let host = Endless::start(HEAD, "aaaaaaaaaaaaaaaa", Duration::ZERO, settings()).await;
    fetch(&host.fetcher, &host.url).await.unwrap_err();
    let sent = host.sent.load(Ordering::SeqCst);
    assert!(sent < 16 << 20, "{sent} bytes were taken by somebody");
}

#[tokio::test]
async fn a_host_that_drips_is_given_up_long_before_the_time_limit() {
    let settings = FetchSettings { timeout: Duration::from_secs(20), ..settings() };
    let pause = Duration::from_millis(100);
    let body = format!("{HEAD}\r\n<title>Slow</title>");
    let host = Endless::start(&body, "x", pause, settings.clone()).await;
    let began = Instant::now();
    let error = fetch(&host.fetcher, &host.url).await.unwrap_err();
    assert!(matches!(error, FetchError::TooSlow { min_rate: 256 }), "{error:?}");
    assert!(!error.is_fatal());
    let took = began.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(10)).contains(&took), "{took:?}");

    // One that is as slow, but as fast as it must be, is read until it is too long.
    let settings = FetchSettings { max_bytes: 2048, min_rate: 100, ..settings };
    let host = Endless::start(&body, &"x".repeat(64), pause / 4, settings).await;
    let page = fetch(&host.fetcher, &host.url).await.unwrap();
    assert_eq!((page.bytes, page.truncated), (2048, true));
}

#[tokio::test]
async fn only_as_much_is_transferred_as_is_wanted() {
    let filler = "<p>and so on</p>".repeat(256);
    let body = format!("{HEAD}\r\n<head><title>Only this</title></head><body>");
    let settings = FetchSettings { timeout: Duration::from_secs(60), ..settings() };
    let host = Endless::start(&body, &filler, Duration::from_millis(1), settings).await;
    let url = host.url.parse().unwrap();
    let page = read(&host.fetcher, &url, Reading::Head).await.unwrap();
    assert_eq!(page.page.metadata.title.as_deref(), Some("Only this"));
    assert!(page.truncated && page.bytes < 64 * 1024, "{} bytes", page.bytes);
    let whole = read(&host.fetcher, &url, Reading::Whole).await.unwrap();
    assert_eq!((whole.bytes, whole.truncated), (2 << 20, true));
}
