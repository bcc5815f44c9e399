//! Reads the whole key space of a real Redis and says it in the model's words: entries by their
//! number, tasks, workers, generations and times by the command that made them.

use std::collections::BTreeMap;

use redis::{Connection, Script};
use umbel_broker::keys::{self, Stream};

use super::{
    log::Reader,
    model::State,
    picture::Picture,
    words::{KEY_TTL_MS, LATE_MS, RESULT_TTL_MS, SOON_MS, TOLD_MS, Worker},
};

/// The time that every entry id carries here, and the number before the first one: as by a server
/// whose clock is behind its last id. Ids then depend on no clock, two streams have the same, and
/// after a loss of data they come again and mean other tasks: the worst that can be.
pub const ID_MS: u64 = 4_102_444_800_000;
pub const ID_BEFORE: u64 = 1_000_000;

/// What stands for what.
#[derive(Debug, Default)]
pub struct Names {
    /// Ids of the accepted tasks, in their order, and their packed fields when first seen.
    pub tasks: Vec<String>,
    envs: BTreeMap<usize, Vec<u8>>,
    calls: BTreeMap<usize, String>,
    generations: Vec<String>,
    pub runs: Vec<String>,
    /// When each command began and had ended, ms.
    pub windows: Vec<(i64, i64)>,
}

type Row = Vec<Vec<u8>>;

impl Names {
    /// What stands in Redis. Of `state` it takes only which readers a server may or may not note.
    pub fn read(&mut self, connection: &mut Connection, state: &State) -> Picture {
        let script = Script::new(include_str!("keyspace.lua"));
        let rows: Vec<Row> = script.invoke(connection).expect("a script that only reads");
        let mut picture = Picture::new();
        for row in rows {
            let cells: Vec<String> =
                row.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
            if let Some((of, says)) = self.line(&cells, &row, state) {
                picture.insert(of, says);
            }
        }
        picture
    }

    /// `None`: a reader that the model calls possible.
    fn line(&mut self, cells: &[String], raw: &Row, state: &State) -> Option<(String, String)> {
        let [key, part, rest @ ..] = cells else {
            return Some((format!("{cells:?}"), String::new()));
        };
        let (key, raw) = (self.key(key), &raw[2..]);
        let first = rest.first().cloned().unwrap_or_default();
        let second = rest.get(1).cloned().unwrap_or_default();
        let known_worker = |id: &str| Worker::of(id).map_or(id.to_owned(), |w| w.to_string());
        Some(match part.as_str() {
            "expires" => {
                (format!("{key} expires"), self.time(&first, &[RESULT_TTL_MS, KEY_TTL_MS, TOLD_MS]))
            }
            "text" if key == "help" => {
                let says = if first == keys::HELP { "as it is shipped" } else { &first };
                (key, says.to_owned())
            }
            "text" => {
                let says = self.key_of_call(&first);
                (key, says)
            }
            "member" => {
                let member = self.task(&first);
                (format!("{key} {member}"), self.time(&second, &[SOON_MS, LATE_MS]))
            }
            "packed" => {
                let says = self.body(&raw[2..]);
                (format!("{key} {}", self.task(&first)), format!("{} {says}", stream_at(&second)))
            }
            "entry" => (format!("{key} {}", entry(&first)), self.body(&raw[1..])),
            "last" => (format!("{key} delivered up to"), entry(&first)),
            "pending" => (format!("{key} pending {}", entry(&first)), known_worker(&second)),
            "reader" => {
                if is_possible(state, &key, &first) {
                    return None;
                }
                (format!("{key} reader {}", known_worker(&first)), "known".to_owned())
            }
            "field" => {
                let field = match key.as_str() {
                    "heartbeat" | "info" => known_worker(&first),
                    "suspects" => suspect(&first),
                    key if key.starts_with("asked:") => self.task(&first),
                    _ => first.clone(),
                };
                let says = self.field(&key, &first, &second);
                (format!("{key} {field}"), says)
            }
            _ => (format!("{key} {part}"), rest.join(" ")),
        })
    }

    /// The key without what all keys have, a task in it by its number.
    fn key(&self, key: &str) -> String {
        let short = ["umbel:{default}:", "umbel:{workers}:", "umbel:"]
            .into_iter()
            .find_map(|prefix| key.strip_prefix(prefix))
            .unwrap_or(key);
        match short.split_once(':') {
            Some(("task", id)) => format!("task:{}", self.task(id)),
            Some(("asked", id)) => {
                format!("asked:{}", Worker::of(id).map_or(id.to_owned(), |w| w.to_string()))
            }
            _ => short.to_owned(),
        }
    }

    pub fn task(&self, id: &str) -> String {
        let place = self.tasks.iter().position(|task| task == id);
        place.map_or(id.to_owned(), |place| format!("t{place}"))
    }

    /// A time by the command in whose course it was, less one of `later`.
    pub fn time(&self, ms: &str, later: &[i64]) -> String {
        let Ok(at) = ms.parse::<f64>() else { return ms.to_owned() };
        let found = later.iter().find_map(|later| {
            let at = at as i64 - later;
            let step = self.windows.iter().position(|(from, to)| (*from..=*to).contains(&at))?;
            Some(super::words::Stamp { later_ms: *later, step }.to_string())
        });
        found.unwrap_or_else(|| ms.to_owned())
    }

    fn field(&mut self, key: &str, field: &str, value: &str) -> String {
        match (key, field) {
            ("control", "generation") => format!("g{}", place_in(&mut self.generations, value)),
            ("heartbeat", _) => self.beat(value),
            ("suspects", _) => Worker::of(value).map_or(value.to_owned(), |w| w.to_string()),
            (_, "enqueued" | "started" | "finished" | "died" | "parked" | "since") => {
                self.time(value, &[0])
            }
            (_, "worker") => Worker::of(value).map_or(value.to_owned(), |w| w.to_string()),
            (_, "entry") => entry(value),
            (_, field) if field.starts_with("attempt:") => self.past_run(value),
            _ => value.to_owned(),
        }
    }

    fn past_run(&self, json: &str) -> String {
        let Ok(run) = serde_json::from_str::<serde_json::Value>(json) else {
            return json.to_owned();
        };
        let time = |name: &str| match &run[name] {
            serde_json::Value::Null => "never".to_owned(),
            ms => self.time(&ms.to_string(), &[0]),
        };
        let text = |name: &str| run[name].as_str().unwrap_or("?").to_owned();
        let worker = Worker::of(&text("worker")).map_or(text("worker"), |w| w.to_string());
        format!("{} to {} by {worker}: {}", time("started"), time("finished"), text("error"))
    }

    pub fn beat(&self, value: &str) -> String {
        match value.splitn(3, ' ').collect::<Vec<_>>().as_slice() {
            ["dead", ms, cause] => format!("dead {} {cause}", self.time(ms, &[0])),
            _ => value.to_owned(),
        }
    }

    fn key_of_call(&mut self, value: &str) -> String {
        let Some((id, call)) = value.split_once(' ') else { return value.to_owned() };
        let task = self.task(id);
        let Some(place) = self.tasks.iter().position(|task| task == id) else {
            return value.to_owned();
        };
        let known = self.calls.entry(place).or_insert_with(|| call.to_owned());
        if known == call { format!("{task} and its call") } else { format!("{task} {call}") }
    }

    /// The fields of an entry in their order; `env` must stay what it was, byte for byte.
    fn body(&mut self, fields: &[Vec<u8>]) -> String {
        let mut id = None;
        let mut says = Vec::new();
        for pair in fields.chunks(2) {
            let [name, value] = pair else { return "an odd list of fields".to_owned() };
            let (name, text) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            let text = match name.as_ref() {
                "id" => {
                    id = self.tasks.iter().position(|task| *task == text);
                    self.task(&text)
                }
                "env" => match id {
                    Some(id) if self.envs.entry(id).or_insert_with(|| value.clone()) == value => {
                        format!("t{id}")
                    }
                    _ => format!("{value:?}"),
                },
                name => self.field("", name, &text),
            };
            says.push(format!("{name}={text}"));
        }
        says.join(" ")
    }
}

/// The place of a text among those that were met, made where it is new.
fn place_in(met: &mut Vec<String>, text: &str) -> usize {
    met.iter().position(|other| other == text).unwrap_or_else(|| {
        met.push(text.to_owned());
        met.len() - 1
    })
}

/// An entry by its number in its stream.
pub fn entry(id: &str) -> String {
    if id == "0-0" {
        return "#0".to_owned();
    }
    let number = id.strip_prefix(&format!("{ID_MS}-")).and_then(|seq| seq.parse::<u64>().ok());
    match number.and_then(|seq| seq.checked_sub(ID_BEFORE)) {
        Some(number) => format!("#{number}"),
        None => id.to_owned(),
    }
}

/// A suspect: the key of its stream, then the entry.
fn suspect(field: &str) -> String {
    match field.split_once(' ') {
        Some((key, id)) => format!("{} {}", key.rsplit(':').next().unwrap_or(key), entry(id)),
        None => entry(field),
    }
}

/// The stream at a place among a script's keys; the first of them is the second key.
fn stream_at(place: &str) -> &str {
    let index = place.parse::<usize>().ok().and_then(|place| place.checked_sub(2));
    index.and_then(|index| Stream::IN_ORDER.get(index)).map_or(place, |stream| stream.as_str())
}

fn is_possible(state: &State, key: &str, worker: &str) -> bool {
    let stream =
        Stream::IN_ORDER.into_iter().find(|stream| key == format!("ready:{}", stream.as_str()));
    let group = stream.and_then(|stream| state.server.ready(stream).group.as_ref());
    let reader =
        group.zip(Worker::of(worker)).and_then(|(group, worker)| group.readers.get(&worker));
    reader == Some(&Reader::Possible)
}
