//! What is asked before a page is fetched: whether its host wants time between two visits.
//!
//! Each worker keeps the pace by itself; a limit that all workers share has its place here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// More hosts than a worker visits within the longest delay.
const MAX_HOSTS: usize = 10_000;
/// A turn that comes sooner than this is waited for in place; a later one is better deferred,
/// while the worker does other work.
const WAITED_FOR: Duration = Duration::from_secs(2);

/// When each host may be visited next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Politeness(Arc<Mutex<HashMap<String, Instant>>>);

/// What to do about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is ours, after so long.
    After(Duration),
    /// Ask again after so long.
    Later(Duration),
}

impl Politeness {
    /// Asks for a turn at a host that wants `delay` between two.
    pub fn turn(&self, host: &str, delay: Duration, now: Instant) -> Turn {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if next.len() >= MAX_HOSTS {
            next.retain(|_, at| *at > now);
        }
        let at = next.get(host).copied().unwrap_or(now).max(now);
        let wait = at - now;
        if wait > WAITED_FOR {
            return Turn::Later(wait);
        }
        // Where even so there are too many, the one host goes unpaced for once.
        if next.len() < MAX_HOSTS {
            next.insert(host.to_owned(), at + delay);
        }
        Turn::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_at_a_host_are_as_far_apart_as_it_wants_and_others_do_not_wait() {
        let (politeness, now) = (Politeness::default(), Instant::now());
        let s = Duration::from_secs_f64;
        assert_eq!(politeness.turn("a", s(1.5), now), Turn::After(s(0.0)));
        assert_eq!(politeness.turn("a", s(1.5), now), Turn::After(s(1.5)));
        assert_eq!(politeness.turn("a", s(1.5), now), Turn::Later(s(3.0)));
        assert_eq!(politeness.turn("b", s(1.5), now), Turn::After(s(0.0)));
        assert_eq!(politeness.turn("a", s(1.5), now + s(3.0)), Turn::After(s(0.0)));
    }
}
