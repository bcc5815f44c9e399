//! Why a page was not read, or a site not planned: what its row says, and whether its task is tried
//! again.

use std::{error::Error, time::Duration};

use chrono::{DateTime, Utc};
use umbel::{BrokerError, Context, End, StoreError, TaskError};

use crate::{App, enqueue::EnqueueError, fetch::FetchError, pages::Trouble, scraperapi::Refused};

/// A host that asks for patience is given this much of it; then it has failed like any other, or
/// its page would keep the next run of its site waiting for ever.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Sooner than this nobody means, and much later the page is better tried than believed.
pub(crate) const SNOOZE_SHORTEST: Duration = Duration::from_secs(1);
const SNOOZE_LONGEST: Duration = Duration::from_secs(15 * 60);

/// Why a page was not read, or a site not planned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It may be there and forbid the site, which is not visited before that is known.
    #[error("robots.txt cannot be read")]
    Robots(#[source] FetchError),
    #[error(transparent)]
    Source(Refused),
    /// The host is visited by others, the source of the site is stopped, or its budget is spent.
    /// Costs no attempt.
    #[error("{why}")]
    Later { wait: Duration, why: String },
    /// No day's budget is ever enough for it: waiting would not help.
    #[error(
        "a page costs {cost} credits of scraperapi as the site wants it, and \
         SCRAPERAPI_DAILY_CREDITS is {budget}"
    )]
    Budget { cost: u32, budget: u32 },
    /// The site is to be fetched by a service that nobody has set up.
    #[error("the site is fetched by scraperapi, and SCRAPERAPI_KEY is not set")]
    NoKey,
    #[error("what was read cannot be stored")]
    Store(#[from] StoreError),
    #[error("the pages it leads to cannot be enqueued")]
    Broker(#[from] BrokerError),
    /// The row is gone, belongs to a later run, or has another address.
    #[error("there is no such {0} in that run")]
    Superseded(&'static str),
}

impl From<EnqueueError> for ScrapeError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Store(error) => Self::Store(error),
            EnqueueError::Broker(error) => Self::Broker(error),
        }
    }
}

/// What follows from an error.
pub(crate) struct Judged {
    /// What the task answers.
    pub verdict: TaskError,
    /// The error with its sources, as the row has it until the next attempt.
    told: String,
    class: &'static str,
    http_status: Option<u16>,
}

impl Judged {
    /// For the row.
    pub fn trouble(&self) -> Trouble<'_> {
        Trouble { error: &self.told, error_class: Some(self.class), error_status: self.http_status }
    }
}

impl ScrapeError {
    /// What follows for the task of this run.
    pub fn judge(self, ctx: &Context<App>) -> Judged {
        let (told, class) = (chain(&self), self.class());
        let http_status = self.fetch().and_then(FetchError::http_status);
        Judged { verdict: self.verdict(Utc::now(), ctx.run().enqueued), told, class, http_status }
    }

    fn fetch(&self) -> Option<&FetchError> {
        match self {
            Self::Fetch(error) | Self::Robots(error) => Some(error),
            _ => None,
        }
    }

    /// How long its host is to be left alone that says it is asked too much: `Some(None)` where it
    /// does not say how long.
    pub fn wants_a_pause(&self) -> Option<Option<Duration>> {
        let error = self.fetch()?;
        match (error.http_status()?, error.retry_after()) {
            (429, wait) => Some(wait),
            (503, Some(wait)) => Some(Some(wait)),
            // It has trouble of its own.
            _ => None,
        }
    }

    /// One word for what went wrong, for the row.
    fn class(&self) -> &'static str {
        match self {
            Self::Fetch(error) | Self::Robots(error) => error.class(),
            Self::Source(refused) => refused.class(),
            Self::Later { .. } => "deferred",
            Self::Budget { .. } => "source-budget",
            Self::NoKey => "source-key",
            Self::Store(_) => "store",
            Self::Broker(_) => "broker",
            Self::Superseded(_) => "superseded",
        }
    }

    fn verdict(self, now: DateTime<Utc>, enqueued: DateTime<Utc>) -> TaskError {
        let is_patient = (now - enqueued).to_std().unwrap_or_default() < PATIENCE;
        match self.fetch().and_then(FetchError::retry_after) {
            Some(wait) if is_patient => {
                return TaskError::snooze(wait.clamp(SNOOZE_SHORTEST, SNOOZE_LONGEST));
            }
            _ => {}
        }
        match self {
            Self::Superseded(_) | Self::NoKey | Self::Budget { .. } => TaskError::fatal(self),
            Self::Source(Refused::Request) => TaskError::fatal(self),
            Self::Later { wait, why } => TaskError::snooze_for(wait, why),
            Self::Fetch(error) if error.is_fatal() => TaskError::fatal(error),
            Self::Fetch(error) => error.into(),
            Self::Robots(_) | Self::Source(_) | Self::Store(_) | Self::Broker(_) => self.into(),
        }
    }
}

/// What a row says of a task that ended other than by success: an error, and one word for it where
/// the last attempt has noted none.
pub(crate) fn told_of_end(end: &End) -> (String, Option<&'static str>) {
    match end {
        // What kind of error it was the last attempt has noted, if it came to that.
        End::Failed { why: "fatal" | "attempts", error } => (error.clone(), None),
        End::Failed { why, error } => (error.clone(), Some(*why)),
        End::Cancelled { by } => (format!("cancelled by {by}"), Some("cancelled")),
        End::Expired => ("its start came too late".to_owned(), Some("expired")),
        other => (format!("{other:?}"), None),
    }
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told = format!("{told}: {error}");
        source = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> FetchError {
        let retry_after = retry_after.map(Duration::from_secs);
        FetchError::Status { status, retry_after }
    }

    fn verdict(error: ScrapeError, age: TimeDelta) -> TaskError {
        let enqueued = DateTime::UNIX_EPOCH;
        error.verdict(enqueued + age, enqueued)
    }

    #[test]
    fn a_page_that_is_not_there_is_given_up_and_one_in_trouble_is_tried_again() {
        let now = TimeDelta::zero();
        assert!(matches!(verdict(status(404, Some(9)).into(), now), TaskError::Fatal(_)));
        assert!(matches!(verdict(ScrapeError::Superseded("page"), now), TaskError::Fatal(_)));
        assert!(matches!(verdict(status(500, None).into(), now), TaskError::Retry(_)));
        let robots = ScrapeError::Robots(status(500, None));
        assert!(matches!(verdict(robots, now), TaskError::Retry(_)));
        let timed_out = FetchError::TimedOut { limit: Duration::from_secs(1) };
        assert!(matches!(verdict(timed_out.into(), now), TaskError::Retry(_)));
        let full = ScrapeError::Broker(BrokerError::Refused("OOM".to_owned()));
        assert!(matches!(verdict(full, now), TaskError::Retry(_)));
    }

    #[test]
    fn a_host_that_asks_for_patience_has_it_within_limits() {
        for (asked, waited) in [(0, 1), (90, 90), (86_400, 900)] {
            for error in [ScrapeError::Fetch, ScrapeError::Robots] {
                let error = error(status(429, Some(asked)));
                let TaskError::Snooze(wait) = verdict(error, TimeDelta::zero()) else {
                    panic!("{asked} s must be waited for");
                };
                assert_eq!(wait.as_secs(), waited);
            }
        }
        let busy = status(503, Some(9)).into();
        assert!(matches!(verdict(busy, TimeDelta::hours(1)), TaskError::Retry(_)));
    }

    #[test]
    fn a_host_is_left_alone_that_is_asked_too_much_and_not_one_in_trouble_of_its_own() {
        let wait = |code, retry_after| {
            let of = |error: fn(FetchError) -> ScrapeError| {
                error(status(code, retry_after)).wants_a_pause()
            };
            assert_eq!(of(ScrapeError::Fetch), of(ScrapeError::Robots));
            of(ScrapeError::Fetch)
        };
        assert_eq!(wait(429, None), Some(None));
        assert_eq!(wait(429, Some(2)), Some(Some(Duration::from_secs(2))));
        assert_eq!(wait(503, Some(2)), Some(Some(Duration::from_secs(2))));
        assert_eq!((wait(503, None), wait(500, Some(2))), (None, None));
        assert_eq!(ScrapeError::NoKey.wants_a_pause(), None);
    }

    #[test]
    fn a_row_tells_an_error_with_its_sources() {
        let error = ScrapeError::Broker(BrokerError::Refused("OOM".to_owned()));
        assert_eq!(
            chain(&error),
            "the pages it leads to cannot be enqueued: redis refuses for now: OOM"
        );
        let error = ScrapeError::Robots(status(500, None));
        assert_eq!(chain(&error), "robots.txt cannot be read: the host answers with status 500");
    }
}
