//! What is asked before a page is fetched: a turn at its host, which all workers share.

use std::time::{Duration, Instant};

use umbel::{Acquired, Ahead, BrokerError, Client, LimitRules, Permit};
use url::Url;

use crate::visit::Patience;

/// The name under which turns at hosts are counted.
const HOSTS: &str = "host";

/// How long from one visit of a host to the next, where neither it nor a setting says so.
const EVERY: Duration = Duration::from_secs(1);

/// How many visits of a host at once.
const AT_ONCE: u32 = 2;

/// A visit outlives the worker that died with it for so long: longer than a page may take.
const LEASE: Duration = Duration::from_secs(120);

/// A turn that comes sooner than this is waited for in place; a later one is better deferred, while
/// the worker does other work.
pub(crate) const WAITED_FOR: Duration = Duration::from_secs(2);

/// The turn of a request that a redirect asks for is booked so far ahead, before those who have not
/// begun: a host that is visited once a second gives it within two, were another redirected there too.
pub(crate) const BOOKED_AHEAD: Duration = Duration::from_secs(5);

/// How long a host is left alone that says it is asked too much and not for how long.
const PAUSE: Duration = Duration::from_secs(60);

/// How often hosts are visited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Politeness {
    /// For all hosts, one's own included. Without it those of the internet once a second.
    pub every: Option<Duration>,
}

/// Whether a page may be fetched now.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It may, as long as this is held.
    Now(Permit),
    /// Ask again after so long.
    Later(Duration),
}

impl Politeness {
    /// What is allowed at a host that wants `delay` between two visits. `is_own`: it is one that may
    /// be visited though it is not of the internet, and nobody there minds.
    fn rules(self, is_own: bool, delay: Option<Duration>) -> LimitRules {
        let usual = self.every.unwrap_or(if is_own { Duration::ZERO } else { EVERY });
        let every = usual.max(delay.unwrap_or_default());
        let rules = LimitRules::new().lease(LEASE).every(every);
        if every.is_zero() { rules } else { rules.at_once(AT_ONCE) }
    }

    /// Asks for a turn, and waits for it if it comes soon. A redirect has its turn `ahead` of others.
    pub async fn turn(
        self,
        client: &Client,
        url: &Url,
        is_own: bool,
        patience: Patience,
        ahead: Option<Ahead>,
    ) -> Result<Turn, BrokerError> {
        let (mut rules, host) = (self.rules(is_own, patience.delay), host(url));
        if matches!(ahead, Some(Ahead::AtTheLatest(_))) {
            // Its place there is held from before; only the time of it is taken.
            rules = rules.any_at_once();
        }
        let until = Instant::now() + patience.in_place;
        loop {
            let answer = match ahead {
                None => client.acquire(HOSTS, &host, &rules).await?,
                Some(ahead) => client.book(HOSTS, &host, &rules, ahead).await?,
            };
            match answer {
                Acquired::Granted(permit) => return Ok(Turn::Now(permit)),
                Acquired::NotBefore(at) if at > until => {
                    return Ok(Turn::Later(at.saturating_duration_since(Instant::now())));
                }
                Acquired::NotBefore(at) => tokio::time::sleep_until(at.into()).await,
            }
        }
    }

    /// Why a task waits for its turn.
    pub fn no_turn(url: &Url) -> String {
        umbel::no_room(HOSTS, &host(url))
    }

    /// Leaves a host alone for all workers: it has said that it is asked too much.
    pub async fn pause(
        client: &Client,
        url: &Url,
        wait: Option<Duration>,
    ) -> Result<(), BrokerError> {
        client.pause_limit(HOSTS, &host(url), wait.unwrap_or(PAUSE)).await
    }
}

/// Two services of one name are two hosts.
pub(crate) fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or(name.to_owned(), |port| format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_what_anybody_wants_is_kept_and_ones_own_hosts_do_not_mind() {
        let s = Duration::from_secs;
        let rules = |every, is_own, delay| Politeness { every }.rules(is_own, delay);
        let once_in = |time| LimitRules::new().lease(LEASE).every(time).at_once(AT_ONCE);
        assert_eq!(rules(None, false, None), once_in(EVERY));
        assert_eq!(rules(None, false, Some(s(5))), once_in(s(5)));
        assert_eq!(rules(Some(s(3)), false, Some(s(2))), once_in(s(3)));
        assert_eq!(rules(None, true, None), LimitRules::new().lease(LEASE));
        assert_eq!(rules(None, true, Some(s(2))), once_in(s(2)));
        assert_eq!(rules(Some(s(1)), true, None), once_in(s(1)));
    }

    #[test]
    fn a_host_is_a_name_and_a_port() {
        let host = |url: &str| host(&url.parse().unwrap());
        assert_eq!(host("https://example.com/a?b"), "example.com");
        assert_eq!(host("http://127.0.0.1:8123/"), "127.0.0.1:8123");
    }
}
