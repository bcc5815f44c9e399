//! New ids: UUIDs of version 7, each greater than the one before in this process.
//!
//! They are made here and not by `Uuid::now_v7`, which asks the system for chance each time: that
//! costs more than all else that is done for a task before it is sent.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use uuid::{Builder, Uuid};

/// The bits beside time, version and variant; the highest stays free, so that there is room to count.
const CHANCE_BITS: u32 = 74;

/// The lower part of these bits, after the variant.
const LOW_BITS: u32 = 62;

#[derive(Debug, Clone, Copy)]
struct Last {
    ms: u64,
    chance: u128,
}

static LAST: Mutex<Last> = Mutex::new(Last { ms: 0, chance: 0 });

/// An id of this moment, or just after the last one where that was not before it.
pub(crate) fn next(now: DateTime<Utc>) -> Uuid {
    let ms = u64::try_from(now.timestamp_millis()).unwrap_or_default();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    *last = after(*last, ms, rand::random());
    last.uuid()
}

fn after(last: Last, ms: u64, chance: u128) -> Last {
    if ms > last.ms {
        return Last { ms, chance: chance >> (u128::BITS - CHANCE_BITS + 1) };
    }
    // A step that nobody can guess from the id before.
    Last { ms: last.ms, chance: last.chance + 1 + (chance & u128::from(u32::MAX)) }
}

impl Last {
    fn uuid(self) -> Uuid {
        let high = (self.chance >> LOW_BITS) as u16;
        let low = self.chance as u64 & ((1 << LOW_BITS) - 1);
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&high.to_be_bytes());
        bytes[2..].copy_from_slice(&low.to_be_bytes());
        Builder::from_unix_timestamp_millis(self.ms, &bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_within_a_millisecond_and_when_the_clock_is_set_back() {
        let mut last = Last { ms: 0, chance: 0 };
        let mut before = Uuid::nil();
        for (ms, chance) in [(7, u128::MAX), (7, u128::MAX), (7, 0), (6, 1), (8, 0), (8, u128::MAX)]
        {
            last = after(last, ms, chance);
            assert!(last.uuid() > before, "{} after {before}", last.uuid());
            before = last.uuid();
            assert_eq!(before.get_version_num(), 7);
        }
        assert_eq!(last.ms, 8);
    }

    #[test]
    fn an_id_tells_when_it_was_made() {
        let now = Utc::now();
        let (seconds, _) = next(now).get_timestamp().unwrap().to_unix();
        assert!(seconds.abs_diff(now.timestamp().unsigned_abs()) <= 1);
        assert_ne!(next(now), next(now));
    }
}
