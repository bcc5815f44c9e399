//! Ten thousand tasks through workers that are killed, frozen, woken after they were declared dead,
//! and whose answers are lost, on a real Redis: nothing is lost, and no task is completed twice.
//!
//! There is no real worker here: bare consumers and settlers do one act at a time, and a driver
//! draws from a seed who does what next and awaits it. So each answer can be foretold, and is
//! compared; where two acts race, the sum of both answers is. At the end all is judged once more by
//! the server's own history, its append-only file ([`audit`]).
//!
//! The seed gives the schedule: which step comes next, for which worker, with how many tasks. What
//! is not the seed's is real: entry ids, the order of delayed tasks that become due in one
//! millisecond, and who wins a race. A failure tells its seed and the last steps. Again, with the
//! same seed: `UMBEL_SCHEDULE_SEED=7 cargo test -p umbel-tests --test it schedule`.

use std::{env, fmt, sync::Arc, thread, time::Instant};

use tokio::runtime;
use umbel_broker::Scripts;

mod deaths;
mod driver;
mod model;
mod server;
mod steps;
mod worker;

use driver::Driver;

const TASKS: usize = 10_000;

/// Small, and the same each time.
const KNOWN: [u64; 3] = [1, 2, 3];
const TASKS_OF_KNOWN: usize = 300;

/// Script, a line of it, and a wrong one instead.
const BROKEN: [(&str, &str, &str); 9] = [
    // What was given to another is settled all the same.
    ("settle", "t.won = redis.call('XDEL', key, t.entry) == 1", "t.won = true"),
    // What was recovered is still there, with its old owner or without.
    ("recover", "redis.call('XACK', KEYS[i], GROUP, entry)", ""),
    ("recover", "redis.call('XDEL', KEYS[i], entry)", ""),
    // Attempts begin again.
    ("settle", "'attempt', tonumber(t.attempt) + 1", "'attempt', 1"),
    // What is due is moved again.
    ("tick", "redis.call('ZREM', set, unpack(ids))", ""),
    // An enqueue that is asked again is another one.
    ("enqueue", "if key ~= '' then redis.call('SET'", "if false then redis.call('SET'"),
    // Who beats in between is declared dead all the same.
    ("declare", "~= ARGV[2]", "== 'nobody'"),
    // The dead are not told.
    ("heartbeat", "if value and string.sub(value, 1, 4) == 'dead' then return {'FENCED'} end", ""),
    // What is not parked any more is still kept.
    ("unpark", "redis.call('HDEL', waiting, unpack(ids))", ""),
];

/// What happened in a run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub steps: u64,
    pub kills: u64,
    pub freezes: u64,
    /// Frozen workers that woke up after they had been declared dead and recovered.
    pub zombies: u64,
    /// Tasks of the dead that were added again.
    pub recovered: u64,
    pub enqueues_lost: u64,
    pub reads_lost: u64,
    pub settles_lost: u64,
    /// Settles that were sent a second time, in tasks.
    pub sent_again: u64,
    /// Zombies that settled what was being recovered.
    pub races: u64,
    pub stale: u64,
    /// Given up after a restart of the server, since it was another's.
    pub dropped: u64,
    pub restarts: u64,
    pub deliveries: u64,
    pub completed: u64,
    pub buried: u64,
    pub discarded: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, kills, freezes, zombies, restarts, .. } = self;
        let Self { enqueues_lost, reads_lost, settles_lost, sent_again, races, .. } = self;
        let Self { deliveries, recovered, stale, dropped, completed, buried, discarded, .. } = self;
        write!(
            f,
            "{steps} steps, {kills} kills, {freezes} freezes, {zombies} zombies, {restarts} \
             restarts; lost: {enqueues_lost} enqueues, {reads_lost} reads, {settles_lost} settles; \
             {sent_again} settled a second time, {races} races; {deliveries} deliveries, \
             {recovered} recovered, {stale} stale, {dropped} dropped; {completed} completed, \
             {buried} buried, {discarded} discarded"
        )
    }
}

/// Tells the seed at the start, and again if the run fails.
struct Seed(u64);

impl Seed {
    fn told(seed: u64) -> Self {
        println!("schedule: seed {seed}");
        Self(seed)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("schedule: failed with UMBEL_SCHEDULE_SEED={}", self.0);
        }
    }
}

async fn run(seed: u64, tasks: usize, scripts: Option<Arc<Scripts>>) -> Figures {
    let seed = Seed::told(seed);
    let began = Instant::now();
    let mut driver = Driver::start(seed.0, tasks, scripts).await;
    driver.storm().await;
    driver.calm().await;
    let figures = driver.judge().await;
    println!("schedule: seed {}, {tasks} tasks, {:.1?}: {figures}", seed.0, began.elapsed());
    figures
}

#[tokio::test]
async fn ten_thousand_tasks_survive_a_schedule_that_nobody_has_seen() {
    let seed = match env::var("UMBEL_SCHEDULE_SEED") {
        Ok(seed) => seed.parse().expect("UMBEL_SCHEDULE_SEED is a number"),
        Err(_) => rand::random(),
    };
    let figures = run(seed, TASKS, None).await;
    // A schedule in which nothing happens would prove nothing.
    assert!(figures.kills >= 100 && figures.freezes >= 100 && figures.zombies >= 50, "{figures:?}");
    assert!(figures.settles_lost >= 100 && figures.reads_lost >= 50, "{figures:?}");
    assert!(figures.stale >= 200 && figures.races >= 20 && figures.restarts == 3, "{figures:?}");
}

#[tokio::test]
async fn the_known_schedules_are_survived() {
    for seed in KNOWN {
        let figures = run(seed, TASKS_OF_KNOWN, None).await;
        assert!(figures.kills > 0 && figures.zombies > 0 && figures.stale > 0, "{figures:?}");
    }
}

#[test]
fn a_broken_line_of_a_script_is_found_by_the_known_schedules() {
    for (script, line, instead) in BROKEN {
        let is_survived = |seed: u64| {
            // On a thread of its own, so that its panic is its end.
            let run = thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let scripts = Scripts::broken(script, line, instead);
                runtime.block_on(run(seed, TASKS_OF_KNOWN, Some(scripts)))
            });
            run.join().is_ok()
        };
        assert!(!KNOWN.into_iter().all(is_survived), "not found: {script}, `{line}`");
    }
}
