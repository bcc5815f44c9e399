//! How often somebody may ask: a token bucket for each, in memory that is bounded by construction.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

/// How many buckets there are at most: some 3 MB. Who shares one with another shares the rate; by
/// whom that is nobody can choose, for places are drawn anew by each process.
const PLACES: u64 = 1 << 16;

/// How many seconds of the rate may come at once: a page that asks for much at its start.
const BURST_S: u32 = 2;

/// The rate of many, each by the hash of its name.
pub(crate) struct Rates<C: Clock = MonotonicClock> {
    buckets: RateLimiter<u64, HashMapStateStore<u64>, C, NoOpMiddleware<C::Instant>>,
    clock: C,
    places: RandomState,
}

impl Rates {
    /// So many requests a second.
    pub fn new(rate: NonZeroU32) -> Self {
        Self::by(rate, MonotonicClock)
    }
}

impl<C: Clock + Clone> Rates<C> {
    fn by(rate: NonZeroU32, clock: C) -> Self {
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_S - 1));
        let quota = Quota::per_second(rate).allow_burst(burst);
        let buckets = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Self { buckets, clock, places: RandomState::new() }
    }

    /// Takes one request of `who`; an error is how long to wait, in whole seconds.
    pub fn take(&self, who: impl Hash) -> Result<(), Duration> {
        let place = self.places.hash_one(who) % PLACES;
        self.buckets.check_key(&place).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            Duration::from_secs(wait.as_secs() + 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_rate_holds_for_each_alone_and_comes_back_with_time() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::by(NonZeroU32::new(10).unwrap(), clock.clone());
        let taken = |who: &str| (0..100).take_while(|_| rates.take(who).is_ok()).count();
        assert_eq!(taken("ann"), 20, "for a moment twice the rate");
        assert_eq!(rates.take("ann"), Err(Duration::from_secs(1)));
        assert_eq!(taken("bob"), 20);
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken("ann"), 10);
        clock.advance(Duration::from_secs(60));
        assert_eq!(taken("ann"), 20, "rest is not saved up");
    }

    #[test]
    fn any_number_of_names_takes_a_bounded_number_of_buckets() {
        let rates = Rates::new(NonZeroU32::new(10).unwrap());
        for who in 0..500_000_u32 {
            let _ = rates.take(who);
        }
        assert!(rates.buckets.len() as u64 <= PLACES);
    }
}
