//! When a failed task is tried again.

use std::time::Duration;

/// Exponential backoff with full jitter: the wait before the next attempt is drawn evenly from
/// `0 ..= min(cap, base · 2^(attempt − 1))`.
///
/// Full jitter is the variant that spreads a crowd of failures best ("Exponential Backoff And
/// Jitter", AWS Architecture Blog, 2015). Default: base 2 s, cap 10 min.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    base: Duration,
    cap: Duration,
}

impl RetryPolicy {
    pub const DEFAULT: Self = Self::exponential(Duration::from_secs(2), Duration::from_secs(600));

    /// Waits that double from `base` up to `cap`.
    pub const fn exponential(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The wait after the failed attempt number `attempt` (the first is 1), with `jitter` drawn
    /// from `0.0 ..= 1.0` by the caller; other values are taken as the nearest bound.
    pub fn delay(&self, attempt: u32, jitter: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let longest = self.base.saturating_mul(1 << doublings).min(self.cap);
        let share = if jitter.is_nan() { 1.0 } else { jitter.clamp(0.0, 1.0) };
        longest.mul_f64(share)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        let policy = RetryPolicy::exponential(Duration::from_secs(1), Duration::from_secs(60));
        let longest: Vec<u64> = (1..=8).map(|n| policy.delay(n, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn jitter_takes_its_share_of_the_wait() {
        let policy = RetryPolicy::exponential(Duration::from_secs(8), Duration::from_secs(60));
        assert_eq!(policy.delay(1, 0.25), Duration::from_secs(2));
        assert_eq!(policy.delay(1, 0.0), Duration::ZERO);
    }

    #[test]
    fn no_attempt_and_no_jitter_overflow() {
        for attempt in [0, 1, 32, 33, 64, u32::MAX] {
            for jitter in [-1.0, 0.5, 7.0, f64::NAN, f64::INFINITY] {
                assert!(RetryPolicy::DEFAULT.delay(attempt, jitter) <= Duration::from_secs(600));
            }
        }
        let endless = RetryPolicy::exponential(Duration::MAX, Duration::MAX);
        assert_eq!(endless.delay(u32::MAX, 0.0), Duration::ZERO);
    }
}
