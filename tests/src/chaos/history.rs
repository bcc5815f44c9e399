//! What tasks did, by their own word: one line a start, an effect, an end.
//!
//! A line is one `write` to a file opened for appending, so that neither a killed process nor
//! another writer tears it: what was written is in the system's hands.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    str::FromStr,
};

use anyhow::{Context, bail};
use nix::time::{ClockId, clock_gettime};
use umbel_proto::TaskId;

/// A moment by both clocks, in milliseconds. The monotonic one is the same for all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall: i64,
    pub monotonic: i64,
}

impl Moment {
    pub fn now() -> Self {
        Self { wall: read(ClockId::CLOCK_REALTIME), monotonic: read(ClockId::CLOCK_MONOTONIC) }
    }
}

fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock).expect("every Linux has this clock");
    time.tv_sec() * 1_000 + time.tv_nsec() / 1_000_000
}

/// What a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Start,
    /// The effect is in Postgres; the note is what it remembers.
    Effect,
    /// The body has ended; it is not settled yet.
    End,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub event: Event,
    pub at: Moment,
    pub pid: u32,
    pub attempt: u32,
    pub task: TaskId,
    /// One word, `-` for none.
    pub note: String,
}

impl Event {
    const ALL: [Self; 3] = [Self::Start, Self::Effect, Self::End];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Effect => "effect",
            Self::End => "end",
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { event, at, pid, attempt, task, note } = self;
        let Moment { wall, monotonic } = at;
        write!(f, "{} {wall} {monotonic} {pid} {attempt} {task} {note}", event.as_str())
    }
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [event, wall, monotonic, pid, attempt, task, note] = words.as_slice() else {
            bail!("a line has seven words");
        };
        Ok(Self {
            event: Event::ALL
                .into_iter()
                .find(|known| known.as_str() == *event)
                .with_context(|| format!("there is no event `{event}`"))?,
            at: Moment { wall: wall.parse()?, monotonic: monotonic.parse()? },
            pid: pid.parse()?,
            attempt: attempt.parse()?,
            task: task.parse()?,
            note: (*note).to_owned(),
        })
    }
}

/// A history that a process writes to.
#[derive(Debug)]
pub struct Pen(File);

impl Pen {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    pub fn write(
        &self,
        event: Event,
        task: &TaskId,
        attempt: u32,
        note: Option<&str>,
    ) -> io::Result<()> {
        let line = Line {
            event,
            at: Moment::now(),
            pid: std::process::id(),
            attempt,
            task: task.clone(),
            note: note.unwrap_or("-").to_owned(),
        };
        // As one piece: `write_all` asks the system once unless the disk is full.
        (&self.0).write_all(format!("{line}\n").as_bytes())
    }
}

/// A history read back, in the order of its lines.
#[derive(Debug, Default)]
pub struct History {
    pub lines: Vec<Line>,
}

impl History {
    /// Reads a file; one that is not there is a history in which nothing has happened.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => text.parse(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The lines of one event.
    pub fn of(&self, event: Event) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.event == event)
    }

    /// The starts of a process whose bodies have not ended.
    pub fn open(&self, pid: u32) -> Vec<&Line> {
        let mut open: HashMap<&TaskId, &Line> = HashMap::new();
        for line in self.lines.iter().filter(|line| line.pid == pid) {
            match line.event {
                Event::Start => drop(open.insert(&line.task, line)),
                Event::End => drop(open.remove(&line.task)),
                Event::Effect => {}
            }
        }
        open.into_values().collect()
    }

    /// How often each task was started.
    pub fn starts(&self) -> HashMap<&TaskId, Vec<&Line>> {
        let mut starts: HashMap<_, Vec<_>> = HashMap::new();
        for line in self.of(Event::Start) {
            starts.entry(&line.task).or_default().push(line);
        }
        starts
    }
}

impl FromStr for History {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().enumerate().map(|(n, line)| {
            line.parse().with_context(|| format!("line {} of the history: `{line}`", n + 1))
        });
        Ok(Self { lines: lines.collect::<anyhow::Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_as_it_was_written() {
        let line = Line {
            event: Event::Effect,
            at: Moment { wall: 1_790_000_000_123, monotonic: 77 },
            pid: 4_711,
            attempt: 2,
            task: "chaos-0191f3c4-7b6a-7c3e-9d4f-0123456789ab".parse().unwrap(),
            note: "a1b2".to_owned(),
        };
        assert_eq!(line.to_string().parse::<Line>().unwrap(), line);
    }

    #[test]
    fn a_torn_line_is_an_error_that_tells_where() {
        let whole = "start 1 2 3 1 chaos-0191f3c4-7b6a-7c3e-9d4f-0123456789ab -";
        assert_eq!(format!("{whole}\n").parse::<History>().unwrap().lines.len(), 1);
        let torn = format!("{whole}\nstart 1 2 3");
        let error = format!("{:#}", torn.parse::<History>().unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(second.monotonic >= first.monotonic);
        assert!(first.wall > 1_700_000_000_000);
    }
}
