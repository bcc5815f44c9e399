//! The real side: the same commands through the broker's own calls, on a real Redis.

use std::{
    cell::RefCell,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use redis::{Connection, cmd, pipe};
use tokio::runtime::{Builder, Runtime};
use umbel_broker::{
    BrokerError, BrokerSettings, Client, Scripts,
    keys::{GROUP, Shard, Stream},
};
use umbel_tests::services::RedisServer;

use super::{
    model::State,
    picture::{self, Picture},
    reading::{ID_BEFORE, ID_MS, Names, entry},
    trade::RealHands,
    words::{Answer, Command, Worker},
};

/// A call that takes longer will never end; a loaded machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user of the server who may do all but see which start of it this is.
const BLIND: &str = "blind";

/// A server for many cases, one after the other.
#[derive(Debug)]
pub struct Lab {
    redis: RedisServer,
    runtime: Runtime,
}

/// One case: an empty Redis, and a process that enqueues and works.
pub struct Case<'a> {
    lab: &'a Lab,
    pub client: Client,
    pub raw: RefCell<Connection>,
    pub names: Names,
    pub workers: [RealHands; 3],
    /// Keys with their expiry and content, as a replica has them.
    replica: Vec<(String, i64, Vec<u8>)>,
}

pub fn shard() -> Shard {
    Shard::first(&"default".parse().unwrap())
}

impl Lab {
    pub fn open() -> Self {
        // One thread: what is sent to a settler in one go is settled in one batch.
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        // Without the users that are shipped: it makes one of its own, who is refused INFO.
        Self { redis: RedisServer::start_with(&[], &[]), runtime }
    }

    /// Plays commands on the model and on Redis and compares after each; `Err` tells the first
    /// difference. `seen` is called before each command.
    pub fn play(
        &self,
        scripts: Option<Arc<Scripts>>,
        mut state: State,
        commands: &[Command],
        mut seen: impl FnMut(),
    ) -> Result<(), String> {
        let mut case = Case::begin(self, scripts, state.server.hides_run);
        for (place, command) in commands.iter().enumerate() {
            seen();
            assert!(state.allows(command), "command {place} means nothing: {command:?}");
            let before = state.clone();
            let expected = state.step(command);
            let (answer, picture) = case.run(command, &before, &state);
            let mut text = String::new();
            if answer != expected {
                text = format!("  the answer\n    model: {expected:?}\n    redis: {answer:?}\n");
            }
            text.push_str(&picture::difference(&picture::expected(&state), &picture));
            if !text.is_empty() {
                return Err(format!("after command {place}, {command:?}:\n{text}"));
            }
        }
        Ok(())
    }

    fn blind_url(&self) -> String {
        self.redis.url().replace("redis://", &format!("redis://{BLIND}:any@"))
    }

    fn connection(&self) -> Connection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        client.get_connection().expect("a connection to the server of the test")
    }
}

impl<'a> Case<'a> {
    fn begin(lab: &'a Lab, scripts: Option<Arc<Scripts>>, blind: bool) -> Self {
        let _inside = lab.runtime.enter();
        let url = if blind { lab.blind_url() } else { lab.redis.url() };
        let mut client = Client::open(&BrokerSettings::new(url), "reference").unwrap();
        if let Some(scripts) = scripts {
            client = client.with_scripts(scripts);
        }
        let raw = RefCell::new(lab.connection());
        let (names, workers) = (Names::default(), Default::default());
        let mut case = Self { lab, client, raw, names, workers, replica: Vec::new() };
        case.flush();
        case.meet();
        case
    }

    /// Runs a command; `before` and `after` are the model's states around it.
    fn run(&mut self, command: &Command, before: &State, after: &State) -> (Answer, Picture) {
        let began = self.next_moment();
        let answer = self.answer(command, before, after);
        self.names.windows.push((began, Utc::now().timestamp_millis()));
        // Only now, because what is told of a time is told by the command of that time.
        let answer = match answer {
            Ok(tell) => tell(&mut self.names),
            Err(error) => Answer::Failed(error),
        };
        let mut picture = self.names.read(&mut self.raw.borrow_mut(), after);
        for worker in Worker::ALL {
            let held = self.workers[worker as usize].held.len();
            picture.insert(format!("in the memory of {worker}"), held.to_string());
        }
        (answer, picture)
    }

    /// No two commands share a millisecond, so that times tell commands apart.
    fn next_moment(&self) -> i64 {
        let last = self.names.windows.last().map_or(0, |(_, ended)| *ended);
        loop {
            let now = Utc::now().timestamp_millis();
            if now > last {
                return now;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn answer(&mut self, command: &Command, before: &State, after: &State) -> Told {
        match command {
            Command::Flush => self.flush(),
            Command::Cap(Some(cap)) => {
                self.raw(cmd("HSET").arg(shard().control()).arg("cap").arg(cap))
            }
            Command::Cap(None) => self.raw(cmd("HDEL").arg(shard().control()).arg("cap")),
            Command::DestroyGroup(stream) => {
                self.raw(cmd("XGROUP").arg("DESTROY").arg(shard().ready(*stream)).arg(GROUP));
            }
            Command::LoseEntry { stream, entry } => {
                self.raw(cmd("XDEL").arg(shard().ready(*stream)).arg(real_id(*entry)));
            }
            Command::LoseWaiting { task } => {
                self.raw(cmd("HDEL").arg(shard().waiting()).arg(&self.names.tasks[*task]));
            }
            Command::Ghost { worker, stream, count } => {
                let mut read = cmd("XREADGROUP");
                read.arg("GROUP").arg(GROUP).arg(worker.id()).arg("COUNT").arg(count);
                self.raw(read.arg("STREAMS").arg(shard().ready(*stream)).arg(">"));
            }
            Command::Restart => self.restart(),
            Command::Replicate => self.replicate(),
            Command::FailOver => self.fail_over(),
            command => {
                let lab = self.lab;
                return lab.wait(self.trade(command, before, after));
            }
        }
        done(Answer::Done)
    }

    fn raw(&self, command: &redis::Cmd) {
        let answer: redis::RedisResult<redis::Value> = command.query(&mut *self.raw.borrow_mut());
        answer.expect("a fault that can be made");
    }

    /// FLUSHALL, and in the same step ids that come again.
    fn flush(&self) {
        let mut all = pipe();
        all.atomic().cmd("FLUSHALL").ignore();
        let ready = Stream::IN_ORDER.map(|stream| shard().ready(stream));
        for stream in ready.iter().chain([&shard().dead()]) {
            all.cmd("XADD").arg(stream).arg(real_id(0)).arg("a").arg("b").ignore();
            all.cmd("XDEL").arg(stream).arg(real_id(0)).ignore();
        }
        all.query::<()>(&mut *self.raw.borrow_mut()).expect("an empty redis");
    }

    fn restart(&mut self) {
        self.lab.redis.stop();
        self.lab.redis.restart();
        *self.raw.borrow_mut() = self.lab.connection();
        self.meet();
        // The shared connection notices with its next call.
        let since = Instant::now();
        while let Err(error) = self.lab.runtime.block_on(self.client.ping()) {
            assert!(since.elapsed() < PATIENCE, "the server is up and not found: {error}");
        }
    }

    /// After a start of the server: takes note of it, and makes it hide that from some.
    fn meet(&mut self) {
        let blind = ["SETUSER", BLIND, "on", "nopass", "~*", "&*", "+@all", "-info"];
        self.raw(cmd("ACL").arg(&blind));
        let info: String = cmd("INFO").arg("server").query(&mut *self.raw.borrow_mut()).unwrap();
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap();
        self.names.runs.push(run.to_owned());
    }

    fn replicate(&mut self) {
        let raw = &mut *self.raw.borrow_mut();
        let keys: Vec<String> = cmd("KEYS").arg("*").query(raw).unwrap();
        let copy = keys.into_iter().map(|key| {
            let content = cmd("DUMP").arg(&key).query(raw).unwrap();
            (key.clone(), cmd("PEXPIRETIME").arg(&key).query(raw).unwrap(), content)
        });
        self.replica = copy.collect();
    }

    fn fail_over(&mut self) {
        self.restart();
        let mut all = pipe();
        all.atomic().cmd("FLUSHALL").ignore();
        for (key, expires, content) in &self.replica {
            let restore = all.cmd("RESTORE").arg(key).arg((*expires).max(0)).arg(content);
            restore.arg("ABSTTL").ignore();
        }
        all.query::<()>(&mut *self.raw.borrow_mut()).expect("what was dumped");
    }
}

/// An answer that is put into words when the times of its command are known.
pub type Told = Result<Box<dyn FnOnce(&mut Names) -> Answer>, String>;

pub fn done(answer: Answer) -> Told {
    Ok(Box::new(|_| answer))
}

pub fn failed(error: &BrokerError) -> Told {
    Err(format!("{error:?}"))
}

pub fn real_id(entry: u32) -> String {
    format!("{ID_MS}-{}", ID_BEFORE + u64::from(entry))
}

impl Lab {
    fn wait(&self, call: impl Future<Output = Told>) -> Told {
        let call = async { tokio::time::timeout(PATIENCE, call).await };
        self.runtime.block_on(call).unwrap_or_else(|_| Err(format!("no end within {PATIENCE:?}")))
    }
}

#[test]
fn ids_are_numbers_in_their_order() {
    assert_eq!(entry(&real_id(7)), "#7");
    assert!(real_id(9) < real_id(10), "as texts too: by them what was never seen is sorted");
}
