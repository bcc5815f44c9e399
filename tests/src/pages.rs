//! A web site on this machine: serves a folder of HTML pages, for the demo and for tests.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_http::services::ServeDir;

/// A site that runs inside the test, on a free port of loopback; it ends when this is dropped.
#[derive(Debug)]
pub struct Pages {
    addr: SocketAddr,
    hits: Hits,
    _stop: DropGuard,
}

impl Pages {
    /// Serves the files under `dir`, each answer `delay` late (zero: at once).
    ///
    /// # Errors
    /// When `dir` is no folder, or no port is free.
    pub async fn start(dir: &Path, delay: Duration) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let site = Site::new(dir, delay, stop.clone())?;
        let hits = site.hits.clone();
        let listener = listen(0).await?;
        let addr = listener.local_addr()?;
        tokio::spawn(serve(listener, site));
        Ok(Self { addr, hits, _stop: stop.drop_guard() })
    }

    /// Where it listens, with the slash at the end: `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        url(self.addr)
    }

    /// How often each path was asked for so far, those that do not exist included, and robots.txt
    /// and sitemap.xml not, which are asked for besides the pages.
    pub fn hits(&self) -> BTreeMap<String, u64> {
        let mut hits = self.hits.lock().clone();
        hits.remove("/robots.txt");
        hits.remove("/sitemap.xml");
        hits
    }

    /// How often `path` (`/index.html`) was asked for so far.
    pub fn hits_of(&self, path: &str) -> u64 {
        self.hits.lock().get(path).copied().unwrap_or(0)
    }
}

/// What is served, how late, and until when.
#[derive(Debug, Clone)]
pub struct Site {
    dir: PathBuf,
    delay: Duration,
    stop: CancellationToken,
    hits: Hits,
}

impl Site {
    /// A site of the files under `dir` that ends when `stop` is cancelled.
    ///
    /// # Errors
    /// When `dir` is no folder: a site of nothing but 404 would be hard to understand later.
    pub fn new(dir: &Path, delay: Duration, stop: CancellationToken) -> io::Result<Self> {
        if !dir.is_dir() {
            let sentence = format!("{} is not a folder", dir.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, sentence));
        }
        Ok(Self { dir: dir.to_owned(), delay, stop, hits: Hits::default() })
    }
}

/// Listens on loopback only; port 0 takes a free one.
///
/// # Errors
/// When the port is taken.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// The address as a URL with the slash at the end.
pub fn url(addr: SocketAddr) -> String {
    format!("http://{addr}/")
}

/// Answers until the site is stopped: files as they are, 404 for all else.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, site: Site) -> io::Result<()> {
    let stop = site.stop.clone();
    let app = Router::new()
        .fallback_service(ServeDir::new(&site.dir))
        .layer(from_fn_with_state(site, count_and_delay));
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn count_and_delay(State(site): State<Site>, request: Request, next: Next) -> Response {
    site.hits.count(request.uri().path());
    // A late answer must not hold up the end.
    tokio::select! {
        () = tokio::time::sleep(site.delay) => next.run(request).await,
        () = site.stop.cancelled() => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[derive(Debug, Clone, Default)]
struct Hits(Arc<Mutex<BTreeMap<String, u64>>>);

impl Hits {
    fn count(&self, path: &str) {
        *self.lock().entry(path.to_owned()).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        // Counting cannot leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far longer than a test may take.
    const NEVER: Duration = Duration::from_secs(3600);
    /// What is done at once is done within this, also on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
    }

    async fn get(url: &str) -> reqwest::Result<reqwest::Response> {
        // Building a client takes a crypto provider, also for plain http; a second one is refused,
        // which is fine: the first one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::get(url).await
    }

    #[tokio::test]
    async fn a_file_is_served_as_it_is_and_every_asking_is_counted() {
        let pages = Pages::start(&folder(), Duration::ZERO).await.expect("starts");
        let url = format!("{}pages.rs", pages.url());

        for _ in 0..2 {
            let body = get(&url).await.expect("answers").text().await.expect("has a body");
            assert_eq!(body, include_str!("pages.rs"));
        }

        assert_eq!(pages.hits_of("/pages.rs"), 2);
        assert_eq!(pages.hits().len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        let pages = Pages::start(&folder(), Duration::ZERO).await.expect("starts");

        for path in ["nothing.html", "..%2fCargo.toml"] {
            let answer = get(&format!("{}{path}", pages.url())).await.expect("answers");
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(pages.hits_of("/nothing.html"), 1);
    }

    #[tokio::test]
    async fn a_site_that_ends_lets_nobody_wait_for_late_answers() {
        let stop = CancellationToken::new();
        let site = Site::new(&folder(), NEVER, stop.clone()).expect("is a folder");
        let hits = site.hits.clone();
        let listener = listen(0).await.expect("listens");
        let url = url(listener.local_addr().expect("has an address"));
        let server = tokio::spawn(serve(listener, site));
        let client = tokio::spawn(async move { get(&url).await });
        let asked = async {
            while hits.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("is asked");

        stop.cancel();

        let answer = tokio::time::timeout(PATIENCE, client).await.expect("is answered in time");
        let answer = answer.expect("does not panic").expect("answers");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        server.await.expect("does not panic").expect("ends well");
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_refused() {
        let refused = Pages::start(Path::new("/no/such/folder"), Duration::ZERO).await;
        assert!(refused.expect_err("refused").to_string().contains("/no/such/folder"));
    }
}
