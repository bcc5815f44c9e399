//! However the task of a site or a page ends, its row ends with it and says why.

use std::time::Duration;

use chrono::Utc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel_proto::{Task, TaskId, TaskOptions};
use umbel_tasks::{
    App, Attempt, PageCounts, PageRun, ScrapePage, ScrapeSite, SiteAttempt, Status, WantedSite,
};
use umbel_tests::eventually::within;
use umbel_worker::{Context, End, Handler, Registry, TaskResult};

use super::{House, PATIENCE};

const LIMIT: Duration = Duration::from_millis(300);

/// How a task ends, which is what the path of its address says, and what its row says then.
const ENDS: [(&str, &str, &str); 5] = [
    ("/crash", "3 workers died while they held this task", "crash"),
    ("/panic", "panicked: out of paper", "task"),
    ("/time-limit", "ran longer than its limit of 300ms", "task"),
    ("/cancelled", "cancelled by ann", "cancelled"),
    ("/expired", "its start came too late", "expired"),
];

/// `pages.scrape` with an accident in the place of its fetch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Accident(ScrapePage);

/// `sites.scrape` with an accident in the place of its plan.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct SiteAccident(ScrapeSite);

impl Task for Accident {
    const NAME: &'static str = ScrapePage::NAME;
    const OPTIONS: TaskOptions = ScrapePage::OPTIONS;
    type Output = ();
}

impl Task for SiteAccident {
    const NAME: &'static str = ScrapeSite::NAME;
    const OPTIONS: TaskOptions = ScrapeSite::OPTIONS;
    type Output = ();
}

impl Handler<App> for Accident {
    async fn run(self, ctx: &Context<App>) -> TaskResult<()> {
        begin(ctx.app(), &self.0, ctx.task_id()).await;
        happen(self.0.url.path()).await
    }

    async fn ended(self, end: &End, ctx: &Context<App>) -> TaskResult<()> {
        self.0.ended(end, ctx).await
    }
}

impl Handler<App> for SiteAccident {
    async fn run(self, ctx: &Context<App>) -> TaskResult<()> {
        begin_site(ctx.app(), &self.0, ctx.task_id()).await;
        happen(self.0.url.path()).await
    }

    async fn ended(self, end: &End, ctx: &Context<App>) -> TaskResult<()> {
        self.0.ended(end, ctx).await
    }
}

async fn happen(path: &str) -> TaskResult<()> {
    match path {
        "/panic" => panic!("out of paper"),
        "/time-limit" => std::future::pending().await,
        other => panic!("{other} is not run"),
    }
}

/// What each run of `pages.scrape` does first.
async fn begin(app: &App, task: &ScrapePage, task_id: &TaskId) {
    let page = match task.page {
        Some(page) => page,
        None => app.pages.adopt(&task.url, None).await.unwrap(),
    };
    let attempt = Attempt { page, owner: None, task_id, attempt: 1 };
    app.pages.begin(&attempt, &task.url, Utc::now()).await.unwrap().expect("the page is there");
}

/// What each run of `sites.scrape` does first.
async fn begin_site(app: &App, task: &ScrapeSite, task_id: &TaskId) {
    let attempt = SiteAttempt { site: task.site, task_id, attempt: 1 };
    app.sites.begin(&attempt, &task.url, Utc::now()).await.unwrap().expect("the site is there");
}

/// Marks a task that waits as one over which three workers have died.
fn charge(house: &House, task: &TaskId) {
    let script = "
        for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
          local fields = entry[2]
          local at = {}
          for i = 1, #fields, 2 do at[fields[i]] = i + 1 end
          if fields[at.id] == ARGV[1] then
            fields[at.crashes] = '3'
            redis.call('XDEL', KEYS[1], entry[1])
            return redis.call('XADD', KEYS[1], '*', unpack(fields))
          end
        end
        return redis.error_reply('no such task')";
    let key = "umbel:{scrape}:ready:normal";
    house.redis.cli(&["-e", "EVAL", script, "1", key, task.as_str()]);
}

/// Enqueues a task that is to end as its path says, as far as that is told beforehand.
async fn enqueue<T: Task>(house: &House, path: &str, task: T) -> TaskId {
    let call = house.client.enqueue(task).max_attempts(1);
    match path {
        "/time-limit" => call.time_limit(LIMIT).await.unwrap().id().clone(),
        "/expired" => call.expires_in(Duration::from_millis(1)).await.unwrap().id().clone(),
        "/cancelled" => {
            let id = call.await.unwrap().id().clone();
            house.client.cancel(&id, "ann").await.unwrap().expect("it waits");
            id
        }
        _ => call.await.unwrap().id().clone(),
    }
}

async fn enqueue_page(house: &House, url: &str, page: Option<PageRun>) -> TaskId {
    let task = ScrapePage { url: url.parse().unwrap(), page };
    let path = task.url.path().to_owned();
    let id = enqueue(house, &path, Accident(task.clone())).await;
    if path == "/crash" {
        // The workers that died had begun it.
        begin(&house.app, &task, &id).await;
        charge(house, &id);
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_fails_with_its_task_however_that_ended() {
    let house = House::start().await;
    let mut expected = Vec::new();
    for (path, error, class) in ENDS {
        let url = format!("http://127.0.0.1{path}");
        let site = house.put(&url, 3, 100).await.id;
        assert_eq!(house.claim_and_plan().await, 1);
        let own = house.app.pages.pending(Some(site), 0, 9).await.unwrap().pop().unwrap().page;
        // A page of a site, and the same one asked for by itself.
        for (site, page) in [(Some(site), Some(own)), (None, None)] {
            let id = enqueue_page(&house, &url, page).await;
            expected.push((url.clone(), site, id.as_str().to_owned(), error, class));
        }
    }
    let registry = Registry::builder().register::<Accident>().build().unwrap();
    let worker = house.worker_of(registry, &["scrape"], 4);
    let pages = within(PATIENCE, "all have ended", async || {
        let mut pages = house.pages().await;
        pages.retain(|page| page.finished_at.is_some());
        (pages.len() == expected.len()).then_some(pages)
    })
    .await;
    for (url, site, task, error, class) in expected {
        let found = pages.iter().find(|page| page.url == url && page.site_id == site).unwrap();
        let row = (found.status, found.error.as_deref(), found.task_id.as_deref());
        assert_eq!(row, (Status::Failed, Some(error), Some(&*task)), "{url} of site {site:?}");
        assert_eq!(found.error_class.as_deref(), Some(class), "{url} of site {site:?}");
        if let Some(site) = site {
            let site = house.site(site).await;
            assert_eq!((site.status, site.error.as_deref()), (Status::Failed, Some(error)));
        }
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_fails_with_its_task_however_that_ended_and_is_planned_when_it_is_due_again() {
    let house = House::start().await;
    for (path, ..) in ENDS {
        house.put(&format!("http://127.0.0.1{path}"), 3, 100).await;
    }
    assert_eq!(house.app.sites.claim_due().await.unwrap(), ENDS.len() as u64);
    let mut expected = Vec::new();
    for WantedSite { site, url, .. } in house.app.sites.claimed(0, 9).await.unwrap() {
        let task = ScrapeSite { url: url.parse().unwrap(), site };
        let (_, error, class) = ENDS.into_iter().find(|end| end.0 == task.url.path()).unwrap();
        let id = enqueue(&house, task.url.path(), SiteAccident(task.clone())).await;
        if task.url.path() == "/crash" {
            begin_site(&house.app, &task, &id).await;
            charge(&house, &id);
        }
        expected.push((site.id, url, id, error, class));
    }
    let registry = Registry::builder().register::<SiteAccident>().build().unwrap();
    let worker = house.worker_of(registry, &["scrape"], 4);
    for (site, url, task, error, class) in &expected {
        let site = house.scraped(*site).await;
        let row = (site.status, site.error.as_deref(), site.error_class.as_deref());
        assert_eq!(row, (Status::Failed, Some(*error), Some(*class)), "{url}");
        assert_eq!(site.task_id.as_deref(), Some(task.as_str()));
        assert_eq!(site.pages, PageCounts { failed: 1, ..PageCounts::default() }, "{url}");
        let page = house.page(url).await;
        assert_eq!((page.status, page.error.as_deref()), (Status::Failed, Some(*error)));
        assert!(page.finished_at.is_some() && page.task_id.is_none(), "nobody has read it");
    }
    worker.stop().await;
    house.database.sql("update sites set next_due = now()");
    assert_eq!(house.claim_and_plan().await, ENDS.len() as u64);
}
