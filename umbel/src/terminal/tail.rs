//! Follows what happens: queues that fill, empty, are paused; workers that come and go; what they run;
//! what fails for good; what schedules fire. Looks once a second, so that it costs the same however busy
//! the house is; a task that ends between two heartbeats of its worker shows in the depth of its queue only.

use std::{collections::VecDeque, io, time::Duration};

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;
use umbel_broker::{BrokerError, Client};

use super::{
    Output, print,
    table::plain,
    watch::{Event, Look, between},
};

/// How often a look is taken.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many dead letters of a queue a look takes: more in a second are told as many.
const FAILURES: usize = 20;

/// Of how many tasks that have left their worker a look asks how they ended.
const ENDS_ASKED: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Only of this queue, worker or schedule
    #[arg(long)]
    of: Option<String>,
    /// Only these events, with commas: depth, paused, resumed, joined, left, silent, running, done, dead,
    /// fired, missed
    #[arg(long, value_delimiter = ',')]
    events: Vec<String>,
    /// End after so many events
    #[arg(long)]
    count: Option<usize>,
    /// Print one JSON a line
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(client: &Client, args: &TailArgs) -> anyhow::Result<()> {
    let mut tail = Tail { client, last: Look::take(client, FAILURES).await? };
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut left = args.count.unwrap_or(usize::MAX);
    while left > 0 {
        ticks.tick().await;
        let events = match tail.step().await {
            Ok(events) => events,
            Err(error) if error.is_transient() => {
                warn!(%error, "cannot look; trying again in {LOOK_EVERY:?}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut wanted: VecDeque<Event> = events
            .into_iter()
            .filter(|event| args.of.as_ref().is_none_or(|of| *of == event.of))
            .filter(|event| args.events.is_empty() || args.events.iter().any(|e| e == event.event))
            .collect();
        while let Some(event) = wanted.pop_front().filter(|_| left > 0) {
            left -= 1;
            if !show(&event, args.output)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct Tail<'a> {
    client: &'a Client,
    last: Look,
}

impl Tail<'_> {
    /// Looks once, and tells what happened since the look before.
    async fn step(&mut self) -> Result<Vec<Event>, BrokerError> {
        let look = Look::take(self.client, FAILURES).await?;
        let mut events = between(&self.last, &look);
        self.last = look;
        for event in events.iter_mut().filter(|event| event.event == "done").take(ENDS_ASKED) {
            let Some(Ok(id)) = event.id.as_ref().map(|id| id.parse()) else { continue };
            let Some(record) = self.client.task(&id).await? else { continue };
            event.text = format!("{}: {}", event.text, record.state);
            if let Some(error) = record.error {
                event.text = plain(&format!("{} ({error})", event.text));
            }
        }
        Ok(events)
    }
}

/// Whether anybody reads on.
fn show(event: &Event, output: Output) -> anyhow::Result<bool> {
    let line = if output.json {
        serde_json::to_string(event)?
    } else {
        let id = event.id.as_ref().map_or(String::new(), |id| format!("{id} "));
        let at = event.at.format("%H:%M:%S");
        format!("{at} {:<8} {:<20} {id}{}", event.event, event.of, event.text)
    };
    match print(&line) {
        Err(error) if error.downcast_ref::<io::Error>().is_some() => Ok(false),
        printed => printed.map(|()| true),
    }
}
