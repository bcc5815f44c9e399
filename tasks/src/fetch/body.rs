//! Takes the body of a response as it arrives, within the limits of size and rate.

use std::ops::ControlFlow;

use reqwest::Response;
use tokio::time::{Duration, Instant, timeout_at};

use super::{FetchError, FetchSettings};

/// How much of a body is taken, and how slowly it may come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// In bytes after decompression.
    pub max_bytes: usize,
    /// In bytes a second, on average.
    pub min_rate: u32,
    /// From when on the rate counts: a host may think before it speaks.
    pub grace: Duration,
}

impl Limits {
    pub(super) fn of(settings: &FetchSettings) -> Self {
        Self {
            max_bytes: settings.max_bytes,
            min_rate: settings.min_rate,
            grace: settings.timeout / 4,
        }
    }

    /// When the next bytes must be here at the latest, after `bytes` have come since `began`.
    fn next_by(&self, began: Instant, bytes: usize) -> Instant {
        let earned = Duration::from_secs_f64(bytes as f64 / f64::from(self.min_rate));
        began + self.grace + earned
    }
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taken {
    /// After decompression.
    pub bytes: usize,
    /// There was more, or may have been.
    pub cut: bool,
}

/// Hands the body to `take`, piece by piece, until it ends, is long enough, or `take` has enough.
pub(super) async fn take(
    mut response: Response,
    limits: Limits,
    mut take: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<Taken, FetchError> {
    let (began, mut bytes) = (Instant::now(), 0);
    loop {
        let chunk = timeout_at(limits.next_by(began, bytes), response.chunk()).await;
        let Ok(chunk) = chunk else {
            return Err(FetchError::TooSlow { min_rate: limits.min_rate });
        };
        let Some(chunk) = chunk.map_err(FetchError::broken)? else {
            return Ok(Taken { bytes, cut: false });
        };
        let room = limits.max_bytes - bytes;
        let taken = &chunk[..chunk.len().min(room)];
        bytes += taken.len();
        if take(taken).is_break() || chunk.len() > room {
            return Ok(Taken { bytes, cut: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_earns_time_by_what_has_come() {
        let grace = Duration::from_secs(5);
        let limits = Limits { max_bytes: 1 << 20, min_rate: 100, grace };
        let began = Instant::now();
        assert_eq!(limits.next_by(began, 0) - began, grace);
        assert_eq!(limits.next_by(began, 250) - began, grace + Duration::from_millis(2500));
    }
}
