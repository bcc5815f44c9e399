//! However the task of a page ends, its row ends with it and says why.

use std::time::Duration;

use chrono::Utc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use umbel_proto::{Task, TaskId, TaskOptions};
use umbel_tasks::{App, Attempt, PageRun, ScrapePage, Status};
use umbel_tests::eventually::within;
use umbel_worker::{Context, End, Handler, Registry, TaskResult};

use super::{House, PATIENCE};

const LIMIT: Duration = Duration::from_millis(300);

/// How a task ends, which is what the path of its page says, and what its row says then.
const ENDS: [(&str, &str); 5] = [
    ("/crash", "3 workers died while they held this task"),
    ("/panic", "panicked: out of paper"),
    ("/time-limit", "ran longer than its limit of 300ms"),
    ("/cancelled", "cancelled by ann"),
    ("/expired", "its start came too late"),
];

/// `pages.scrape` with an accident in the place of its fetch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Accident(ScrapePage);

impl Task for Accident {
    const NAME: &'static str = ScrapePage::NAME;
    const OPTIONS: TaskOptions = ScrapePage::OPTIONS;
    type Output = ();
}

impl Handler<App> for Accident {
    async fn run(self, ctx: &Context<App>) -> TaskResult<()> {
        begin(ctx.app(), &self.0, ctx.task_id()).await;
        match self.0.url.path() {
            "/panic" => panic!("out of paper"),
            "/time-limit" => std::future::pending().await,
            // No worker judges so yet; what the scraper makes of it is ready.
            "/cancelled" => self.ended(&End::Cancelled { by: "ann".to_owned() }, ctx).await,
            "/expired" => self.ended(&End::Expired, ctx).await,
            other => panic!("{other} is not run"),
        }
    }

    async fn ended(self, end: &End, ctx: &Context<App>) -> TaskResult<()> {
        self.0.ended(end, ctx).await
    }
}

/// What each run of `pages.scrape` does first.
async fn begin(app: &App, task: &ScrapePage, task_id: &TaskId) {
    let page = match task.page {
        Some(page) => page,
        None => app.pages.adopt(&task.url).await.unwrap(),
    };
    let attempt = Attempt { page, task_id, attempt: 1 };
    app.pages.begin(&attempt, &task.url, Utc::now()).await.unwrap().expect("the page is there");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_page_fails_with_its_task_however_that_ended() {
    let house = House::start().await;
    let mut expected = Vec::new();
    for (path, error) in ENDS {
        let url = format!("http://127.0.0.1{path}");
        let site = house.put(&url, 3, 100).await.id;
        assert_eq!(house.app.sites.claim_due().await.unwrap(), 1);
        let own = house.app.pages.pending(Some(site), 0, 9).await.unwrap().pop().unwrap().page;
        // A page of a site, and the same one asked for by itself.
        for (site, page) in [(Some(site), Some(own)), (None, None)] {
            let id = enqueue(&house, &url, page).await;
            expected.push((url.clone(), site, id.as_str().to_owned(), error));
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
    for (url, site, task, error) in expected {
        let found = pages.iter().find(|page| page.url == url && page.site_id == site).unwrap();
        let row = (found.status, found.error.as_deref(), found.task_id.as_deref());
        assert_eq!(row, (Status::Failed, Some(error), Some(&*task)), "{url} of site {site:?}");
        if let Some(site) = site {
            let site = house.site(site).await;
            assert_eq!((site.status, site.error.as_deref()), (Status::Failed, Some(error)));
        }
    }
    worker.stop().await;
}

async fn enqueue(house: &House, url: &str, page: Option<PageRun>) -> TaskId {
    let task = ScrapePage { url: url.parse().unwrap(), page };
    let call = house.client.enqueue(Accident(task.clone())).max_attempts(1);
    if url.ends_with("/time-limit") {
        return call.time_limit(LIMIT).await.unwrap().id().clone();
    }
    let id = call.await.unwrap().id().clone();
    if url.ends_with("/crash") {
        // The workers that died had begun it.
        begin(&house.app, &task, &id).await;
        charge(house, &id);
    }
    id
}
