//! A picture of all keys, as text: a line a fact, the same words for what the model holds and for
//! what was read from Redis, so that a difference can be read.

use std::collections::BTreeMap;

use umbel_broker::keys::Stream;

use super::{
    dead::Letter,
    log::{Body, Log, Reader},
    model::State,
    server::Server,
    words::Worker,
};

/// Who pauses the queue, and why.
pub const BY: &str = "ann";
pub const WHY: &str = "the shop is closed";

/// What each line is of → what it says.
pub type Picture = BTreeMap<String, String>;

/// What the model expects to stand in Redis and in the workers' memory.
pub fn expected(state: &State) -> Picture {
    let mut lines = Picture::new();
    let server = &state.server;
    let mut line = |of: String, says: String| {
        lines.insert(of, says);
    };
    for stream in Stream::IN_ORDER {
        log(&mut line, &format!("ready:{}", stream.as_str()), server.ready(stream));
    }
    queue(&mut line, server);
    tasks(&mut line, server);
    for (worker, beat) in &server.beats {
        line(format!("heartbeat {worker}"), beat.to_string());
    }
    for (worker, (tasks, expires)) in &server.asked {
        for task in tasks {
            line(format!("asked:{worker} t{task}"), "somebody".to_owned());
        }
        line(format!("asked:{worker} expires"), expires.to_string());
    }
    for worker in &server.informed {
        line(format!("info {worker}"), info(*worker));
    }
    for worker in Worker::ALL {
        line(format!("in the memory of {worker}"), state.hands(worker).held.len().to_string());
    }
    lines
}

fn log(line: &mut impl FnMut(String, String), name: &str, log: &Log) {
    for (entry, fields) in &log.entries {
        line(format!("{name} #{entry}"), body(fields));
    }
    let Some(group) = &log.group else { return };
    line(format!("{name} delivered up to"), format!("#{}", group.last));
    for (entry, worker) in &group.pending {
        line(format!("{name} pending #{entry}"), worker.to_string());
    }
    for (worker, reader) in &group.readers {
        if *reader == Reader::Certain {
            line(format!("{name} reader {worker}"), "known".to_owned());
        }
    }
}

fn queue(line: &mut impl FnMut(String, String), server: &Server) {
    if let Some(generation) = server.generation {
        line("control generation".to_owned(), format!("g{generation}"));
        line("control layout".to_owned(), "1".to_owned());
    }
    if let Some(cap) = server.cap {
        line("control cap".to_owned(), cap.to_string());
    }
    if let Some(since) = server.paused {
        line("control paused".to_owned(), "1".to_owned());
        line("control by".to_owned(), BY.to_owned());
        line("control why".to_owned(), WHY.to_owned());
        line("control since".to_owned(), since.to_string());
    }
    for (task, due) in &server.delayed {
        line(format!("delayed t{task}"), due.to_string());
    }
    for (name, tasks) in &server.parked {
        for (task, give_up) in tasks {
            line(format!("parked:{} t{task}", name.as_str()), give_up.to_string());
        }
    }
    for (name, first) in &server.parked_names {
        line(format!("parked {}", name.as_str()), first.to_string());
    }
    for (task, (stream, fields)) in &server.waiting {
        line(format!("waiting t{task}"), format!("{} {}", stream.as_str(), body(fields)));
    }
    for ((stream, entry), worker) in &server.suspects {
        line(format!("suspects {} #{entry}", stream.as_str()), worker.to_string());
    }
    if server.listed {
        line("queues default".to_owned(), r#"{"shards":1}"#.to_owned());
    }
    if server.helped {
        line("help".to_owned(), "as it is shipped".to_owned());
    }
}

fn tasks(line: &mut impl FnMut(String, String), server: &Server) {
    for (number, letter) in &server.dead.letters {
        let Letter { error, worker, died, body: fields } = letter;
        let says = format!("why=fatal error={error} worker={worker} died={died} {}", body(fields));
        line(format!("dead #{number}"), says);
    }
    for (task, record) in &server.records {
        for (field, value) in &record.fields {
            line(format!("task:t{task} {field}"), value.clone());
        }
        if let Some(expires) = record.expires {
            line(format!("task:t{task} expires"), expires.to_string());
        }
    }
    for (name, key) in &server.keys {
        line(format!("idempotency:k{name}"), format!("t{} and its call", key.task));
        line(format!("idempotency:k{name} expires"), key.expires.to_string());
    }
}

fn body(body: &Body) -> String {
    let Body { task, call, attempt, crashes, enqueued, parked } = body;
    let mut text = format!(
        "id=t{task} task={} attempt={attempt} crashes={crashes} enqueued={enqueued} version=1 \
         env=t{task}",
        call.name.as_str()
    );
    if let Some(parked) = parked {
        text.push_str(&format!(" parked={parked}"));
    }
    text
}

/// What a worker tells of itself with each beat.
pub fn info(worker: Worker) -> String {
    format!(r#"{{"worker":"{worker}"}}"#)
}

/// The lines that differ: what the model says, then what is there. Empty: none.
pub fn difference(expected: &Picture, actual: &Picture) -> String {
    let mut of: Vec<&String> = expected.keys().chain(actual.keys()).collect();
    of.sort_unstable();
    of.dedup();
    let mut text = String::new();
    for of in of {
        let (model, redis) = (expected.get(of), actual.get(of));
        if model != redis {
            let show = |says: Option<&String>| says.map_or("(nothing)".to_owned(), Clone::clone);
            text.push_str(&format!(
                "  {of}\n    model: {}\n    redis: {}\n",
                show(model),
                show(redis)
            ));
        }
    }
    text
}
