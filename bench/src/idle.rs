//! A worker at rest: its memory, what it sends to Redis, and how soon after its start it runs a task.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    Bench,
    apart::{self, Process},
    figures::Kind,
    resp::encode,
    workloads::REST_AFTER,
};

/// How long a worker at rest is watched: a whole number of all of its periods, and more of them than
/// make a difference by one.
const WATCHED: Duration = Duration::from_secs(60);

/// How often it is looked whether the time is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Bench {
    pub(crate) fn idle(&mut self) -> anyhow::Result<()> {
        self.umbel(|umbel| async move { umbel.enqueue_bulk::<false>(1).await.map(drop) })?;
        let began = Instant::now();
        let process =
            Process::start(&apart::worker(&self.redis.url(), self.plan.concurrency, 1, 0))?;
        self.umbel_on(|umbel| async move { apart::until_settled(&umbel).await })?;
        let first = began.elapsed();
        sleep(REST_AFTER);
        let [sent, run] = watched(self.redis.port(), WATCHED)?;
        let a_second = |count: usize| count as f64 / WATCHED.as_secs_f64();
        self.add(Kind::own("first_task", "ms"), first.as_secs_f64() * 1000.0);
        self.add(Kind::own("idle_worker", "MB"), process.resident_mb()?);
        self.add(Kind::own("idle_sent", "1/s"), a_second(sent));
        self.add(Kind::own("idle_in_scripts", "1/s"), a_second(run));
        Ok(())
    }
}

/// How many commands Redis is sent, and how many its scripts run: as it tells them itself, since its
/// counters cannot tell the two apart.
fn watched(port: u16, how_long: Duration) -> anyhow::Result<[usize; 2]> {
    let mut told = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    told.set_read_timeout(Some(LOOK_EVERY))?;
    let mut monitor = Vec::new();
    encode(["MONITOR"], &mut monitor);
    told.write_all(&monitor)?;
    let (began, mut lines, mut some) = (Instant::now(), Vec::new(), [0; 4096]);
    while began.elapsed() < how_long {
        match told.read(&mut some) {
            Ok(0) => break,
            Ok(bytes) => lines.extend_from_slice(&some[..bytes]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(began.elapsed() >= how_long, "redis closed the connection");
    let lines = String::from_utf8_lossy(&lines);
    ensure!(lines.starts_with("+OK"), "redis does not tell what it is sent: {lines}");
    Ok(counted(&lines))
}

/// Of lines like `+1790000000.1 [0 127.0.0.1:5000] "PING"`; scripts run theirs as `[0 lua]`.
fn counted(lines: &str) -> [usize; 2] {
    let from = lines.lines().filter_map(|line| line.split_once(" [")?.1.split_once("] \""));
    let (run, sent): (Vec<&str>, Vec<&str>) =
        from.map(|(from, _)| from).partition(|from| from.ends_with(" lua"));
    [sent.len(), run.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scripts_run_is_told_from_what_is_sent() {
        let lines = "+OK\r\n+1.5 [0 127.0.0.1:5000] \"EVALSHA\" \"x [0 lua] \"\r\n\
                     +1.6 [0 lua] \"TIME\"\r\n+1.7 [0 unix:/r.sock] \"ping\"\r\n";
        assert_eq!(counted(lines), [2, 1]);
        assert_eq!(counted("+OK\r\n"), [0, 0]);
    }
}
