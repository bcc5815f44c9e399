//! What becomes of a task after a run: one pure table.

use std::time::Duration;

use umbel_broker::{Verdict, Why};
use umbel_proto::{Outcome, RetryPolicy, TaskState};

/// What the table must know of a task.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// The attempt that this run was.
    pub attempt: u32,
    pub max_attempts: u32,
    /// How much longer it may be parked.
    pub park_left: Duration,
}

/// Decides; `jitter` is drawn by the caller from `0.0 ..= 1.0`.
pub fn decide(outcome: Outcome, history: History, policy: &RetryPolicy, jitter: f64) -> Verdict {
    let again = |error: String| {
        if history.attempt < history.max_attempts {
            Verdict::Retry { delay: policy.delay(history.attempt, jitter), error }
        } else {
            Verdict::Bury { why: Why::Attempts, error }
        }
    };
    match outcome {
        Outcome::Succeeded { output } => Verdict::Complete { output },
        Outcome::Failed { error } => again(error),
        Outcome::Panicked { message } => again(format!("panicked: {message}")),
        Outcome::TimedOut { limit } => again(format!("ran longer than its limit of {limit:?}")),
        Outcome::Fatal { error } => Verdict::Bury { why: Why::Fatal, error },
        Outcome::Undecodable { error } => Verdict::Bury { why: Why::Args, error },
        Outcome::Unreadable { error } => Verdict::Bury { why: Why::Unreadable, error },
        Outcome::Snoozed { delay, reason } => {
            Verdict::Defer { delay, reason: reason.unwrap_or_else(|| "snoozed".to_owned()) }
        }
        Outcome::Unknown { what } if !history.park_left.is_zero() => {
            Verdict::Park { left: history.park_left, reason: what }
        }
        Outcome::Unknown { what } => Verdict::Bury { why: Why::Unknown, error: what },
        Outcome::CrashLimit { crashes } => Verdict::Bury {
            why: Why::Crash,
            error: format!("{crashes} workers died while they held this task"),
        },
        Outcome::Drained => Verdict::Release,
        Outcome::Cancelled { by } => Verdict::Discard { state: TaskState::Cancelled, by },
        Outcome::Expired => {
            Verdict::Discard { state: TaskState::Expired, by: "its start came too late".to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(outcome: Outcome, attempt: u32, park_left: Duration) -> Verdict {
        let policy = RetryPolicy::exponential(Duration::from_secs(1), Duration::from_secs(60));
        decide(outcome, History { attempt, max_attempts: 3, park_left }, &policy, 1.0)
    }

    fn failures() -> [Outcome; 3] {
        [
            Outcome::Failed { error: "e".into() },
            Outcome::Panicked { message: "e".into() },
            Outcome::TimedOut { limit: Duration::from_secs(1) },
        ]
    }

    #[test]
    fn a_failure_is_tried_again_until_the_attempts_are_spent() {
        for outcome in failures() {
            let Verdict::Retry { delay, .. } = on(outcome.clone(), 2, Duration::ZERO) else {
                panic!("{outcome:?} must be tried again");
            };
            assert_eq!(delay, Duration::from_secs(2));
            let last = on(outcome.clone(), 3, Duration::ZERO);
            assert!(matches!(last, Verdict::Bury { why: Why::Attempts, .. }), "{outcome:?}");
        }
    }

    #[test]
    fn what_no_attempt_can_mend_is_buried_at_once() {
        for (outcome, expected) in [
            (Outcome::Fatal { error: "e".into() }, Why::Fatal),
            (Outcome::Undecodable { error: "e".into() }, Why::Args),
            (Outcome::Unreadable { error: "e".into() }, Why::Unreadable),
            (Outcome::CrashLimit { crashes: 3 }, Why::Crash),
        ] {
            let Verdict::Bury { why, .. } = on(outcome, 1, Duration::ZERO) else {
                panic!("{expected:?} must be buried");
            };
            assert_eq!(why, expected);
        }
    }

    #[test]
    fn waiting_is_no_failure_and_burns_no_attempt() {
        let delay = Duration::from_secs(9);
        assert_eq!(
            on(Outcome::Snoozed { delay, reason: None }, 3, Duration::ZERO),
            Verdict::Defer { delay, reason: "snoozed".into() }
        );
        let reason = Some("the shop is closed".to_owned());
        assert_eq!(
            on(Outcome::Snoozed { delay, reason }, 3, Duration::ZERO),
            Verdict::Defer { delay, reason: "the shop is closed".into() }
        );
        assert_eq!(on(Outcome::Drained, 3, Duration::ZERO), Verdict::Release);
    }

    #[test]
    fn an_unknown_name_waits_for_a_worker_that_knows_it_and_not_for_ever() {
        let unknown = || Outcome::Unknown { what: "no handler".into() };
        let left = Duration::from_secs(60);
        assert_eq!(on(unknown(), 3, left), Verdict::Park { left, reason: "no handler".into() });
        let late = on(unknown(), 1, Duration::ZERO);
        assert!(matches!(late, Verdict::Bury { why: Why::Unknown, .. }));
    }

    #[test]
    fn success_cancel_and_expiry_end_with_their_state() {
        assert_eq!(
            on(Outcome::Succeeded { output: vec![1] }, 1, Duration::ZERO),
            Verdict::Complete { output: vec![1] }
        );
        for (outcome, expected) in [
            (Outcome::Cancelled { by: "me".into() }, TaskState::Cancelled),
            (Outcome::Expired, TaskState::Expired),
        ] {
            let Verdict::Discard { state, .. } = on(outcome, 1, Duration::ZERO) else {
                panic!("{expected} must be discarded");
            };
            assert_eq!(state, expected);
        }
    }
}
