//! Keeps a worker alive in the eyes of the others, on a thread of its own: it beats on while tasks
//! block every thread of the runtime.

use std::{
    io, process,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use chrono::Utc;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use umbel_broker::{
    BrokerError, Client,
    liveness::{Beats, Heartbeat},
    roster::WorkerInfo,
};

use crate::{cancels::Cancels, hang::HangWatch, running::RunningTasks};

/// Four of these fit in the shortest lease.
const BEAT_EVERY: Duration = Duration::from_secs(3);

/// After a beat that was not answered: tasks start again only once one was.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How old the last answered beat may be for a task to start: well under the lease, so that what
/// starts here is not being given to another.
const FRESH: Duration = Duration::from_secs(10);

/// The exit code of a process whose tasks have blocked it: an error in the software itself.
const HUNG: i32 = 70;

/// What the other loops of a worker read of its heart.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    last: Arc<Mutex<Option<Sent>>>,
    /// The beats of all workers, with when they were answered. `None`: no answer.
    pub beats: watch::Receiver<Option<(Instant, Beats)>>,
    /// This worker was declared dead.
    pub fenced: CancellationToken,
    /// Nobody beats any more, for whatever reason.
    pub ended: CancellationToken,
}

/// When an answered beat was sent, by both clocks: the monotonic one stands still while a virtual
/// machine is suspended.
#[derive(Debug, Clone, Copy)]
struct Sent {
    monotonic: Instant,
    wall: SystemTime,
}

impl Pulse {
    /// Whether a task may start: the lease cannot have been taken away yet.
    pub fn is_fresh(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|sent| {
            let wall = sent.wall.elapsed().unwrap_or_default();
            sent.monotonic.elapsed().max(wall) < FRESH && !self.fenced.is_cancelled()
        })
    }
}

/// The thread that beats.
#[derive(Debug)]
pub(crate) struct Heart {
    client: Client,
    worker: String,
    /// What it tells of itself: what stays, and what it runs.
    told: (WorkerInfo, RunningTasks),
    last: Arc<Mutex<Option<Sent>>>,
    beats: watch::Sender<Option<(Instant, Beats)>>,
    fenced: CancellationToken,
    hang: HangWatch,
    cancels: Cancels,
}

impl Heart {
    /// Starts beating until `stop`. The thread ends by itself when fenced.
    pub fn start(
        client: &Client,
        worker: String,
        told: (WorkerInfo, RunningTasks),
        hang: HangWatch,
        cancels: Cancels,
        stop: CancellationToken,
    ) -> Result<(Pulse, thread::JoinHandle<()>), HeartError> {
        let (beats, seen) = watch::channel(None);
        let heart = Self {
            client: client.clone(),
            worker,
            told,
            last: Arc::default(),
            beats,
            fenced: CancellationToken::new(),
            hang,
            cancels,
        };
        let ended = CancellationToken::new();
        let pulse = Pulse {
            last: heart.last.clone(),
            beats: seen,
            fenced: heart.fenced.clone(),
            ended: ended.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("heartbeat".to_owned()).spawn(move || {
            let _told_at_the_end = ended.drop_guard();
            runtime.block_on(heart.run(stop));
        })?;
        Ok((pulse, thread))
    }

    async fn run(mut self, stop: CancellationToken) {
        // A connection belongs to the runtime that made it; the worker's may be blocked.
        match self.client.separate() {
            Ok(client) => self.client = client,
            Err(error) => return error!(%error, "no heartbeat"),
        }
        let mut answered = true;
        let mut looked = Instant::now();
        while !stop.is_cancelled() && !self.fenced.is_cancelled() {
            match self.step().await {
                Ok(()) if !answered => {
                    answered = true;
                    info!("redis answers again");
                }
                Ok(()) => {}
                Err(error) => {
                    answered = false;
                    let _ = self.beats.send_replace(None);
                    warn!(%error, "no heartbeat; trying again in {RETRY_EVERY:?}");
                }
            }
            let pause = if answered { BEAT_EVERY } else { RETRY_EVERY };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
            if let Some(still) = self.hang.look(looked.elapsed()) {
                self.end_process(still);
            }
            looked = Instant::now();
        }
    }

    /// A silent worker is a dead one: its tasks go to others, and its supervisor starts a new one.
    fn end_process(&self, still: Duration) -> ! {
        error!(
            worker = self.worker,
            "tasks have blocked every thread for {still:?}, longer than HANG_LIMIT and any time limit: ending this process"
        );
        process::exit(HUNG)
    }

    async fn step(&self) -> Result<(), BrokerError> {
        let sent = Sent { monotonic: Instant::now(), wall: SystemTime::now() };
        let (info, tasks) = &self.told;
        let told = tasks
            .tell(info, Utc::now())
            .map_err(|error| BrokerError::Unexpected(format!("what a worker tells: {error}")))?;
        match self.client.heartbeat(&self.worker, &told).await? {
            Heartbeat::Alive(mut beats) => {
                self.cancels.told(std::mem::take(&mut beats.asked));
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
                let _ = self.beats.send_replace(Some((Instant::now(), beats)));
            }
            Heartbeat::Fenced => {
                error!(
                    worker = self.worker,
                    "declared dead by the others: what this worker holds is theirs now"
                );
                self.fenced.cancel();
            }
        }
        Ok(())
    }
}

/// Why no heart could be started.
#[derive(Debug, thiserror::Error)]
#[error("the heartbeat thread cannot be started")]
pub(crate) struct HeartError(#[from] io::Error);
