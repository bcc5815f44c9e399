//! What is due, and how long there is nothing to do: decisions, with time as an argument.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::Schedule;

/// How old a missed slot may be and still fire. Longer than a night's outage that somebody mends
/// in the morning; shorter than the keys live that keep a slot from being enqueued twice.
pub const GRACE: Duration = Duration::from_hours(12);

/// How far this machine's clock and that of Redis may be apart; beyond it one of them is wrong and
/// nothing fires. NTP keeps machines within a fraction of a second.
pub const MAX_SKEW: Duration = Duration::from_secs(5);

/// The longest sleep between two steps: what a clock that was set back or forth, and a slot that
/// another beat claimed and did not fire, wait at most.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// The shortest one: a clock that creeps up to a slot must not be asked in a tight loop.
const MIN_SLEEP: Duration = Duration::from_millis(1);

/// The slot that is to fire now, if any.
///
/// `last` is the entry's latest slot that was ever claimed, `started` when this beat first saw the
/// entry. Of the slots that were missed only the latest fires, and only within [`GRACE`].
///
/// For an entry without a `last` an interval fires its current slot at once, however old: what was
/// just added should not wait a whole period. A cron entry makes nothing up: its first slot is the
/// first one that is not before `started`.
pub fn due(
    schedule: &Schedule,
    last: Option<DateTime<Utc>>,
    started: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let slot = schedule.slot_at_or_before(now)?;
    let fires = match last {
        Some(last) => slot > last && !is_too_old(slot, now),
        None if schedule.is_interval() => true,
        None => slot >= started && !is_too_old(slot, now),
    };
    fires.then_some(slot)
}

/// Whether a slot is past its [`GRACE`].
pub(crate) fn is_too_old(slot: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(slot).to_std().is_ok_and(|age| age > GRACE)
}

/// Whether two clocks are within [`MAX_SKEW`].
pub(crate) fn clocks_agree(here: DateTime<Utc>, redis: DateTime<Utc>) -> bool {
    here.signed_duration_since(redis).abs().to_std().is_ok_and(|skew| skew <= MAX_SKEW)
}

/// How long to sleep until the next slot of any of `schedules`: more than zero, at most 5 s.
pub fn sleep_until_next<'a>(
    schedules: impl IntoIterator<Item = &'a Schedule>,
    now: DateTime<Utc>,
) -> Duration {
    let next = schedules.into_iter().filter_map(|schedule| schedule.next_after(now)).min();
    let wait = next.map_or(TimeDelta::MAX, |next| next - now);
    wait.to_std().unwrap_or(Duration::ZERO).clamp(MIN_SLEEP, MAX_SLEEP)
}

#[cfg(test)]
mod tests {
    use chrono_tz::Europe::Berlin;
    use proptest::prelude::*;

    use super::*;
    use crate::{cron, every};

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-03-{text}Z").parse().unwrap()
    }

    fn five_minutes() -> Schedule {
        every(Duration::from_mins(5))
    }

    /// 03:00 in Berlin, 02:00 UTC.
    fn nightly() -> Schedule {
        cron("0 3 * * *").unwrap().timezone(Berlin)
    }

    #[test]
    fn a_slot_fires_when_it_comes_and_not_again() {
        let (slot, next) = (at("01T12:00:00"), at("01T12:05:00"));
        let due_at = |last, now| due(&five_minutes(), Some(last), at("01T11:00:00"), now);
        assert_eq!(due_at(slot, next - TimeDelta::milliseconds(1)), None);
        assert_eq!(due_at(slot, next), Some(next));
        assert_eq!(due_at(next, next), None);
        assert_eq!(due_at(next, next + TimeDelta::minutes(4)), None);
    }

    #[test]
    fn after_a_downtime_exactly_the_latest_missed_slot_fires() {
        let (last, now) = (at("01T02:00:00"), at("01T09:03:00"));
        let fired = due(&five_minutes(), Some(last), now, now);
        assert_eq!(fired, Some(at("01T09:00:00")));
        assert_eq!(due(&five_minutes(), fired, now, now), None);
    }

    #[test]
    fn a_missed_slot_older_than_its_grace_is_let_go() {
        let last = Some(at("04T02:00:00"));
        let slot = at("05T02:00:00");
        for (age, fired) in [
            (TimeDelta::hours(12), Some(slot)),
            (TimeDelta::hours(12) + TimeDelta::milliseconds(1), None),
            (TimeDelta::hours(23), None),
        ] {
            assert_eq!(due(&nightly(), last, slot + age, slot + age), fired, "{age}");
        }
        let next = slot + TimeDelta::days(1);
        assert_eq!(due(&nightly(), last, slot + TimeDelta::hours(23), next), Some(next));
    }

    #[test]
    fn a_beat_whose_clock_is_behind_the_last_slot_fires_nothing() {
        let last = at("02T00:00:00");
        assert_eq!(due(&five_minutes(), Some(last), at("01T00:00:00"), at("01T12:00:00")), None);
    }

    #[test]
    fn an_interval_that_was_just_added_fires_at_once_and_a_nightly_entry_waits_for_its_night() {
        let now = at("01T12:34:56");
        assert_eq!(due(&five_minutes(), None, now, now), Some(at("01T12:30:00")));
        let daily = every(Duration::from_hours(24));
        assert_eq!(due(&daily, None, now, at("01T18:00:00")), Some(at("01T00:00:00")));

        assert_eq!(due(&nightly(), None, now, now), None);
        assert_eq!(due(&nightly(), None, now, at("02T01:59:59")), None);
        assert_eq!(due(&nightly(), None, now, at("02T02:00:00")), Some(at("02T02:00:00")));
        // Seen first in the very moment of a slot.
        let slot = at("02T02:00:00");
        assert_eq!(due(&nightly(), None, slot, slot), Some(slot));
    }

    #[test]
    fn clocks_may_be_five_seconds_apart_in_either_direction() {
        let here = at("01T12:00:00");
        for (skew, agree) in [(0, true), (5000, true), (-5000, true), (5001, false), (-5001, false)]
        {
            assert_eq!(clocks_agree(here, here + TimeDelta::milliseconds(skew)), agree, "{skew}");
        }
    }

    #[test]
    fn the_sleep_ends_with_the_next_slot_of_any_entry_and_is_bounded() {
        let entries = [nightly(), five_minutes()];
        let before = at("01T12:05:00") - TimeDelta::milliseconds(1500);
        assert_eq!(sleep_until_next(&entries, before), Duration::from_millis(1500));
        assert_eq!(sleep_until_next(&entries, at("01T12:05:00")), MAX_SLEEP);
        assert_eq!(sleep_until_next(&[], before), MAX_SLEEP);
    }

    proptest! {
        #[test]
        fn a_beat_that_steps_at_any_pace_fires_each_slot_at_most_once_and_never_early(
            period in 1..100u64,
            steps in prop::collection::vec(1..30_000i64, 1..200),
        ) {
            let schedule = every(Duration::from_secs(period));
            let started = at("01T12:00:00");
            let (mut now, mut last) = (started, None);
            for step in steps {
                if let Some(slot) = due(&schedule, last, started, now) {
                    prop_assert!(slot <= now && last < Some(slot));
                    last = Some(slot);
                }
                // Whatever was missed, the present slot is never behind.
                prop_assert_eq!(last, schedule.slot_at_or_before(now));
                now += TimeDelta::milliseconds(step);
            }
        }

        #[test]
        fn a_beat_that_sleeps_as_told_misses_no_slot(ms in 0..1_000_000i64, period in 1000..9000u64) {
            let schedule = every(Duration::from_millis(period));
            let now = at("01T12:00:00") + TimeDelta::milliseconds(ms);
            let sleep = sleep_until_next([&schedule], now);
            prop_assert!(sleep > Duration::ZERO && sleep <= MAX_SLEEP);
            let next = schedule.next_after(now).unwrap();
            prop_assert!(now + sleep <= next || sleep == MIN_SLEEP);
        }
    }
}
