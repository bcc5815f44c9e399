//! Whom the kernel ends first where memory runs out: the worker, whose tasks run again, and not the
//! API.

use std::{fs, io};

use tracing::warn;

const ADJUSTMENT: &str = "/proc/self/oom_score_adj";

/// As if half of the memory that there is were used: more than any other role or service here really
/// uses. Raising it needs no rights.
const RAISE: i32 = 500;
const HIGHEST: i32 = 1_000;

/// Has the kernel end this process before its siblings.
pub(crate) fn go_first() {
    let raise = || -> io::Result<()> {
        let now = fs::read_to_string(ADJUSTMENT)?;
        // What a platform has given to the whole container stays in it.
        let now: i32 = now.trim().parse().map_err(io::Error::other)?;
        fs::write(ADJUSTMENT, raised(now).to_string())
    };
    if let Err(error) = raise() {
        warn!(%error, "should memory run out, the kernel may end the API and not this worker");
    }
}

fn raised(now: i32) -> i32 {
    (now + RAISE).min(HIGHEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_has_set_is_kept() {
        assert_eq!([-997, 0, 968, 1_000].map(raised), [-497, 500, 1_000, 1_000]);
    }
}
