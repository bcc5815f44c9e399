//! `top`, and what asks at a terminal, in a terminal: tmux types and reads the screen.

use std::process::Command;

use umbel_proto::TaskState;
use umbel_tests::{
    eventually::eventually,
    house::House,
    probe::{Act, Probe, shard},
    process::binary,
};

/// A terminal of its own; ends with what runs in it when dropped.
struct Terminal {
    server: String,
}

impl Terminal {
    /// Runs a command of the application in it; the shell says how that ended.
    fn run(house: &House, args: &str) -> Self {
        let terminal = Self { server: format!("umbel-{}", uuid::Uuid::new_v4().simple()) };
        let program = binary("umbel-probe").display().to_string();
        let url = house.redis.url_as("operator");
        let line = format!("REDIS_URL={url} {program} {args}; echo ended with $?; cat");
        terminal.tmux(&["new-session", "-d", "-x", "120", "-y", "26", "sh", "-c", &line]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            // No settings of whoever runs the tests; in their own folder, as others run tmux too.
            .args(["-f", "/dev/null", "-L", &self.server])
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("tmux: apt-get install tmux");
        assert!(output.status.success(), "tmux {args:?}: {}", super::text(&output.stderr));
        super::text(&output.stdout)
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    async fn shows(&self, part: &str) -> String {
        let mut last = String::new();
        let shown = async {
            eventually(&format!("`{part}` on the screen"), async || {
                last = self.screen();
                last.contains(part).then_some(())
            })
            .await;
        };
        shown.await;
        last
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the screen:\n{}", self.screen());
        }
        self.tmux(&["kill-server"]);
    }
}

async fn lost(house: &House, count: usize) {
    for n in 0..count {
        let act = Act::Fatal("no route to host".to_owned());
        let handle = house.client.enqueue(Probe::new(&format!("lost{n}"), act)).await.unwrap();
        house.ended(handle.id()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_seen_and_operated_from_one_screen() {
    let house = House::start();
    let worker = house.worker(1);
    lost(&house, 3).await;
    let runs = house.client.enqueue(Probe::new("runs", Act::UntilCancelled)).await.unwrap();
    let probes = (0..7).map(|n| Probe::new(&format!("n{n}"), Act::Ok));
    house.client.enqueue_many(probes).await.unwrap();
    let top = Terminal::run(&house, "top --every 200ms --by ann");
    for part in ["7 queued  1 running  3 dead   1 workers", "no route to host", runs.id().as_str()]
    {
        top.shows(part).await;
    }
    println!("{}", top.screen());

    // Queues: paused and resumed, opened and left, one of their tasks opened.
    top.press("p");
    top.shows("paused by ann").await;
    assert_eq!(house.queue().await.paused.unwrap().by, "ann");
    top.press("p");
    eventually("it goes on", async || house.queue().await.paused.is_none().then_some(())).await;
    top.press("Enter");
    top.shows(" queue default (esc goes back) ").await;
    top.press("Down");
    top.press("Enter");
    top.shows("it is next").await;
    // One after the other: two that are read at once are another key.
    top.press("Escape");
    top.shows(" queue default (esc goes back) ").await;
    top.press("Escape");
    top.shows("1 queues").await;

    // What cannot be undone is asked for.
    top.press("X");
    top.shows("throw away all that is ready in queue default? This cannot be undone. y/n").await;
    top.press("n");
    top.shows("nothing was done").await;
    assert_eq!(house.queue().await.queued, 7);
    top.press("X");
    top.press("y");
    top.shows("7 tasks of queue default are thrown away").await;
    assert_eq!(house.queue().await.queued, 0);

    // Failures: one deleted, one run again, opened, and all.
    top.press("3");
    top.press("D");
    top.shows("delete dead letter").await;
    top.press("y");
    top.shows("is deleted").await;
    assert_eq!(house.queue().await.dead, 2);
    top.press("Enter");
    top.shows("\"name\": \"lost1\"").await;
    top.press("Escape");
    top.press("r");
    top.shows("runs again").await;
    assert_eq!((house.queue().await.dead, house.queue().await.queued), (1, 1));
    top.press("1");
    top.press("R");
    top.press("y");
    top.shows("1 dead letters of queue default run again").await;

    // Running: cancelled.
    top.press("2");
    top.press("c");
    assert_eq!(house.ended(runs.id()).await.state, TaskState::Cancelled);
    top.press("q");
    top.shows("ended with 0").await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_so_while_redis_is_away_and_goes_on_when_it_is_back() {
    let house = House::start();
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    let top = Terminal::run(&house, "top --every 200ms --by ann");
    top.shows("1 queued").await;
    house.redis.kill9();
    top.shows("cannot look: redis is unreachable").await;
    house.redis.restart();
    // The client of the house has to notice too.
    eventually("the queue is paused", async || {
        let queue = shard().queue().clone();
        house.client.pause(&queue, "ann", "noon", chrono::Utc::now()).await.ok()
    })
    .await;
    top.shows("paused by ann").await;
    top.press("C-c");
    top.shows("ended with 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sits_at_a_terminal_is_asked_and_shown_how_far_it_is() {
    let house = House::start();
    house.client.enqueue(Probe::new("a", Act::Ok)).await.unwrap();
    for (answer, left, told) in [("n", 1, "nothing was done"), ("y", 0, "thrown away: 1")] {
        let purge = Terminal::run(&house, "purge default");
        purge
            .shows("throws away 1 tasks that are ready. This cannot be undone. Go on? [y/N]")
            .await;
        purge.press(answer);
        purge.press("Enter");
        purge.shows(told).await;
        purge.shows("ended with").await;
        assert_eq!(house.queue().await.queued, left);
    }
    // Without a terminal there is nothing to draw on.
    let refused = super::refused(&house, &["top"], 1);
    assert!(refused.contains("terminal"), "{refused}");
}
