//! A live view of queues, workers, running tasks and failures, from which they are operated.

mod state;
mod view;

use std::{io::IsTerminal, thread, time::Duration};

use anyhow::bail;
use chrono::Utc;
use clap::Args;
use ratatui::crossterm::event::{self, Event as Input, KeyEvent, KeyEventKind};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use umbel_broker::{Client, PurgeKind, dead::LetterFilter, peek::Place};
use umbel_proto::TaskId;

use self::state::{Command, Line, Page, State};
use super::{
    inspect::record_json,
    table::{plain, relative},
    watch::Look,
    who,
    why::explain,
};

/// How many dead letters of each queue are in sight.
const FAILURES: usize = 20;

/// How many tasks of each standing a queue's page shows.
const TASKS_SHOWN: usize = 50;

/// What was typed faster than it could be done is taken in its order, and no more of it kept.
const KEYS_KEPT: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often it looks
    #[arg(long, default_value = "1s", value_parser = crate::env::duration)]
    every: Duration,
    /// Who acts; without it the user of this machine
    #[arg(long)]
    by: Option<String>,
}

/// The least time between two looks: each costs some commands a queue.
const EVERY_SHORTEST: Duration = Duration::from_millis(100);

pub(super) async fn run(client: Client, args: &TopArgs, crash_limit: u32) -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() {
        bail!("`top` draws on a terminal; `inspect` and `tail` print");
    }
    // Told before the screen is taken.
    client.ping().await?;
    let by = who(args.by.as_deref());
    let mut top = Top { client, by, crash_limit, state: State::default() };
    let mut terminal = ratatui::try_init()?;
    let ended = watch(&mut terminal, &mut top, args.every.max(EVERY_SHORTEST)).await;
    ratatui::try_restore()?;
    ended
}

async fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    top: &mut Top,
    every: Duration,
) -> anyhow::Result<()> {
    let mut keys = keys()?;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !top.state.is_over {
        let key = tokio::select! {
            _ = ticks.tick() => None,
            key = keys.recv() => match key {
                Some(key) => Some(key),
                // The terminal is gone.
                None => return Ok(()),
            },
        };
        top.step(key).await;
        terminal.draw(|frame| view::draw(frame, &top.state, Utc::now()))?;
    }
    Ok(())
}

/// The keys that are pressed, and a nothing-key where the size has changed. Reading them blocks, so a
/// thread does; it ends with the process.
fn keys() -> anyhow::Result<mpsc::Receiver<KeyEvent>> {
    let (sender, keys) = mpsc::channel(KEYS_KEPT);
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        while let Ok(input) = event::read() {
            let key = match input {
                Input::Key(key) if key.kind == KeyEventKind::Press => key,
                Input::Resize(..) => KeyEvent::new(event::KeyCode::Null, event::KeyModifiers::NONE),
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    })?;
    Ok(keys)
}

struct Top {
    client: Client,
    by: String,
    crash_limit: u32,
    state: State,
}

impl Top {
    /// Does what a key asks for, and looks again. What fails is shown, and tried again at the next look.
    async fn step(&mut self, key: Option<KeyEvent>) {
        let command = key.and_then(|key| self.state.press(key));
        let acted = match command {
            Some(command) => self.act(command).await.map(Some),
            // A key that only moves about needs no look.
            None if key.is_some() => return,
            None => Ok(None),
        };
        match acted {
            Ok(Some(said)) => self.state.message = said,
            Ok(None) => {}
            Err(error) => self.state.message = format!("{error:#}"),
        }
        match Look::take(&self.client, FAILURES).await {
            Ok(look) => self.state.seen(look),
            Err(error) => self.state.message = format!("cannot look: {error}"),
        }
    }

    /// What it did, in a sentence.
    async fn act(&mut self, command: Command) -> anyhow::Result<String> {
        let client = &self.client;
        Ok(match command {
            Command::Pause(queue) => {
                client.pause(&queue, &self.by, "from umbel top", Utc::now()).await?;
                format!("queue {queue} is paused")
            }
            Command::Resume(queue) => {
                client.resume(&queue).await?;
                format!("queue {queue} goes on")
            }
            Command::Cancel(id) => match client.cancel(&id.parse()?, &self.by).await? {
                Some(met) => format!("{id} is to end: {met:?}"),
                None => format!("nothing is known of {id}: an untracked task cannot be cancelled"),
            },
            Command::Redrive(queue, letter) => match client.redrive(&queue, letter).await? {
                Some(id) => format!("{id} runs again"),
                None => "somebody else was faster: this letter is gone".to_owned(),
            },
            Command::RedriveAll(queue) => {
                let (mut done, mut after) = (0, None);
                loop {
                    let swept = client.redrive_all(&queue, &LetterFilter::default(), after).await?;
                    done += swept.done;
                    after = swept.next;
                    if after.is_none() {
                        break format!("{done} dead letters of queue {queue} run again");
                    }
                }
            }
            Command::DeleteLetter(queue, letter) => {
                match client.delete_letter(&queue, letter).await? {
                    true => format!("dead letter {letter} is deleted"),
                    false => "somebody else was faster: this letter is gone".to_owned(),
                }
            }
            Command::Purge(queue) => {
                let mut purge = client.purge(&queue, PurgeKind::Queued, &self.by).await?;
                let mut gone = 0;
                while let Some(more) = purge.step().await? {
                    gone += more;
                }
                format!("{gone} tasks of queue {queue} are thrown away")
            }
            Command::OpenQueue(queue) => {
                let mut tasks = client.held_tasks(&queue, TASKS_SHOWN).await?;
                tasks.extend(client.ready_tasks(&queue, TASKS_SHOWN).await?);
                tasks.extend(client.delayed_tasks(&queue, TASKS_SHOWN).await?);
                tasks.extend(client.parked_tasks(&queue, TASKS_SHOWN).await?);
                let lines = tasks.into_iter().map(|task| {
                    let place = match &task.place {
                        Place::Held { worker, .. } => format!("held by {worker}"),
                        Place::Ready { stream } => format!("queued, {stream}"),
                        Place::Delayed { due } => format!("due {}", relative(*due, Utc::now())),
                        Place::Parked { .. } => "parked".to_owned(),
                    };
                    let attempt = task.attempt.unwrap_or(1);
                    Line::of_task(&task.id, format!("{} {attempt} {place}", task.task))
                });
                self.state.open(Page::new(format!("queue {queue}"), lines.collect()));
                String::new()
            }
            Command::OpenTask(id) => {
                let id: TaskId = id.parse()?;
                let found = client.whereabouts(&id).await?;
                let (_, why) = explain(&found, self.crash_limit);
                let mut lines = vec![Line::of_task(id.as_str(), why), Line::text("")];
                if let Some(record) = &found.record {
                    let shown = serde_json::to_string_pretty(&record_json(record)?)?;
                    lines.extend(shown.lines().map(Line::text));
                }
                self.state.open(Page::new(format!("task {id}"), lines));
                String::new()
            }
            Command::OpenLetter(queue, letter) => {
                let Some(opened) = client.dead_letter(&queue, letter).await? else {
                    return Ok("this letter is gone".to_owned());
                };
                let letter = &opened.letter;
                let args = opened.args.ok().and_then(|packed| {
                    umbel_proto::codec::decode::<serde_json::Value>(&packed).ok()
                });
                let mut lines = vec![
                    Line::of_task(letter.id.as_deref().unwrap_or_default(), letter.why.clone()),
                    Line::text(&format!("by {}", letter.worker)),
                    Line::text(""),
                ];
                lines.extend(letter.error.lines().map(Line::text));
                let args = args.map_or("arguments that cannot be shown".to_owned(), |args| {
                    serde_json::to_string_pretty(&args).unwrap_or_default()
                });
                lines.push(Line::text(""));
                lines.extend(args.lines().map(Line::text));
                self.state.open(Page::new(
                    format!("dead letter {} of queue {queue}", letter.letter),
                    lines,
                ));
                String::new()
            }
        })
    }
}

impl Line {
    fn text(text: &str) -> Self {
        Self { id: None, text: plain(text) }
    }

    fn of_task(id: &str, text: String) -> Self {
        Self { id: Some(id.to_owned()), text: plain(&text) }
    }
}
