//! Every task's way through Redis, replayed from the append-only file: what was accepted, handed
//! out, added again and ended, and each step that must not have been.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
};

use serde_json::Value;

use super::{
    aof::{self, Command, EntryId, entry_id},
    wrong::Wrong,
};

/// What happened to one task.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Story {
    pub handed_out: Vec<HandOut>,
    /// The workers from which it was taken after they were declared dead.
    pub recovered_from: Vec<String>,
    pub ends: Vec<End>,
    /// What wiped it out, if it had not ended: a flush, a deleted stream.
    pub taken_by: Option<String>,
    pub attempt: u32,
    pub crashes: u32,
    max_attempts: Option<u32>,
    in_streams: u32,
    waits: bool,
}

/// An entry was given to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOut {
    pub worker: String,
    /// By the clock of Redis, in milliseconds.
    pub at: i64,
}

/// An accepted end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub state: String,
    /// By the clock of the worker, in milliseconds.
    pub at: i64,
}

impl Story {
    /// In how many of {waiting in a stream or held, delayed or parked, ended} it is: must be one.
    fn places(&self) -> u32 {
        self.in_streams + u32::from(self.waits) + u32::from(!self.ends.is_empty())
    }

    /// Whether it neither has ended nor is anywhere, though nothing wiped it out.
    pub fn is_lost(&self) -> bool {
        self.places() == 0 && self.taken_by.is_none()
    }

    pub fn has_succeeded(&self) -> bool {
        self.ends.iter().any(|end| end.state == "succeeded")
    }
}

#[derive(Debug, Default)]
struct Stream {
    entries: BTreeMap<EntryId, String>,
    held: HashMap<EntryId, String>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By task id.
    pub stories: HashMap<String, Story>,
    /// Worker → the process that it was, by its own word.
    pub pids: HashMap<String, u32>,
    /// Dead letters: task id → why.
    pub dead: BTreeMap<String, String>,
    pub wrongs: Vec<Wrong>,
    streams: HashMap<String, Stream>,
    declared: HashSet<String>,
    touched: BTreeSet<String>,
}

impl Ledger {
    /// Replays what a Redis wrote into its folder.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        aof::read(dir, |commands| ledger.apply(commands))?;
        Ok(ledger)
    }

    /// Takes in one transaction, and judges it as a whole.
    pub fn apply(&mut self, commands: &[Command]) {
        for command in commands {
            self.step(command);
        }
        for id in std::mem::take(&mut self.touched) {
            let Some(story) = self.stories.get(&id) else { continue };
            // What was never tracked is not ours to follow.
            if story.max_attempts.is_some() && story.taken_by.is_none() && story.places() != 1 {
                self.wrongs.push(Wrong::new("I1", &id, format!("is in {} places", story.places())));
            }
        }
    }

    fn step(&mut self, command: &Command) {
        let key = command.word(1);
        let part = key.split_once("}:").map_or(key, |(_, part)| part);
        match (command.name().as_str(), part) {
            ("FLUSHALL" | "FLUSHDB", _) => self.flush(),
            ("XADD", part) if part.starts_with("ready:") => self.add(command),
            ("XADD", "dead") => {
                let why = command.field(3, "why").unwrap_or("?").to_owned();
                self.dead.insert(command.field(3, "id").unwrap_or("?").to_owned(), why);
            }
            ("XCLAIM", _) => self.hand_out(command),
            ("XACK", _) => self.acknowledge(command),
            ("XDEL", part) if part.starts_with("ready:") => self.delete(command),
            ("DEL" | "UNLINK", _) => {
                for n in 1..command.0.len() {
                    self.delete_stream(command.word(n));
                }
            }
            ("XTRIM", _) => self.wrongs.push(Wrong::new("I1", key, "was trimmed")),
            ("XGROUP", _) => self.group(command),
            ("HSET", "waiting") => self.wait(command.word(2), true),
            ("HDEL", "waiting") => {
                for n in 2..command.0.len() {
                    self.wait(command.word(n), false);
                }
            }
            ("HSET", "info") => self.introduce(command),
            ("HSET", "heartbeat") if command.word(3).starts_with("dead") => {
                self.declared.insert(command.word(2).to_owned());
            }
            ("HDEL", "heartbeat") => {
                self.declared.remove(command.word(2));
            }
            ("HINCRBY", "heartbeat") if self.declared.contains(command.word(2)) => {
                let wrong = Wrong::new("I11", command.word(2), "beats after it was declared dead");
                self.wrongs.push(wrong);
            }
            ("HSET", part) => {
                if let Some(id) = part.strip_prefix("task:") {
                    self.state(id, command);
                }
            }
            _ => {}
        }
    }

    fn story(&mut self, id: &str) -> &mut Story {
        self.touched.insert(id.to_owned());
        self.stories.entry(id.to_owned()).or_default()
    }

    fn add(&mut self, command: &Command) {
        let entry = entry_id(command.word(2));
        if entry == EntryId::default() {
            let wrong = Wrong::new("I1", command.word(1), "is written with a bound");
            return self.wrongs.push(wrong);
        }
        let id = command.field(3, "id").unwrap_or_default().to_owned();
        let number = |name| command.field(3, name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (attempt, crashes) = (number("attempt"), number("crashes"));
        let story = self.story(&id);
        story.in_streams += 1;
        let was = (story.attempt, story.crashes);
        (story.attempt, story.crashes) = (attempt, crashes);
        let most = story.max_attempts.unwrap_or(u32::MAX);
        let returned = story.taken_by.clone();
        if attempt < was.0 || crashes < was.1 || attempt > most {
            let text = format!(
                "attempt {} crashes {} became {attempt} {crashes}, of {most}",
                was.0, was.1
            );
            self.wrongs.push(Wrong::new("I5", &id, text));
        }
        if let Some(by) = returned {
            self.wrongs.push(Wrong::new("I16", &id, format!("is back after {by} took it")));
        }
        self.streams.entry(command.word(1).to_owned()).or_default().entries.insert(entry, id);
    }

    fn hand_out(&mut self, command: &Command) {
        let entry = entry_id(command.word(5));
        let worker = command.word(3).to_owned();
        let at = command.field(6, "TIME").and_then(|ms| ms.parse().ok()).unwrap_or_default();
        let stream = self.streams.entry(command.word(1).to_owned()).or_default();
        let id = stream.entries.get(&entry).cloned();
        if let Some(before) = stream.held.insert(entry, worker.clone())
            && before != worker
        {
            let text = format!("was given to {worker} while {before} held it");
            self.wrongs.push(Wrong::new("I3", command.word(5), text));
        }
        match id {
            Some(id) => self.story(&id).handed_out.push(HandOut { worker, at }),
            None => {
                let wrong = Wrong::new("I6", command.word(5), "was handed out without a body");
                self.wrongs.push(wrong);
            }
        }
    }

    fn acknowledge(&mut self, command: &Command) {
        let Some(stream) = self.streams.get_mut(command.word(1)) else { return };
        let mut recovered = Vec::new();
        for n in 3..command.0.len() {
            let entry = entry_id(command.word(n));
            let Some(worker) = stream.held.remove(&entry) else { continue };
            // A recovery adds first and acknowledges then; whoever settles does it the other way.
            if let Some(id) = stream.entries.get(&entry) {
                recovered.push((id.clone(), worker));
            }
        }
        for (id, worker) in recovered {
            let story = self.story(&id);
            if story.in_streams > 1 {
                story.recovered_from.push(worker);
            }
        }
    }

    fn delete(&mut self, command: &Command) {
        let Some(stream) = self.streams.get_mut(command.word(1)) else { return };
        let mut gone = Vec::new();
        for n in 2..command.0.len() {
            let entry = entry_id(command.word(n));
            gone.extend(stream.entries.remove(&entry));
            if stream.held.contains_key(&entry) {
                let wrong = Wrong::new("I6", command.word(n), "was deleted while it was held");
                self.wrongs.push(wrong);
            }
        }
        for id in gone {
            self.story(&id).in_streams -= 1;
        }
    }

    fn delete_stream(&mut self, key: &str) {
        if let Some(stream) = self.streams.remove(key) {
            for id in stream.entries.into_values() {
                let story = self.story(&id);
                story.in_streams -= 1;
                if story.places() == 0 {
                    story.taken_by = Some("DEL".to_owned());
                }
            }
        }
    }

    fn group(&mut self, command: &Command) {
        let Some(stream) = self.streams.get_mut(command.word(2)) else { return };
        match command.word(1).to_ascii_uppercase().as_str() {
            "DESTROY" => stream.held.clear(),
            "DELCONSUMER" => {
                let worker = command.word(4);
                let before = stream.held.len();
                stream.held.retain(|_, holder| holder != worker);
                if stream.held.len() != before {
                    let count = before - stream.held.len();
                    let text = format!("was deleted while it held {count}");
                    self.wrongs.push(Wrong::new("I10", worker, text));
                }
            }
            _ => {}
        }
    }

    fn wait(&mut self, id: &str, waits: bool) {
        self.story(id).waits = waits;
    }

    fn introduce(&mut self, command: &Command) {
        if let Some(pid) = told_pid(command.word(3)) {
            self.pids.insert(command.word(2).to_owned(), pid);
        }
    }

    fn state(&mut self, id: &str, command: &Command) {
        let most = command.field(2, "max").and_then(|max| max.parse().ok());
        let at = command.field(2, "finished").and_then(|ms| ms.parse().ok()).unwrap_or_default();
        let Some(state) = command.field(2, "state").map(str::to_owned) else { return };
        let is_end = matches!(state.as_str(), "succeeded" | "failed" | "cancelled" | "expired");
        let story = self.story(id);
        story.max_attempts = story.max_attempts.or(most);
        let before = story.ends.last().map(|end| end.state.clone());
        if is_end {
            story.ends.push(End { state: state.clone(), at });
        }
        if let Some(before) = before {
            let text = format!("became {state} after it had {before}");
            self.wrongs.push(Wrong::new("I2", id, text));
        }
    }

    fn flush(&mut self) {
        self.streams.clear();
        self.declared.clear();
        for story in self.stories.values_mut() {
            if story.ends.is_empty() && story.taken_by.is_none() {
                story.taken_by = Some("FLUSHALL".to_owned());
            }
            (story.in_streams, story.waits) = (0, false);
        }
    }

    /// The tasks of each stream, as they stand at the end.
    pub fn entries(&self) -> BTreeMap<&str, Vec<&str>> {
        let nonempty = self.streams.iter().filter(|(_, stream)| !stream.entries.is_empty());
        nonempty
            .map(|(key, stream)| {
                (key.as_str(), stream.entries.values().map(String::as_str).collect())
            })
            .collect()
    }
}

/// The process that a worker is, by what it tells of itself.
pub fn told_pid(info: &str) -> Option<u32> {
    let told: Value = serde_json::from_str(info).ok()?;
    u32::try_from(told["pid"].as_u64()?).ok()
}
