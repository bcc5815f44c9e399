//! One worker id from its first heartbeat to its last settle. A worker that was declared dead goes
//! on under a new one; what the old one still ran is asked to end, and its settles are refused.

use std::{
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use chrono::Utc;
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use umbel_broker::{Client, Consumer, Held, Settler, Stop, keys::Shard, roster::WorkerInfo};

use crate::{
    Endpoints, Stopped, WorkerError, WorkerSettings,
    cancels::Cancels,
    execute::{Executor, Limits},
    hang::{HangWatch, Longest, turn},
    heartbeat::{Heart, Pulse},
    listener::listen,
    meters::Meters,
    pipeline::Pipeline,
    promoter::Promoter,
    reaper::Reaper,
    running::RunningTasks,
};

/// How long tasks that were asked to end, or were ended, may take to be given back.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// How long the last settles may take once everything has ended.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// A read that blocks at the worst moment, and a little for the release of what it brings.
const FETCH_STOP_LIMIT: Duration = Duration::from_secs(10);

/// How often a blocked read is asked to end; one ask can fall between two reads.
const UNBLOCK_EVERY: Duration = Duration::from_millis(50);

/// What all lives of a worker share.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub client: Client,
    pub endpoints: Endpoints,
    pub settings: WorkerSettings,
    pub shards: Vec<Shard>,
    /// One a task that runs, whichever life started it.
    pub permits: Arc<Semaphore>,
    pub longest: Longest,
    pub meters: Meters,
}

#[derive(Debug)]
pub(crate) struct Life {
    id: String,
    client: Client,
    grace: Duration,
    stop: CancellationToken,
    beating: CancellationToken,
    pulse: Pulse,
    heart: thread::JoinHandle<()>,
    held: Held,
    executor: Arc<Executor>,
    running: TaskTracker,
    reading: Stop,
    fetching: JoinHandle<()>,
    settling: JoinHandle<()>,
    promoting: JoinHandle<()>,
    reaping: JoinHandle<()>,
    others: TaskTracker,
}

/// Why a life is over.
#[derive(Debug)]
pub(crate) enum Over {
    /// The worker is to stop.
    Asked,
    /// The others declared it dead.
    Fenced,
    /// One of its loops has ended by itself.
    Broken(&'static str),
}

impl Life {
    /// Beats, and reads once a beat was answered.
    pub async fn begin(
        body: &Body,
        id: String,
        info: WorkerInfo,
        shutdown: &CancellationToken,
    ) -> Result<Self, WorkerError> {
        let beating = CancellationToken::new();
        let stop = shutdown.child_token();
        let turns = Arc::new(AtomicU64::new(0));
        let hang = HangWatch::new(turns.clone(), body.settings.hang_limit, body.longest.clone());
        let cancelled = CancellationToken::new();
        let (cancels, tasks) = (Cancels::new(cancelled.clone()), RunningTasks::default());
        let (pulse, heart) = Heart::start(
            &body.client,
            id.clone(),
            (info, tasks.clone()),
            hang,
            cancels.clone(),
            beating.clone(),
        )?;
        let others = TaskTracker::new();
        others.spawn(turn(turns, beating.clone()));
        // A worker beats before its first read: who holds tasks can be seen to live.
        // An error is that nobody beats: what ends this life at once.
        let mut beats = pulse.beats.clone();
        let _ = stop.run_until_cancelled(beats.wait_for(|_| pulse.is_fresh())).await;

        let client = body.client.clone();
        let held = Held::default();
        let (settler, settling) = Settler::start(client.clone(), id.clone(), held.clone());
        let executor = Arc::new(Executor {
            client: client.clone(),
            endpoints: body.endpoints.clone(),
            limits: Limits { crashes: body.settings.crash_limit, parked: body.settings.park_limit },
            longest: body.longest.clone(),
            worker: id.as_str().into(),
            cancels,
            meters: body.meters.clone(),
            tasks,
            cancelled,
            aborted: CancellationToken::new(),
        });
        let running = TaskTracker::new();
        let consumer = Consumer::new(client.clone(), id.clone(), body.shards.clone(), held.clone());
        let (reading, pauses) = (consumer.stop(), consumer.pauses());
        let pipeline = Pipeline {
            client: client.clone(),
            consumer,
            executor: executor.clone(),
            settler,
            held: held.clone(),
            pauses: pauses.clone(),
            pulse: pulse.clone(),
            worker: id.clone(),
            permits: body.permits.clone(),
            // `WorkerSettings::check` bounds it.
            concurrency: u32::try_from(body.settings.concurrency).unwrap_or(u32::MAX),
            running: running.clone(),
        };
        let fetching = tokio::spawn(pipeline.run(stop.clone()));
        others.spawn(listen(pauses.clone(), stop.clone()));
        let promoter =
            Promoter::new(client.clone(), body.shards.clone(), body.endpoints.clone(), pauses);
        let promoting = others.spawn(promoter.run(stop.clone()));
        let reaper = Reaper::new(client.clone(), id.clone(), pulse.clone(), body.settings.lease);
        let reaping = others.spawn(reaper.run(stop.clone()));
        others.close();
        let grace = body.settings.grace;
        Ok(Self {
            id,
            client,
            grace,
            stop,
            beating,
            pulse,
            heart,
            held,
            executor,
            running,
            reading,
            fetching,
            settling,
            promoting,
            reaping,
            others,
        })
    }

    /// Until it is asked to stop, or cannot go on.
    pub async fn over(&mut self) -> Over {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Over::Asked,
            () = self.pulse.fenced.cancelled() => Over::Fenced,
            // None of these ends by itself; a worker without one of them only looks alive.
            () = self.pulse.ended.cancelled() => Over::Broken("the heartbeat"),
            _ = &mut self.fetching => Over::Broken("the fetch loop"),
            _ = &mut self.settling => Over::Broken("the settler"),
            _ = &mut self.promoting => Over::Broken("the promoter"),
            _ = &mut self.reaping => Over::Broken("the reaper"),
        }
    }

    /// No further fetch, the grace time for what runs, then it is asked to end, and what does not
    /// end is given back.
    pub async fn end(self) -> Stopped {
        let Self { id, client, held, executor, running, pulse, heart, settling, .. } = self;
        self.stop.cancel();
        let fenced = pulse.fenced.is_cancelled();
        info!(worker = id, running = running.len(), "no further task is fetched");
        if fenced {
            // Others run these by now, and what they would say here is refused.
            executor.cancelled.cancel();
        }
        end_fetching(&self.reading, &self.fetching).await;
        let given_back = drain(&running, &executor, self.grace).await;

        if !settling.is_finished() && timeout(FLUSH_LIMIT, settling).await.is_err() {
            warn!(worker = id, "redis did not take the last settles within {FLUSH_LIMIT:?}");
        }
        let unsettled = held.len();
        // The last beat comes before the last word, or it would find its own tombstone.
        let was_fresh = pulse.is_fresh();
        self.beating.cancel();
        self.others.wait().await;
        if !matches!(tokio::task::spawn_blocking(|| heart.join()).await, Ok(Ok(()))) {
            error!(worker = id, "the heartbeat thread ended badly");
        }
        // Otherwise the others may have declared it dead meanwhile, and their word counts.
        if was_fresh && let Err(error) = client.sign_off(&id, Utc::now()).await {
            warn!(worker = id, %error, "could not sign off; the others will notice after a lease");
        }
        info!(worker = id, given_back, unsettled, fenced, "worker has stopped");
        Stopped { given_back, unsettled }
    }
}

async fn end_fetching(reading: &Stop, fetching: &JoinHandle<()>) {
    let unblocking = async {
        while !fetching.is_finished() {
            if let Err(error) = reading.request().await {
                warn!(%error, "could not end the blocked read; waiting for it");
            }
            sleep(UNBLOCK_EVERY).await;
        }
    };
    if timeout(FETCH_STOP_LIMIT, unblocking).await.is_err() {
        // With its connection; what was on its way there is recovered by others.
        error!("the fetch loop did not end within {FETCH_STOP_LIMIT:?} and is given up");
        fetching.abort();
    }
}

/// Waits for what runs, asks it to end, ends it. Returns how many did not end by themselves.
async fn drain(running: &TaskTracker, executor: &Executor, grace: Duration) -> usize {
    running.close();
    if timeout(grace, running.wait()).await.is_ok() {
        return 0;
    }
    executor.cancelled.cancel();
    if timeout(CANCEL_GRACE, running.wait()).await.is_ok() {
        return 0;
    }
    let left = running.len();
    warn!(count = left, "tasks did not end within the grace time; they are given back");
    executor.aborted.cancel();
    if timeout(CANCEL_GRACE, running.wait()).await.is_err() {
        error!(
            count = running.len(),
            "tasks block their thread and cannot be ended; they run again elsewhere, and this process must end now"
        );
    }
    left
}
