//! The supervising process: one child a role, each kept running for itself, all ended in order.

use std::{io, time::Duration};

use tokio::{task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    keeper::{Deaths, Keeper},
    reap::Reaper,
    roles::Role,
    settings::{Settings, SettingsError},
    signals::Asked,
    telemetry::metrics::House,
};

/// The roles in the order of their end: what brings work before what does it. What the API still
/// enqueues waits in Redis.
const ORDER: [Role; 3] = [Role::Api, Role::Beat, Role::Worker];

/// How long the next one waits for one that is asked to end: all of them share one grace time, and a
/// request may last as long as that.
const STEP_LIMIT: Duration = Duration::from_secs(1);

/// How long the last word of dead workers may take when all is to end; the lease does without it.
const WORD_LIMIT: Duration = Duration::from_secs(5);

/// The same where all is to end at once.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);

/// Why the supervisor ended before it was asked to, or otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{role} cannot run as it is set up; its message stands above")]
    Refused { role: &'static str },
    #[error(
        "{role} died {deaths} times in a row before it was ready: giving up, so that all can be \
         started anew; why stands above"
    )]
    NeverReady { role: &'static str, deaths: u32 },
    #[error("{role} cannot be started")]
    Spawn {
        role: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the metrics cannot be told")]
    Metrics(#[source] anyhow::Error),
    #[error("orphans cannot be looked after")]
    Reaper(#[source] io::Error),
    #[error("the keeper of a role has ended by a panic: a defect here")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("a second signal ended all at once; what ran is run again by others")]
    AtOnce,
}

/// Keeps the three roles running until they are asked to stop, then ends them in order.
pub(crate) async fn supervise(settings: &Settings, asked: &Asked) -> Result<(), SuperviseError> {
    let reaper = tokio::spawn(Reaper::new().map_err(SuperviseError::Reaper)?.run());
    let house = House::new(&ORDER.map(Role::as_str));
    house.start(settings, asked.stop.clone()).await?;
    let mut crew = Crew::start(settings, asked, &house)?;
    tokio::select! {
        () = asked.stop.cancelled() => {}
        // A keeper ends unasked only where its role can never run.
        _ = crew.next() => {}
    }
    crew.end().await;
    let limit = if asked.at_once.is_cancelled() { LAST_WORD_LIMIT } else { WORD_LIMIT };
    crew.words.close();
    if timeout(limit, crew.words.wait()).await.is_err() {
        warn!("redis was not told of all dead workers; their tasks run again after a lease");
    }
    reaper.abort();
    match asked.at_once.is_cancelled() {
        true => Err(SuperviseError::AtOnce),
        false => crew.result,
    }
}

/// The keepers of all roles.
struct Crew {
    keepers: JoinSet<(Role, Result<(), SuperviseError>)>,
    stops: Vec<(Role, CancellationToken)>,
    ended: Vec<Role>,
    /// What is still to be told of deaths.
    words: TaskTracker,
    /// The first that went wrong.
    result: Result<(), SuperviseError>,
}

impl Crew {
    fn start(settings: &Settings, asked: &Asked, house: &House) -> Result<Self, SuperviseError> {
        let (broker, words) = (settings.broker()?, TaskTracker::new());
        let (mut keepers, mut stops) = (JoinSet::new(), Vec::new());
        for role in ORDER {
            let keeper = Keeper {
                role,
                settings: settings.clone(),
                broker: broker.clone(),
                words: words.clone(),
                at_once: asked.at_once.clone(),
                deaths: Deaths::new(settings.restart_limit),
                sockets: house.sockets().to_owned(),
            };
            let stop = asked.at_once.child_token();
            stops.push((role, stop.clone()));
            keepers.spawn(async move { (role, keeper.run(stop).await) });
        }
        Ok(Self { keepers, stops, ended: Vec::new(), words, result: Ok(()) })
    }

    /// Waits for the end of a keeper; `None` when all have ended.
    async fn next(&mut self) -> Option<()> {
        let result = match self.keepers.join_next().await? {
            Ok((role, result)) => {
                self.ended.push(role);
                result
            }
            Err(panic) => Err(SuperviseError::Panicked(panic)),
        };
        let before = std::mem::replace(&mut self.result, Ok(()));
        self.result = before.and(result);
        Some(())
    }

    /// Asks one role after the other to end, and waits for all.
    async fn end(&mut self) {
        for (role, stop) in self.stops.clone() {
            info!(role = role.as_str(), "is asked to end");
            stop.cancel();
            let gone =
                async { while !self.ended.contains(&role) && self.next().await.is_some() {} };
            // One that takes longer ends beside those that come after it.
            let _ = timeout(STEP_LIMIT, gone).await;
        }
        while self.next().await.is_some() {}
    }
}
