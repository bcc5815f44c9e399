//! The scraper on a real Redis and a real Postgres behind a real pooler, against web sites of this
//! machine.

mod ends;
mod heals;
mod pages;
mod plans;
mod polite;
mod rights;
mod routes;
mod scraperapi;
mod sites;
mod upkeep;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::Router;
use chrono::Utc;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use umbel::Env;
use umbel_broker::{BrokerSettings, Client, TaskHandle};
use umbel_proto::{QueueName, Task, TaskId};
use umbel_store::{Db, StoreSettings};
use umbel_tasks::{
    App, MIGRATIONS, Page, PageFilter, Plan, Put, ScrapePage, ScrapeSite, ScrapedPage, Site,
    SiteAttempt, SiteFilter, SiteOptions, Status, SweepSites, Swept, WantedSite,
};
use umbel_tests::{
    eventually::within,
    services::{PgBouncer, PostgresServer, RedisServer, TestDatabase},
};
use umbel_worker::{Registry, Stopped, Worker, WorkerError, WorkerSettings};
use url::Url;
use uuid::Uuid;

/// Longer than anything here takes: three attempts of a page with their waits, or a site of more
/// than a hundred pages.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// How many connections all clients of the pooler share.
const POOL_SIZE: u32 = 2;

/// All that the scraper needs, and the scraper.
pub(super) struct House {
    pub redis: RedisServer,
    pub database: TestDatabase<'static>,
    pub client: Client,
    pub app: App,
    _pooler: PgBouncer,
    boots: AtomicU32,
}

/// A worker of the scraper in this process.
pub(super) struct Running {
    stop: CancellationToken,
    ended: JoinHandle<Result<Stopped, WorkerError>>,
}

impl House {
    /// A house that may fetch from this machine.
    pub async fn start() -> Self {
        Self::with(&[("SCRAPE_ALLOW_PRIVATE", "127.0.0.1,localhost")]).await
    }

    /// A house with these settings.
    pub async fn with(env: &[(&str, &str)]) -> Self {
        Self::under("postgres", env).await
    }

    /// A house whose scraper comes to Postgres as this role: the owner of the tables, or the one that
    /// `deploy/postgres-role.sql` makes.
    pub async fn under(role: &str, env: &[(&str, &str)]) -> Self {
        // Refused where an earlier test installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let redis = RedisServer::start();
        let database = PostgresServer::shared().database();
        let client = Client::open(&BrokerSettings::new(redis.url()), "test").unwrap();
        let owner = Db::open(&StoreSettings::new(database.url())).unwrap();
        owner.migrate("scraper", MIGRATIONS).await.unwrap();
        owner.close().await;
        if role != "postgres" {
            rights::let_in(&database);
        }
        let pooler = PgBouncer::start_as(PostgresServer::shared(), POOL_SIZE, role);
        let db = Db::open(&StoreSettings::new(pooler.url(&database))).unwrap();
        let app = App::new(&Env::from_iter(env.iter().copied()), client.clone(), db).unwrap();
        Self { redis, database, client, app, _pooler: pooler, boots: AtomicU32::new(1) }
    }

    /// Starts a worker for both queues.
    pub fn worker(&self, concurrency: usize) -> Running {
        self.worker_for(&["default", "scrape"], concurrency)
    }

    /// Starts a worker for some queues.
    pub fn worker_for(&self, queues: &[&str], concurrency: usize) -> Running {
        self.worker_of(umbel_tasks::registry().unwrap(), queues, concurrency)
    }

    /// Starts a worker whose tasks are not the scraper's own.
    pub fn worker_of(
        &self,
        registry: Registry<App>,
        queues: &[&str],
        concurrency: usize,
    ) -> Running {
        let boot = format!("{:016x}", self.boots.fetch_add(1, Ordering::Relaxed));
        let mut settings = WorkerSettings::new("test", &boot);
        settings.concurrency = concurrency;
        settings.grace = Duration::from_millis(500);
        settings.queues = queues.iter().map(|queue| queue.parse().unwrap()).collect();
        let endpoints = registry.bind(self.app.clone());
        let worker = Worker::new(self.client.separate().unwrap(), endpoints, settings).unwrap();
        let stop = CancellationToken::new();
        Running { ended: tokio::spawn(worker.run(stop.clone())), stop }
    }

    /// Enters a site, due at once.
    pub async fn put(&self, url: &str, max_depth: u32, max_pages: u32) -> Put {
        let options = SiteOptions {
            url: url.parse().unwrap(),
            owner: None,
            max_depth: Some(max_depth),
            max_pages: Some(max_pages),
            every_s: None,
            source: None,
        };
        self.app.sites.put(&options, 3600).await.unwrap()
    }

    /// Claims the sites that are due and plans their runs, as their tasks do where the host asks for
    /// nothing and has no sitemap. Their own pages are pending then. Returns how many.
    pub async fn claim_and_plan(&self) -> u64 {
        let sites = &self.app.sites;
        sites.claim_due().await.unwrap();
        let claimed = sites.claimed(0, 500).await.unwrap();
        for WantedSite { site, url, .. } in &claimed {
            let task_id = &TaskId::new(&ScrapeSite::OPTIONS.queue.parse().unwrap(), Uuid::new_v4());
            let attempt = SiteAttempt { site: *site, task_id, attempt: 1 };
            let url = url.parse().unwrap();
            sites.begin(&attempt, &url, Utc::now()).await.unwrap().expect("the site is there");
            assert!(sites.plan(&attempt, &Plan::default()).await.unwrap());
        }
        claimed.len() as u64
    }

    /// Has a worker do one sweep, and nothing else.
    pub async fn sweep(&self) -> Swept {
        let worker = self.worker_for(&["default"], 1);
        let swept = self.client.enqueue(SweepSites {}).await.unwrap().wait(PATIENCE).await;
        worker.stop().await;
        swept.unwrap()
    }

    pub async fn site(&self, id: i64) -> Site {
        self.app.sites.get(id).await.unwrap().unwrap()
    }

    pub async fn sites(&self) -> Vec<Site> {
        self.app.sites.list(&SiteFilter { limit: 500, ..SiteFilter::default() }).await.unwrap()
    }

    /// The site once its run is over.
    pub async fn scraped(&self, id: i64) -> Site {
        within(PATIENCE, "the run of the site ends", async || {
            let site = self.site(id).await;
            matches!(site.status, Status::Succeeded | Status::Failed | Status::Skipped)
                .then_some(site)
        })
        .await
    }

    /// All pages, in the order in which they were found.
    pub async fn pages(&self) -> Vec<Page> {
        let (mut pages, mut after) = (Vec::new(), 0);
        loop {
            let filter = PageFilter { after, limit: 500, ..PageFilter::default() };
            let mut part = self.app.pages.list(&filter).await.unwrap();
            let Some(last) = part.last() else { return pages };
            after = last.id;
            pages.append(&mut part);
        }
    }

    /// The page at this address.
    pub async fn page(&self, url: &str) -> Page {
        let pages = self.pages().await;
        pages.into_iter().find(|page| page.url == url).unwrap_or_else(|| panic!("no page {url}"))
    }

    /// The page at this address once it has ended.
    pub async fn ended(&self, url: &str) -> Page {
        within(PATIENCE, "the page ends", async || {
            let page = self.pages().await.into_iter().find(|page| page.url == url)?;
            matches!(page.status, Status::Succeeded | Status::Failed | Status::Skipped)
                .then_some(page)
        })
        .await
    }

    /// How many tasks wait in the queue of the sites and pages.
    pub async fn waiting(&self) -> u64 {
        let queues = self.client.queues().await.unwrap();
        let scrape: QueueName = ScrapePage::OPTIONS.queue.parse().unwrap();
        queues.iter().find(|queue| queue.name == scrape).map_or(0, |queue| queue.queued)
    }

    /// The end of a task, whose output is that of a page.
    pub async fn output(&self, id: TaskId) -> ScrapedPage {
        TaskHandle::new(self.client.clone(), id).wait(PATIENCE).await.unwrap()
    }
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

/// A folder of generated pages, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("site-{}-{number}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// A page with the name for its title, and links.
    fn page(self, name: &str, links: &[&str]) -> Self {
        fs::write(self.0.join(format!("{name}.html")), html(name, links)).unwrap();
        self
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A test that failed has other worries.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn html(title: &str, links: &[&str]) -> String {
    let links: String =
        links.iter().map(|link| format!("<a href=\"{link}\">{link}</a>\n")).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><title>{title}</title></head>\n\
         <body>{links}</body></html>"
    )
}

/// A site that answers as its router says, until it is dropped.
struct Web {
    url: Url,
    _stop: DropGuard,
}

impl Web {
    async fn serve(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let stop = CancellationToken::new();
        let ended = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(ended).await.unwrap();
        });
        Self { url, _stop: stop.drop_guard() }
    }

    fn at(&self, path: &str) -> String {
        self.url.join(path).unwrap().to_string()
    }
}

/// Counts.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU32>);

impl Counter {
    /// Counts one more and says how many there are.
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}
