//! A Redis that was emptied while a worker held something: the same ids come again, under the same
//! `run_id`, for other tasks.

use umbel_broker::Why;
use umbel_proto::TaskState;

use super::*;

/// The zombie holds the id of a task that is no more, the rightful worker the one that has it now.
struct Flush {
    zombie: Hand,
    stale: Vec<Delivery>,
    rightful: Hand,
    taken: Vec<Delivery>,
    task: TaskId,
}

impl Flush {
    /// On a server that is open to workers; what was there before is gone.
    async fn happens(
        server: &RedisServer,
        emptied: &[&str],
        scripts: Option<Arc<Scripts>>,
    ) -> Self {
        let open = || Client::open(&Fence::settings(&server.url()), "test").unwrap();
        let client = match scripts {
            Some(scripts) => open().with_scripts(scripts),
            None => open(),
        };
        server.cli(&["FLUSHALL"]);
        let mut zombie = Hand::start("zombie", client).await;
        count_from_the_future(server);
        enqueue(&zombie.client, &["old"]).await;
        let stale = zombie.take(1).await;

        server.cli(emptied);
        count_from_the_future(server);
        let mut rightful = Hand::start("rightful", open()).await;
        let [task] = enqueue(&rightful.client, &["new"]).await.try_into().unwrap();
        // It makes the groups again.
        let taken = rightful.take(1).await;
        assert_eq!(entries(&stale), entries(&taken), "the same id");
        Self { zombie, stale, rightful, taken, task }
    }
}

/// What empties the stream; the second leaves the other streams with their groups.
fn ways() -> [Vec<String>; 2] {
    [vec!["FLUSHALL".to_owned()], vec!["DEL".to_owned(), ready()]]
}

fn verdicts() -> [Verdict; 6] {
    [
        Verdict::Complete { output: vec![1] },
        Verdict::Retry { delay: Duration::ZERO, error: "again".to_owned() },
        Verdict::Bury { why: Why::Fatal, error: "no".to_owned() },
        Verdict::Discard { state: TaskState::Cancelled, by: "somebody".to_owned() },
        Verdict::Park { left: Duration::from_secs(60), reason: "unknown".to_owned() },
        Verdict::Release,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settle_from_before_a_flush_changes_nothing() {
    for fence in Fence::BOTH {
        for emptied in ways() {
            let emptied: Vec<&str> = emptied.iter().map(String::as_str).collect();
            let server = RedisServer::start_with(&[], &[]);
            fence.open(&server);
            for verdict in verdicts() {
                let Flush { zombie, stale, rightful, taken, task } =
                    Flush::happens(&server, &emptied, None).await;
                let what = format!("{fence:?}, {emptied:?}, {verdict:?}");
                let before = changes(&server);
                zombie.settle(stale, &verdict).await;
                assert_eq!(changes(&server), before, "{what}");
                rightful.complete(taken).await;
                let record = rightful.client.task(&task).await.unwrap().expect(&what);
                assert_eq!(record.state, TaskState::Succeeded, "{what}");
                assert_eq!(rightful.settler.stale(), 0, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_generation_a_settle_from_before_a_flush_deletes_another_task() {
    let broken = Scripts::broken("settle", " and generation(control) == gen", "");
    let server = RedisServer::start_with(&[], &[]);
    Fence::RunId.open(&server);
    let Flush { zombie, stale, rightful, taken, task } =
        Flush::happens(&server, &["FLUSHALL"], Some(broken)).await;
    zombie.complete(stale).await;
    assert_eq!(server.cli(&["XLEN", &ready()]), "0");
    rightful.complete(taken).await;
    assert_eq!(rightful.settler.stale(), 1);
    let record = rightful.client.task(&task).await.unwrap().unwrap();
    assert_eq!(record.state, TaskState::Queued, "for ever");
}
