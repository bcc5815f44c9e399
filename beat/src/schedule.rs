//! When something is to happen: every so often, or by a cron pattern in a time zone. Pure.

use std::{fmt, sync::Arc, time::Duration};

use chrono::{DateTime, TimeZone, Utc};
use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};

/// The instants at which an entry of a timetable is due: its slots.
///
/// Slots follow from the schedule alone, not from when a beat was started, so that any number of
/// beats on any number of machines agree on them.
#[derive(Debug, Clone)]
pub struct Schedule {
    rule: Rule,
    /// That of an interval is refused by a timetable.
    zone: Option<Arc<dyn Zone>>,
}

#[derive(Debug, Clone)]
enum Rule {
    Every(Duration),
    Cron { text: String, cron: Box<Cron> },
}

/// Slots at the whole multiples of `period` since the Unix epoch: `every(5 min)` is due at 12:00,
/// 12:05 and so on, `every(24 h)` at midnight UTC.
///
/// A period is at least 1 s and of whole milliseconds; a timetable refuses another one, and it has
/// no slots. For a time of day in a time zone use [`cron`].
pub fn every(period: Duration) -> Schedule {
    Schedule { rule: Rule::Every(period), zone: None }
}

/// Slots by a cron pattern of five fields (minute, hour, day of month, month, weekday), or one of
/// `@hourly @daily @weekly @monthly @yearly`; in UTC unless [`Schedule::timezone`] says otherwise.
///
/// The dialect is Vixie's: Sunday is 0 or 7, names (`MON`, `JAN`) are allowed, and where both day
/// fields are restricted either of them is enough. `L`, `W` and `#` work: `0 3 L * *` is the last
/// day of the month. Seconds and years are refused, and so is a pattern that no date matches.
///
/// When the clocks change, a pattern with one fixed minute and hour still has one slot a day: a
/// time that is skipped gives the first instant after the gap, a time that comes twice gives the
/// first of the two. A pattern with a list, range or step in them follows the clock on the wall: it
/// has no slot in a gap, and slots in both halves of a repeated hour.
///
/// # Errors
///
/// [`ScheduleError::Pattern`] or [`ScheduleError::Never`].
pub fn cron(pattern: &str) -> Result<Schedule, ScheduleError> {
    let text = pattern.split_whitespace().collect::<Vec<_>>().join(" ");
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = match parser.parse(&text) {
        Ok(cron) => Box::new(cron),
        Err(source) => return Err(ScheduleError::Pattern { pattern: text, source }),
    };
    // Without a year field the calendar repeats: what matches once from here matches for ever.
    if cron.find_next_occurrence(&DateTime::UNIX_EPOCH, true).is_err() {
        return Err(ScheduleError::Never { pattern: text });
    }
    Ok(Schedule { rule: Rule::Cron { text, cron }, zone: None })
}

impl Schedule {
    /// The time zone in which a cron pattern is read, such as one of `chrono_tz`. Default UTC.
    ///
    /// Multiples of a period have no time zone: a timetable refuses `every(..).timezone(..)`.
    pub fn timezone<Z>(mut self, zone: Z) -> Self
    where
        Z: TimeZone + fmt::Debug + fmt::Display + Send + Sync + 'static,
    {
        self.zone = Some(Arc::new(zone));
        self
    }

    /// The latest slot that is not after `now`.
    pub fn slot_at_or_before(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.rule {
            Rule::Every(period) => {
                let period = whole_ms(*period)?;
                let slot = now.timestamp_millis().div_euclid(period).checked_mul(period)?;
                DateTime::from_timestamp_millis(slot)
            }
            Rule::Cron { cron, .. } => self.zone_or_utc().last(cron, whole_second(now)?),
        }
    }

    /// The first slot after `t`. None only where the calendar ends.
    pub fn next_after(&self, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.rule {
            Rule::Every(period) => {
                let period = whole_ms(*period)?;
                let number = t.timestamp_millis().div_euclid(period).checked_add(1)?;
                DateTime::from_timestamp_millis(number.checked_mul(period)?)
            }
            Rule::Cron { cron, .. } => self.zone_or_utc().next(cron, whole_second(t)?),
        }
    }

    /// The time zone in which it is read; `None`: it is [`every`], which has none.
    pub fn zone(&self) -> Option<String> {
        match &self.rule {
            Rule::Every(_) => None,
            Rule::Cron { .. } => Some(self.zone_or_utc().to_string()),
        }
    }

    /// Whether this is [`every`].
    pub(crate) fn is_interval(&self) -> bool {
        matches!(self.rule, Rule::Every(_))
    }

    /// Whether a timetable can take it: the one thing that [`every`] could not answer.
    pub(crate) fn check(&self) -> Result<(), ScheduleError> {
        match &self.rule {
            Rule::Every(period) if whole_ms(*period).is_none() => {
                Err(ScheduleError::Period(*period))
            }
            Rule::Every(_) if self.zone.is_some() => Err(ScheduleError::Zone),
            _ => Ok(()),
        }
    }

    fn zone_or_utc(&self) -> &dyn Zone {
        self.zone.as_deref().unwrap_or(&Utc)
    }
}

/// A time zone, whosever. A type that could be any of them would bring the tables of all: a megabyte
/// in every process, also of those who name none.
trait Zone: fmt::Debug + fmt::Display + Send + Sync {
    /// The latest slot that is not after `t`.
    fn last(&self, cron: &Cron, t: DateTime<Utc>) -> Option<DateTime<Utc>>;

    /// The first slot after `t`.
    fn next(&self, cron: &Cron, t: DateTime<Utc>) -> Option<DateTime<Utc>>;
}

impl<Z: TimeZone + fmt::Debug + fmt::Display + Send + Sync> Zone for Z {
    fn last(&self, cron: &Cron, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let slot = cron.find_previous_occurrence(&t.with_timezone(self), true).ok()?;
        Some(slot.to_utc())
    }

    fn next(&self, cron: &Cron, t: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let slot = cron.find_next_occurrence(&t.with_timezone(self), false).ok()?;
        Some(slot.to_utc())
    }
}

/// Without the part of a second that no slot has.
fn whole_second(t: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(t.timestamp(), 0)
}

/// A slot more than once a second is a loop of its own, not a schedule.
const SHORTEST: Duration = Duration::from_secs(1);

fn whole_ms(period: Duration) -> Option<i64> {
    if period < SHORTEST || !period.subsec_nanos().is_multiple_of(1_000_000) {
        return None;
    }
    i64::try_from(period.as_millis()).ok()
}

/// `every 5m`, `cron 0 3 * * * (Europe/Berlin)`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Every(period) => {
                let ms = period.as_millis();
                let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
                let (unit, size) = units
                    .into_iter()
                    .find(|(_, size)| ms.is_multiple_of(*size))
                    .unwrap_or(("ms", 1));
                write!(f, "every {}{unit}", ms / size)
            }
            Rule::Cron { text, .. } => write!(f, "cron {text} ({})", self.zone_or_utc()),
        }
    }
}

/// Why a schedule cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The text is not a pattern of five fields, nor one of the names.
    #[error("`{pattern}` is not a cron pattern of five fields")]
    Pattern { pattern: String, source: CronError },
    /// The pattern is well formed and no date matches it, like the 30th of February.
    #[error("`{pattern}` matches no date")]
    Never { pattern: String },
    /// The period is too short, too long, or has a part of a millisecond.
    #[error("a period is at least {SHORTEST:?} and of whole milliseconds, {0:?} is not")]
    Period(Duration),
    /// A time zone was given to [`every`].
    #[error("every(..) has no time zone; use cron(..) for a time of day")]
    Zone,
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use chrono::TimeDelta;
    use chrono_tz::Tz;
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn slots_after(schedule: &Schedule, t: &str, n: usize) -> Vec<String> {
        std::iter::successors(schedule.next_after(at(t)), |slot| schedule.next_after(*slot))
            .take(n)
            .map(|slot| slot.format("%m-%d %H:%M:%S").to_string())
            .collect()
    }

    #[test]
    fn an_interval_is_due_at_whole_multiples_of_its_period() {
        let schedule = every(Duration::from_mins(5));
        assert_eq!(
            slots_after(&schedule, "2026-03-01T11:58:01Z", 3),
            ["03-01 12:00:00", "03-01 12:05:00", "03-01 12:10:00"]
        );
        let slot = at("2026-03-01T12:05:00Z");
        assert_eq!(schedule.slot_at_or_before(slot), Some(slot));
        assert_eq!(schedule.slot_at_or_before(slot + TimeDelta::seconds(299)), Some(slot));
        assert_eq!(every(Duration::from_hours(24)).slot_at_or_before(slot), {
            Some(at("2026-03-01T00:00:00Z"))
        });
    }

    #[test]
    fn a_period_below_a_second_with_a_split_millisecond_or_without_end_is_refused() {
        let refused =
            [Duration::ZERO, Duration::from_millis(999), Duration::from_micros(1_000_500)];
        for period in refused.into_iter().chain([Duration::MAX]) {
            assert!(matches!(every(period).check(), Err(ScheduleError::Period(_))), "{period:?}");
            assert_eq!(every(period).next_after(at("2026-03-01T12:00:00Z")), None);
            assert_eq!(every(period).slot_at_or_before(at("2026-03-01T12:00:00Z")), None);
        }
        for period in [Duration::from_secs(1), Duration::from_millis(1001)] {
            assert!(every(period).check().is_ok(), "{period:?}");
        }
    }

    #[test]
    fn an_interval_with_a_time_zone_is_refused_and_not_silently_utc() {
        let schedule = every(Duration::from_hours(24)).timezone(Tz::Europe__Berlin);
        assert!(matches!(schedule.check(), Err(ScheduleError::Zone)));
    }

    #[test]
    fn five_fields_and_names_are_patterns_and_seconds_years_and_nonsense_are_not() {
        for good in ["*/5 * * * *", "0 3 * * MON-FRI", "0 3 L * *", "0 3 * * 5#2", "@daily"] {
            assert!(cron(good).is_ok(), "{good}");
        }
        for bad in
            ["", "* * * *", "0 */5 * * * *", "0 0 3 * * * 2027", "60 * * * *", "@reboot", "ä"]
        {
            assert!(matches!(cron(bad), Err(ScheduleError::Pattern { .. })), "{bad}");
        }
    }

    #[test]
    fn a_pattern_that_no_date_matches_is_refused() {
        assert!(matches!(cron("0 0 30 2 *"), Err(ScheduleError::Never { .. })));
        assert!(cron("0 0 29 2 *").is_ok());
    }

    #[test]
    fn sunday_is_0_and_7_and_either_day_field_is_enough() {
        let sundays = ["03-01 00:00:00", "03-08 00:00:00"];
        for pattern in ["0 0 * * 0", "0 0 * * 7", "0 0 * * SUN"] {
            let schedule = cron(pattern).unwrap();
            assert_eq!(slots_after(&schedule, "2026-02-28T12:00:00Z", 2), sundays, "{pattern}");
        }
        assert_eq!(
            slots_after(&cron("0 0 3 * SUN").unwrap(), "2026-02-28T12:00:00Z", 3),
            ["03-01 00:00:00", "03-03 00:00:00", "03-08 00:00:00"]
        );
    }

    #[test]
    fn a_time_that_the_spring_skips_gives_the_first_instant_after_the_gap_once() {
        let new_york = cron("30 2 * * *").unwrap().timezone(Tz::America__New_York);
        assert_eq!(
            slots_after(&new_york, "2026-03-07T00:00:00Z", 3),
            // 02:30 EST, 03:00 EDT, 02:30 EDT
            ["03-07 07:30:00", "03-08 07:00:00", "03-09 06:30:00"]
        );
        let slot = at("2026-03-08T07:00:00Z");
        assert_eq!(new_york.slot_at_or_before(slot), Some(slot));
        assert_eq!(new_york.slot_at_or_before(slot + TimeDelta::hours(5)), Some(slot));
        let before = slot - TimeDelta::milliseconds(1);
        assert_eq!(new_york.slot_at_or_before(before), Some(at("2026-03-07T07:30:00Z")));

        let berlin = cron("30 2 * * *").unwrap().timezone(Tz::Europe__Berlin);
        assert_eq!(
            slots_after(&berlin, "2026-03-28T00:00:00Z", 3),
            ["03-28 01:30:00", "03-29 01:00:00", "03-30 00:30:00"]
        );
    }

    #[test]
    fn a_time_that_the_autumn_repeats_comes_once() {
        let new_york = cron("30 1 * * *").unwrap().timezone(Tz::America__New_York);
        assert_eq!(
            slots_after(&new_york, "2026-10-31T00:00:00Z", 3),
            // 01:30 EDT, 01:30 EDT, 01:30 EST
            ["10-31 05:30:00", "11-01 05:30:00", "11-02 06:30:00"]
        );
        // In the second 01:15 and the second 01:45 of that night it still is the first 01:30.
        for now in ["2026-11-01T06:15:00Z", "2026-11-01T06:45:00Z"] {
            assert_eq!(new_york.slot_at_or_before(at(now)), Some(at("2026-11-01T05:30:00Z")));
        }

        let berlin = cron("30 2 * * *").unwrap().timezone(Tz::Europe__Berlin);
        assert_eq!(
            slots_after(&berlin, "2026-10-24T00:00:00Z", 3),
            ["10-24 00:30:00", "10-25 00:30:00", "10-26 01:30:00"]
        );
    }

    #[test]
    fn a_schedule_reads_as_a_person_would_write_it() {
        for (period, text) in [
            (Duration::from_mins(5), "every 5m"),
            (Duration::from_secs(90), "every 90s"),
            (Duration::from_hours(48), "every 2d"),
            (Duration::from_millis(1500), "every 1500ms"),
        ] {
            assert_eq!(every(period).to_string(), text);
        }
        let nightly = cron(" 0  3 * * Mon ").unwrap();
        assert_eq!(nightly.to_string(), "cron 0 3 * * Mon (UTC)");
        let nightly = nightly.timezone(Tz::Europe__Berlin);
        assert_eq!(nightly.to_string(), "cron 0 3 * * Mon (Europe/Berlin)");
    }

    /// Zones with an hour, half an hour, a gap at midnight, and none.
    const ZONES: [Tz; 6] = [
        Tz::UTC,
        Tz::America__New_York,
        Tz::Europe__Berlin,
        Tz::Australia__Lord_Howe,
        Tz::America__Havana,
        Tz::Asia__Kolkata,
    ];

    fn schedules() -> impl Strategy<Value = Schedule> {
        let minute = prop_oneof![
            (0..60u8).prop_map(|m| m.to_string()),
            select(vec!["*", "*/7", "*/30", "0,30", "10-20"]).prop_map(str::to_owned),
        ];
        let hour = prop_oneof![
            (0..24u8).prop_map(|h| h.to_string()),
            (0..4u8).prop_map(|h| h.to_string()),
            select(vec!["*", "*/5", "1,2,3"]).prop_map(str::to_owned),
        ];
        let days = select(vec!["* * *", "* * MON-FRI", "29 2 *", "L * *", "15W * *", "13 * FRI"]);
        prop_oneof![
            1 => (1000..200_000_000u64).prop_map(|ms| every(Duration::from_millis(ms))),
            5 => (minute, hour, days, select(ZONES.to_vec())).prop_map(|(minute, hour, days, zone)| {
                cron(&format!("{minute} {hour} {days}")).unwrap().timezone(zone)
            }),
        ]
    }

    /// Any instant of some decades, and instants within two hours of a change of the clocks.
    fn instants() -> impl Strategy<Value = DateTime<Utc>> {
        let change = select(vec![
            "2026-03-08T07:00:00Z",
            "2026-11-01T06:00:00Z",
            "2026-03-29T01:00:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-03T15:30:00Z",
            "2026-04-04T15:00:00Z",
            "2026-03-08T05:00:00Z",
            "2026-11-01T05:00:00Z",
        ]);
        prop_oneof![
            (0..2_500_000_000_000i64).prop_map(|ms| DateTime::from_timestamp_millis(ms).unwrap()),
            (change, -7_200_000..7_200_000i64)
                .prop_map(|(change, ms)| at(change) + TimeDelta::milliseconds(ms)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn slots_only_go_forward_and_both_directions_agree(
            schedule in schedules(), t in instants()
        ) {
            let before = schedule.slot_at_or_before(t).unwrap();
            let next = schedule.next_after(t).unwrap();
            prop_assert!(before <= t && t < next, "{schedule}: {before} {t} {next}");
            prop_assert_eq!(schedule.slot_at_or_before(next), Some(next), "{}", &schedule);
            // Nothing lies between the two.
            let just_before = next - TimeDelta::milliseconds(1);
            prop_assert_eq!(schedule.slot_at_or_before(just_before), Some(before), "{}", &schedule);
            prop_assert_eq!(schedule.next_after(before), Some(next), "{}", &schedule);
        }

        #[test]
        fn another_cron_engine_finds_the_same_slots_in_utc(
            minute in select(vec!["0", "*/5", "17", "3-40/7", "1,2,58"]),
            hour in select(vec!["*", "0", "*/6", "9-17", "23"]),
            days in select(vec![
                "* * *", "1 * *", "31 * *", "29 2 *", "* * MON", "* * SUN", "* JAN-MAR TUE,SAT"
            ]),
            t in instants(),
        ) {
            let ours = cron(&format!("{minute} {hour} {days}")).unwrap();
            let theirs = cron::Schedule::from_str(&format!("0 {minute} {hour} {days}")).unwrap();
            let ours: Vec<_> =
                std::iter::successors(ours.next_after(t), |slot| ours.next_after(*slot))
                    .take(5)
                    .collect();
            prop_assert_eq!(ours, theirs.after(&t).take(5).collect::<Vec<_>>());
        }
    }
}
