//! A failover to a replica that lagged: the ids of what was lost are given again, to other tasks.

use std::mem;

use umbel_proto::TaskState;

use super::*;
use crate::wire::Wire;

/// The old server is gone, the new one has other tasks under the ids that the zombie holds.
struct Failover {
    new: RedisServer,
    /// What the zombie speaks through, as long as this is there.
    _line: Wire,
    zombie: Hand,
    /// In the zombie's hands, and lost with the old server.
    stale: Vec<Delivery>,
    /// Under the same ids, by the new server.
    others: Vec<TaskId>,
    /// Holds some of them.
    rightful: Hand,
    taken: Vec<Delivery>,
}

const OLD: [&str; 5] = ["old 1", "old 2", "old 3", "old 4", "old 5"];
const NEW: [&str; 5] = ["new 1", "new 2", "new 3", "new 4", "new 5"];

/// How many of the others are in hands when the zombie settles; the rest waits.
const TAKEN: usize = 3;

impl Failover {
    async fn happens(fence: Fence, scripts: Option<Arc<Scripts>>) -> Self {
        let [old, new] = [(); 2].map(|()| RedisServer::start_with(&[], &[]));
        fence.open(&old);
        fence.open(&new);
        let link = Wire::to(old.port()).await;
        let line = Wire::to(old.port()).await;
        let client = Client::open(&Fence::settings(&line.url()), "test").unwrap();
        let client = match scripts {
            Some(scripts) => client.with_scripts(scripts),
            None => client,
        };
        let mut zombie = Hand::start("zombie", client).await;
        zombie.take(0).await;
        count_from_the_future(&old);
        assert_eq!(new.cli(&["REPLICAOF", "127.0.0.1", &link.port().to_string()]), "OK");
        eventually("the replica has all", async || {
            new.cli(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        })
        .await;
        assert!(new.cli(&["XINFO", "STREAM", &ready()]).contains(FUTURE));

        // From here on the replica lags: what is accepted and handed out now is lost.
        link.cut();
        let accepted = enqueue(&zombie.client, &OLD).await;
        let stale = zombie.take(OLD.len()).await;
        let generation = ["HGET", "umbel:{default}:control", "generation"];
        let before = old.cli(&generation);
        assert_eq!(new.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
        old.kill9();
        // Whoever promotes a replica gives its address to the clients.
        line.lead_to(new.port());
        assert_eq!(new.cli(&generation), before, "only the server tells the two apart");

        let client = Client::open(&Fence::settings(&new.url()), "test").unwrap();
        let mut rightful = Hand::start("rightful", client).await;
        let others = enqueue(&rightful.client, &NEW[..TAKEN]).await;
        let taken = rightful.take(TAKEN).await;
        let others = [others, enqueue(&rightful.client, &NEW[TAKEN..]).await].concat();
        assert_eq!(entries(&stale)[..TAKEN], entries(&taken), "the same ids");
        assert!(accepted.iter().all(|lost| !others.contains(lost)), "of other tasks");
        Self { new, _line: line, zombie, stale, others, rightful, taken }
    }

    async fn zombie_completes(&mut self) {
        self.zombie.complete(mem::take(&mut self.stale)).await;
    }

    /// How many tasks the new server has.
    fn left(&self) -> usize {
        self.new.cli(&["XLEN", &ready()]).parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_of_the_old_server_settles_no_task_of_the_new_one() {
    for fence in Fence::BOTH {
        let mut failover = Failover::happens(fence, None).await;
        // Of what it holds, the first are another's now, and the last its own: as other tasks.
        let rest = failover.zombie.take(NEW.len() - TAKEN).await;
        let before = changes(&failover.new);
        failover.zombie_completes().await;
        assert_eq!(changes(&failover.new), before, "{fence:?}: nothing was changed");
        assert_eq!(failover.left(), NEW.len(), "{fence:?}");

        let ghosts = failover.zombie.consumer.ghosts().await.unwrap();
        assert_eq!(ghosts.len(), 0, "{fence:?}: its own are known");
        failover.rightful.complete(failover.taken).await;
        failover.zombie.complete(rest).await;
        for (n, task) in failover.others.iter().enumerate() {
            let by = if n < TAKEN { "rightful" } else { "zombie" };
            let record = eventually("it has ended", async || {
                failover.rightful.client.task(task).await.unwrap()
            })
            .await;
            let expected = (TaskState::Succeeded, Some(by));
            assert_eq!((record.state, record.worker.as_deref()), expected, "{fence:?}: {task}");
        }
        assert_eq!(failover.rightful.settler.stale(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_of_the_old_server_starts_nothing_of_it() {
    for fence in Fence::BOTH {
        let mut failover = Failover::happens(fence, None).await;
        let rest = failover.zombie.take(NEW.len() - TAKEN).await;
        let before = changes(&failover.new);
        let (zombie, stale) = (&failover.zombie, mem::take(&mut failover.stale));
        let started = zombie.client.start(zombie.id, &zombie.held, stale, Utc::now()).await;
        assert!(started.unwrap().is_empty(), "{fence:?}");
        assert_eq!(changes(&failover.new), before, "{fence:?}: nothing was changed");
        let started = zombie.client.start(zombie.id, &zombie.held, rest, Utc::now()).await;
        assert_eq!(started.unwrap().len(), NEW.len() - TAKEN, "{fence:?}: but its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_fence_a_zombie_deletes_the_tasks_of_others() {
    let by_task = "if ARGV[1] ~= '' or is_run(t.body, t.id, t.attempt) then";
    let by_run_id = "return run_id() == run and";
    for (fence, line, instead) in
        [(Fence::RunId, by_run_id, "return"), (Fence::TaskId, by_task, "if true then")]
    {
        let broken = Scripts::broken("settle", line, instead);
        let mut failover = Failover::happens(fence, Some(broken)).await;
        failover.zombie_completes().await;
        assert_eq!(failover.left(), 0, "{fence:?}");
        let Failover { rightful, taken, others, .. } = failover;
        rightful.complete(taken).await;
        assert_eq!(rightful.settler.stale(), TAKEN as u64, "{fence:?}");
        for task in &others {
            let record = rightful.client.task(task).await.unwrap();
            assert_eq!(record.unwrap().state, TaskState::Queued, "{fence:?}: for ever");
        }
    }
}
