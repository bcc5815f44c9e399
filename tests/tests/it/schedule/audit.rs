//! Judges a whole run by the server's own history alone, one atomic step after the other.
//!
//! After every step each task is in exactly one place: a ready stream, the delayed set, the dead
//! letters, or ended. An entry is given to one worker and never again; what is deleted was
//! acknowledged; no consumer is deleted that holds something; attempts and crashes never get less.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use umbel_broker::keys::{Shard, Stream};
use umbel_tests::services::Command;

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Ready(Entry),
    Delayed,
    DeadLetter,
    Ended,
}

/// An entry: the key of its stream, and its id there.
type Entry = (String, String);

/// What a run came to.
#[derive(Debug, Default)]
pub struct Findings {
    /// Task → worker and result of its one completion.
    pub completed: BTreeMap<String, (String, String)>,
    pub buried: u64,
    pub discarded: u64,
    /// Tasks that have not ended.
    pub open: Vec<String>,
    /// How often an entry was given to a worker.
    pub deliveries: u64,
}

/// Goes through a history; the error says what was broken, and by which command.
pub fn judge(shard: &Shard, history: &[Command]) -> Result<Findings, String> {
    let mut auditor = Auditor::new(shard);
    let mut is_open = false;
    for (at, command) in history.iter().enumerate() {
        let words: Vec<&str> =
            command.iter().map(|word| std::str::from_utf8(word).unwrap_or("(bytes)")).collect();
        let judged = match words.as_slice() {
            ["MULTI"] => {
                is_open = true;
                continue;
            }
            ["EXEC"] => {
                is_open = false;
                Ok(())
            }
            [name, key, rest @ ..] => auditor.command(name, key, rest),
            other => Err(format!("not a command of ours: {other:?}")),
        };
        let judged = judged.and_then(|()| if is_open { Ok(()) } else { auditor.end_of_step() });
        judged.map_err(|why| format!("{why}, by command {at}: {words:?}"))?;
    }
    Ok(auditor.findings())
}

struct Auditor {
    ready: Vec<String>,
    delayed: String,
    dead: String,
    /// What the key of every task's record begins with.
    record: String,
    places: HashMap<String, Vec<Place>>,
    /// Which task an entry that is there is of.
    tasks: HashMap<Entry, String>,
    /// Who holds an entry.
    holders: HashMap<Entry, String>,
    given: HashSet<Entry>,
    /// The last attempt and number of crashes of a task.
    counts: HashMap<String, (u32, u32)>,
    /// By this step.
    touched: BTreeSet<String>,
    findings: Findings,
}

impl Auditor {
    fn new(shard: &Shard) -> Self {
        Self {
            ready: Stream::IN_ORDER.map(|stream| shard.ready(stream)).into(),
            delayed: shard.delayed(),
            dead: shard.dead(),
            record: format!("{}task:", shard.prefix()),
            places: HashMap::new(),
            tasks: HashMap::new(),
            holders: HashMap::new(),
            given: HashSet::new(),
            counts: HashMap::new(),
            touched: BTreeSet::new(),
            findings: Findings::default(),
        }
    }

    fn command(&mut self, name: &str, key: &str, rest: &[&str]) -> Result<(), String> {
        let entry = |id: &str| (key.to_owned(), id.to_owned());
        let is_ready = self.ready.iter().any(|ready| ready == key);
        match (name, rest) {
            ("XADD", [id, fields @ ..]) if is_ready => self.added(entry(id), fields)?,
            ("XADD", [_, fields @ ..]) if key == self.dead => {
                self.findings.buried += 1;
                self.enters(field(fields, "id")?, Place::DeadLetter);
            }
            ("XCLAIM", [_, worker, _, id, ..]) if is_ready => self.given(entry(id), worker)?,
            ("XACK", [_, ids @ ..]) if is_ready => {
                for id in ids {
                    self.holders.remove(&entry(id));
                }
            }
            ("XDEL", ids) if is_ready => {
                for id in ids {
                    self.deleted(entry(id))?;
                }
            }
            // Its key comes second.
            ("XGROUP", [stream, _, worker]) if key == "DELCONSUMER" => {
                let holds =
                    |(held, holder): (&Entry, &String)| held.0 == *stream && holder == worker;
                if self.holders.iter().any(holds) {
                    return Err(format!("{worker} was deleted with what it held"));
                }
            }
            ("ZADD", [_, task]) if key == self.delayed => self.enters(task, Place::Delayed),
            ("ZREM", tasks) if key == self.delayed => {
                for task in tasks {
                    self.leaves(task, &Place::Delayed);
                }
            }
            ("HSET", fields) => {
                if let Some(task) = key.strip_prefix(&self.record) {
                    let task = task.to_owned();
                    self.noted(&task, fields)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn added(&mut self, entry: Entry, fields: &[&str]) -> Result<(), String> {
        let number = |name| field(fields, name)?.parse::<u32>().map_err(|error| error.to_string());
        let task = field(fields, "id")?;
        let now = (number("attempt")?, number("crashes")?);
        let before = self.counts.insert(task.to_owned(), now).unwrap_or_default();
        if now.0 < before.0 || now.1 < before.1 {
            return Err(format!("attempt and crashes of {task} went from {before:?} to {now:?}"));
        }
        self.tasks.insert(entry.clone(), task.to_owned());
        self.enters(task, Place::Ready(entry));
        Ok(())
    }

    fn given(&mut self, entry: Entry, worker: &str) -> Result<(), String> {
        if !self.given.insert(entry.clone()) {
            return Err(format!("{entry:?} was given out a second time"));
        }
        self.holders.insert(entry, worker.to_owned());
        self.findings.deliveries += 1;
        Ok(())
    }

    fn deleted(&mut self, entry: Entry) -> Result<(), String> {
        if let Some(worker) = self.holders.get(&entry) {
            return Err(format!("{entry:?} was deleted in the hands of {worker}"));
        }
        // Deleted before, which a command of several entries may try again.
        if let Some(task) = self.tasks.remove(&entry) {
            self.leaves(&task, &Place::Ready(entry));
        }
        Ok(())
    }

    /// The record of a task was written.
    fn noted(&mut self, task: &str, fields: &[&str]) -> Result<(), String> {
        match field(fields, "state").unwrap_or_default() {
            "succeeded" => {
                let by = (field(fields, "worker")?.to_owned(), field(fields, "result")?.to_owned());
                if let Some(first) = self.findings.completed.insert(task.to_owned(), by.clone()) {
                    return Err(format!("{task} was completed by {first:?} and by {by:?}"));
                }
                self.enters(task, Place::Ended);
            }
            "cancelled" | "expired" => {
                self.findings.discarded += 1;
                self.enters(task, Place::Ended);
            }
            // One that failed is where its dead letter is; the others are where their entry is.
            _ => {
                self.touched.insert(task.to_owned());
            }
        }
        Ok(())
    }

    fn enters(&mut self, task: &str, place: Place) {
        self.places.entry(task.to_owned()).or_default().push(place);
        self.touched.insert(task.to_owned());
    }

    fn leaves(&mut self, task: &str, place: &Place) {
        let places = self.places.entry(task.to_owned()).or_default();
        if let Some(at) = places.iter().position(|there| there == place) {
            places.swap_remove(at);
        }
        self.touched.insert(task.to_owned());
    }

    fn end_of_step(&mut self) -> Result<(), String> {
        while let Some(task) = self.touched.pop_first() {
            match self.places.get(&task).map(Vec::as_slice) {
                Some([_]) => {}
                Some([]) | None => return Err(format!("{task} is nowhere")),
                Some(places) => return Err(format!("{task} is in {places:?}")),
            }
        }
        Ok(())
    }

    fn findings(mut self) -> Findings {
        let open = |(task, places): (String, Vec<Place>)| {
            let has_ended = matches!(places.as_slice(), [Place::Ended | Place::DeadLetter]);
            (!has_ended).then_some(task)
        };
        self.findings.open = self.places.into_iter().filter_map(open).collect();
        self.findings
    }
}

fn field<'a>(fields: &[&'a str], name: &str) -> Result<&'a str, String> {
    let found = fields.chunks_exact(2).find(|pair| pair[0] == name);
    found.map(|pair| pair[1]).ok_or_else(|| format!("there is no field `{name}`"))
}

/// Judges a history told in lines, `READY` and so on for the keys.
fn judged(lines: &str) -> Result<Findings, String> {
    let shard = Shard::first(&"default".parse().unwrap());
    let word = |word: &str| {
        let word = word
            .replace("READY", &shard.ready(Stream::Normal))
            .replace("DELAYED", &shard.delayed())
            .replace("DEAD", &shard.dead())
            .replace("TASK", &format!("{}task", shard.prefix()));
        word.into_bytes()
    };
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    let history: Vec<Command> =
        lines.map(|line| line.split_whitespace().map(word).collect()).collect();
    judge(&shard, &history)
}

const ADDED: &str = "XADD READY 1-1 id a attempt 1 crashes 0
XCLAIM READY workers w 0 1-1";
const COMPLETED: &str = "MULTI
XACK READY workers 1-1
XDEL READY 1-1
HSET TASK:a state succeeded worker w result r
EXEC";

#[test]
fn a_history_in_order_is_passed() {
    let findings = judged(&format!("{ADDED}\n{COMPLETED}")).unwrap();
    assert_eq!(findings.completed["a"], ("w".to_owned(), "r".to_owned()));
    assert_eq!((findings.deliveries, findings.open.len()), (1, 0));
    assert_eq!(judged(ADDED).unwrap().open, ["a"]);
}

#[test]
fn each_break_of_the_protocol_is_found() {
    let again = "XADD READY 2-1 id a attempt 1 crashes 0";
    for (what, history) in [
        ("was given out a second time", format!("{ADDED}\nXCLAIM READY workers x 0 1-1")),
        ("was deleted in the hands of w", format!("{ADDED}\nXDEL READY 1-1")),
        ("a is nowhere", format!("{ADDED}\nXACK READY workers 1-1\nXDEL READY 1-1")),
        ("a is in [Ready", format!("{ADDED}\n{again}")),
        ("a is in [Ended, Ready", format!("{ADDED}\n{COMPLETED}\n{again}")),
        ("a is in [Ready", format!("{ADDED}\nZADD DELAYED 5 a")),
        ("a is in [Ready", format!("{ADDED}\nXADD DEAD 1-1 id a why fatal")),
        ("was completed by", format!("{ADDED}\n{COMPLETED}\n{COMPLETED}")),
        ("went from (1, 0)", format!("{ADDED}\nXADD READY 2-1 id a attempt 0 crashes 0")),
        ("with what it held", format!("{ADDED}\nXGROUP DELCONSUMER READY workers w")),
    ] {
        let why = judged(&history).expect_err(what);
        assert!(why.contains(what), "{what}: {why}");
    }
}
