//! `umbel health`: whether a role in this container is well, for platforms that ask by a command.
//!
//! The API is asked as any client would be. A worker and a beat listen to nobody; they are known by
//! what they tell in Redis, so neither counts as well while Redis is away. Whoever restarts what is not
//! well must not ask this of a worker: one that hangs ends by itself (HANG_LIMIT), and one that waits
//! for Redis goes on once it is back.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use umbel_broker::{Client, schedules};

use crate::{
    Application, Env,
    roles::Role,
    settings::{Settings, SettingsError, host_name},
};

/// All of it: platforms give a health check some five seconds.
const ANSWER_WAIT: Duration = Duration::from_secs(4);

/// Far more than the report of the API takes.
const ANSWER_MAX: u64 = 64 * 1024;

/// A worker tells of itself every three seconds; this many seconds are five heartbeats missed.
const SILENT_AFTER: TimeDelta = TimeDelta::seconds(15);

/// Asks a role in this container; says how it is, or fails.
pub(crate) async fn ask<S>(
    role: Role,
    application: &Application<S>,
    settings: &Settings,
) -> anyhow::Result<String> {
    let asked = async {
        match role {
            Role::Api => api(door(settings.addr()?)?).await,
            Role::Worker => worker(settings).await,
            Role::Beat => beat(application, settings).await,
        }
    };
    timeout(ANSWER_WAIT, asked)
        .await
        .with_context(|| format!("{} does not answer within {ANSWER_WAIT:?}", role.as_str()))?
}

/// Where one who is in the same container gets in.
fn door(listens: SocketAddr) -> Result<SocketAddr, SettingsError> {
    if listens.port() == 0 {
        return Err(SettingsError("PORT is 0, so nobody knows where the API listens".to_owned()));
    }
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listens.port()))
}

/// One GET by hand: an HTTP client would be the largest part of what this process loads.
async fn api(door: SocketAddr) -> anyhow::Result<String> {
    let mut stream =
        TcpStream::connect(door).await.with_context(|| format!("nobody listens at {door}"))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await.context("the answer breaks off")?;
    let status = answer.split_ascii_whitespace().nth(1).context("the answer is not HTTP")?;
    let (_, report) = answer.split_once("\r\n\r\n").context("the answer breaks off")?;
    ensure!(status == "200", "the API is not ready: {status} {report}");
    Ok(report.to_owned())
}

async fn worker(settings: &Settings) -> anyhow::Result<String> {
    let client = Client::open(&settings.broker()?, "health")?;
    let host = host_name();
    let workers = client.living_workers().await?.into_iter();
    let beats = workers.filter(|worker| worker.info.host == host);
    let last = beats.filter_map(|worker| worker.info.beat).max();
    let Some(last) = last else { bail!("no worker of {host} is known") };
    judge("the worker", last, SILENT_AFTER, Utc::now())
}

/// A beat does not tell which one it is: where several run, this says that one of them does.
async fn beat<S>(application: &Application<S>, settings: &Settings) -> anyhow::Result<String> {
    let client = Client::open(&settings.broker()?, "health")?;
    if (application.timetable)(&Env::of_process())?.entries().is_empty() {
        client.ping().await?;
        return Ok("there is nothing to schedule".to_owned());
    }
    let Some(last) = client.last_shown().await? else { bail!("no beat has shown its schedules") };
    judge("a beat", last, schedules::GONE_AFTER, Utc::now())
}

/// Who told of itself `limit` ago or earlier is not well any more.
fn judge(
    who: &str,
    last: DateTime<Utc>,
    limit: TimeDelta,
    now: DateTime<Utc>,
) -> anyhow::Result<String> {
    // A clock that was set back in between makes nobody ill.
    let silent = (now - last).max(TimeDelta::zero()).num_seconds();
    ensure!(silent <= limit.num_seconds(), "{who} has told nothing for {silent} s");
    Ok(format!("{who} told of itself {silent} s ago"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        let door = |listens: &str| door(listens.parse().unwrap()).map(|door| door.to_string());
        assert_eq!(door("0.0.0.0:8000").unwrap(), "127.0.0.1:8000");
        assert_eq!(door("[::]:8000").unwrap(), "[::1]:8000");
        assert_eq!(door("10.0.0.7:81").unwrap(), "10.0.0.7:81");
        assert!(door("0.0.0.0:0").is_err());
    }

    #[test]
    fn silence_has_a_limit_and_a_clock_that_went_back_is_none() {
        let now = Utc::now();
        let judge = |seconds| judge("it", now - TimeDelta::seconds(seconds), SILENT_AFTER, now);
        assert!(judge(0).is_ok() && judge(15).is_ok() && judge(-3600).is_ok());
        assert_eq!(judge(16).unwrap_err().to_string(), "it has told nothing for 16 s");
    }
}
