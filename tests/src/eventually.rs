//! Waits for facts instead of sleeping.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a fact may take on a busy machine before a test fails.
pub const LONGEST: Duration = Duration::from_secs(30);

/// How long a fact must stand that nothing should change: twice what changes here take.
const A_WHILE: Duration = Duration::from_secs(2);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`; panics with what was waited for after [`LONGEST`].
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(LONGEST, what, ask).await
}

/// Like [`eventually`], with a limit of one's own.
pub async fn within<T>(
    longest: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + longest;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {longest:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Asks until the answer is `expected`; panics with the last answer after [`LONGEST`].
pub async fn eventually_eq<T: PartialEq + Debug>(
    what: &str,
    expected: T,
    mut ask: impl AsyncFnMut() -> T,
) {
    let deadline = Instant::now() + LONGEST;
    loop {
        let answer = ask().await;
        if answer == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not within {LONGEST:?}: {what}: expected {expected:?}, last was {answer:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The answer is `expected` for a while, at each look.
pub async fn stays<T: PartialEq + Debug>(expected: T, mut ask: impl AsyncFnMut() -> T) {
    let until = Instant::now() + A_WHILE;
    while Instant::now() < until {
        assert_eq!(ask().await, expected);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
