//! Whether Redis keeps what it is given, has room, and agrees on the time.

use chrono::{TimeDelta, Utc};
use umbel_broker::{Client, server::ServerStatus};

use super::Finding;
use crate::{
    settings::Settings,
    terminal::table::{bytes, span},
};

/// What the scripts are written for.
const OLDEST: (u32, u32) = (7, 0);

/// From so much of its memory on, enqueues will soon be refused.
const MEMORY_FULL_PERCENT: u64 = 80;

/// Each process keeps a few connections, two generations of them overlap at a deploy.
const CLIENTS_LEAST: u64 = 64;
const CLIENTS_FULL_PERCENT: u64 = 80;

/// Further apart, what is delayed and scheduled waits.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(5);
const CLOCKS_DRIFT: TimeDelta = TimeDelta::seconds(1);

pub(super) async fn examine(settings: &Settings) -> (Vec<Finding>, Option<Client>) {
    let Ok(broker) = settings.broker() else {
        // Told with the settings.
        return (Vec::new(), None);
    };
    let client = match Client::open(&broker, "doctor") {
        Ok(client) => client,
        Err(error) => return (vec![Finding::problem("redis", error.to_string())], None),
    };
    if let Err(error) = client.ping().await {
        return (vec![Finding::problem("redis", format!("{broker}: {error}"))], None);
    }
    let mut findings = vec![Finding::fine("redis", format!("{broker} answers"))];
    match client.server_status().await {
        Ok(status) => findings.extend(judge(&status, settings.allow_volatile)),
        Err(error) => findings.push(Finding::problem("redis", error.to_string())),
    }
    let sent = Utc::now();
    match client.server_time().await {
        // Half way of the answer's way is as near as one can know.
        Ok(theirs) => {
            let ours = sent + (Utc::now() - sent) / 2;
            findings.push(clocks(theirs - ours));
        }
        Err(error) => findings.push(Finding::warning("clock", error.to_string())),
    }
    (findings, Some(client))
}

fn judge(status: &ServerStatus, allow_volatile: bool) -> Vec<Finding> {
    if status.version.is_none() {
        let told = "it hides what it is (INFO is denied): make sure that maxmemory-policy is \
                    noeviction and appendonly yes";
        return vec![Finding::warning("redis-info", told)];
    }
    let mut findings = vec![version(status)];
    findings.extend(status.role.as_deref().filter(|role| *role != "master").map(|role| {
        let told =
            format!("this is a {role}, which takes no writes: REDIS_URL must lead to the primary");
        Finding::problem("redis-role", told)
    }));
    findings.push(match status.maxmemory_policy.as_deref() {
        Some("noeviction") => Finding::fine("redis-policy", "it refuses rather than forgets"),
        Some(policy) if policy.starts_with("volatile-") => Finding::warning(
            "redis-policy",
            format!("maxmemory-policy is {policy}: when full, results and idempotency keys are forgotten early; noeviction keeps them"),
        ),
        Some(policy) => Finding::problem(
            "redis-policy",
            format!("maxmemory-policy is {policy}: when full, tasks are thrown away; set it to noeviction"),
        ),
        None => Finding::warning("redis-policy", "it does not tell its maxmemory-policy; it must be noeviction"),
    });
    findings.push(match (status.aof_enabled, allow_volatile) {
        (Some(true), _) => match status.aof_last_write.as_deref() {
            None | Some("ok") => Finding::fine("redis-aof", "it keeps an append-only file"),
            Some(state) => Finding::problem(
                "redis-aof",
                format!("its append-only file could not be written ({state}): its disk may be full"),
            ),
        },
        (Some(false), true) => Finding::warning(
            "redis-aof",
            "it keeps no append-only file: a restart of it loses tasks, which ALLOW_VOLATILE accepts",
        ),
        (Some(false), false) => Finding::problem(
            "redis-aof",
            "it keeps no append-only file: a restart of it loses tasks; set appendonly yes and appendfsync everysec",
        ),
        (None, _) => Finding::warning("redis-aof", "it does not tell whether it keeps an append-only file"),
    });
    findings.extend(memory(status));
    findings.extend(clients(status));
    if status.evicted_keys.is_some_and(|evicted| evicted > 0) {
        let told = format!(
            "it has thrown away {} keys since it started: tasks may be lost",
            status.evicted_keys.unwrap_or_default()
        );
        findings.push(Finding::problem("redis-evicted", told));
    }
    findings
}

fn version(status: &ServerStatus) -> Finding {
    let (server, version) = (status.server.as_deref(), status.version.as_deref());
    let (server, version) = (server.unwrap_or("redis"), version.unwrap_or_default());
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match found >= OLDEST {
        true => Finding::fine("redis-version", format!("{server} {version}")),
        false => Finding::problem(
            "redis-version",
            format!("{server} {version} is too old: Redis 7.0 or Valkey 8 is needed"),
        ),
    }
}

fn memory(status: &ServerStatus) -> Option<Finding> {
    let (used, most) = (status.used_memory?, status.maxmemory?);
    let of = if most == 0 { status.system_memory? } else { most };
    if most == 0 {
        let told = format!(
            "maxmemory is not set: where memory runs out ({} in all), the kernel ends redis; set it to less than there is",
            bytes(of)
        );
        return Some(Finding::warning("redis-memory", told));
    }
    let percent = used.saturating_mul(100) / of.max(1);
    let told = format!("{} of {} are used ({percent} %)", bytes(used), bytes(of));
    Some(match percent >= MEMORY_FULL_PERCENT {
        true => Finding::problem(
            "redis-memory",
            format!(
                "{told}: enqueues are about to be refused; give it more, or see what fills it (`inspect queues`, dead letters above all)"
            ),
        ),
        false => Finding::fine("redis-memory", told),
    })
}

fn clients(status: &ServerStatus) -> Option<Finding> {
    let (now, most) = (status.connected_clients?, status.maxclients?);
    let told = format!("{now} of {most} connections are in use");
    let too_few =
        most < CLIENTS_LEAST || now.saturating_mul(100) / most.max(1) >= CLIENTS_FULL_PERCENT;
    Some(match too_few {
        true => Finding::problem(
            "redis-clients",
            format!("{told}: processes of the next deploy may be turned away; raise maxclients"),
        ),
        false => Finding::fine("redis-clients", told),
    })
}

/// `ahead`: how far the clock of Redis is before ours.
fn clocks(ahead: TimeDelta) -> Finding {
    let apart = ahead.abs();
    let told = format!("the clocks of redis and of this machine are {} apart", span(apart));
    if apart > CLOCKS_APART {
        return Finding::problem(
            "clock",
            format!(
                "{told}: what is delayed or scheduled waits until they agree within 5 s; see to NTP on both"
            ),
        );
    }
    match apart > CLOCKS_DRIFT {
        true => {
            Finding::warning("clock", format!("{told}; more than 5 s would stop what is scheduled"))
        }
        false => Finding::fine("clock", told),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn an_old_server_is_refused_and_both_families_are_known() {
        let of = |server: &str, version: &str| {
            let status = ServerStatus {
                server: Some(server.to_owned()),
                version: Some(version.to_owned()),
                ..ServerStatus::default()
            };
            super::version(&status).level
        };
        assert_eq!(of("redis", "6.2.14"), Level::Problem);
        assert_eq!(of("redis", "7.0.15"), Level::Fine);
        assert_eq!(of("valkey", "8.1.0"), Level::Fine);
        assert_eq!(of("redis", "unheard-of"), Level::Problem);
    }

    #[test]
    fn clocks_may_differ_by_less_than_stops_schedules() {
        for (ms, level) in [(30, Level::Fine), (-2_000, Level::Warning), (6_000, Level::Problem)] {
            assert_eq!(clocks(TimeDelta::milliseconds(ms)).level, level, "{ms}");
        }
    }

    #[test]
    fn a_disk_that_is_full_and_keys_that_are_gone_are_problems() {
        let status = ServerStatus {
            version: Some("7.0.0".to_owned()),
            aof_enabled: Some(true),
            aof_last_write: Some("err".to_owned()),
            evicted_keys: Some(3),
            ..ServerStatus::default()
        };
        let problems: Vec<&str> = judge(&status, false)
            .iter()
            .filter(|finding| finding.level == Level::Problem)
            .map(|finding| finding.check)
            .collect();
        assert_eq!(problems, ["redis-aof", "redis-evicted"]);
    }
}
