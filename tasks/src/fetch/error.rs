//! What can go wrong with a fetch, and whether trying again may help.

use std::{error::Error, time::Duration};

use chrono::{DateTime, Utc};

use super::guard::Refusal;

/// A host may ask for patience, but not park a task for longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest registered media types have some 80 characters; the header is the host's to fill.
const MAX_CONTENT_TYPE_BYTES: usize = 100;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address, or one that it redirects to, is not fetched. Fatal.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A redirect leads to what is no address. Fatal.
    #[error("the page redirects to something that is no address")]
    BadRedirect,
    /// The redirects go in circles or too far. Fatal.
    #[error("the page redirects more than {limit} times")]
    TooManyRedirects {
        /// `max_redirects`
        limit: usize,
    },
    /// The response is not HTML. Fatal.
    #[error("the response is `{content_type}`, not HTML")]
    NotHtml {
        /// Its media type, lower case; empty if it has none.
        content_type: String,
    },
    /// The host answers with an error. Fatal if it blames the request; it may work later with
    /// a status of 500 and above, 408, 425 and 429.
    #[error("the host answers with status {status}")]
    Status {
        /// The status, never 200 to 299.
        status: u16,
        /// How long the host asks us to wait, at most a day.
        retry_after: Option<Duration>,
    },
    /// The page was not read to its end in time. It may work later.
    #[error("the page took longer than {limit:?}")]
    TimedOut {
        /// `timeout`
        limit: Duration,
    },
    /// The body arrived more slowly than `min_rate`. It may work later.
    #[error("the page arrives at less than {min_rate} bytes a second")]
    TooSlow {
        /// `min_rate`
        min_rate: u32,
    },
    /// The host cannot be found or reached. It may work later.
    #[error("the host cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The name of the host leads nowhere. It may work later.
    #[error("the host cannot be found: {0}")]
    Unresolved(String),
    /// The response broke off or cannot be decompressed. It may work later.
    #[error("the response broke off")]
    Broken(#[source] reqwest::Error),
}

impl FetchError {
    /// Whether the same fetch would fail in the same way again.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Refused(_) | Self::BadRedirect | Self::TooManyRedirects { .. } => true,
            Self::NotHtml { .. } => true,
            Self::Status { status, .. } => *status < 500 && !matches!(status, 408 | 425 | 429),
            Self::TimedOut { .. } | Self::TooSlow { .. } => false,
            Self::Unreachable(_) | Self::Unresolved(_) | Self::Broken(_) => false,
        }
    }

    /// One word for what went wrong, for rows and counts.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::BadRedirect | Self::TooManyRedirects { .. } => "redirect",
            Self::NotHtml { .. } => "not-html",
            Self::Status { .. } => "status",
            Self::TimedOut { .. } => "timeout",
            Self::TooSlow { .. } => "slow",
            Self::Unreachable(_) | Self::Unresolved(_) => "unreachable",
            Self::Broken(_) => "broken",
        }
    }

    /// The status that the host answered with, where that is what went wrong.
    pub fn http_status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the host asks us to wait before the next try, at most a day.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } if !self.is_fatal() => *retry_after,
            _ => None,
        }
    }

    pub(super) fn not_html(content_type: &str) -> Self {
        let end = content_type.floor_char_boundary(MAX_CONTENT_TYPE_BYTES);
        Self::NotHtml { content_type: content_type[..end].to_owned() }
    }

    /// A request that got no response: refused by the resolver, or for another reason.
    pub(super) fn from_send(error: reqwest::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                return Self::Refused(refusal.clone());
            }
            source = cause.source();
        }
        // The address may carry a secret in its query.
        Self::Unreachable(error.without_url())
    }

    pub(super) fn broken(error: reqwest::Error) -> Self {
        Self::Broken(error.without_url())
    }
}

/// Reads a `Retry-After` header: seconds, or a date, which may be past.
pub(super) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let wait = if value.bytes().all(|b| b.is_ascii_digit()) {
        Duration::from_secs(value.parse().ok()?)
    } else {
        let at = DateTime::parse_from_rfc2822(value).ok()?;
        (at.to_utc() - now).to_std().unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> FetchError {
        FetchError::Status { status, retry_after: Some(Duration::from_secs(1)) }
    }

    #[test]
    fn a_status_that_blames_the_request_is_fatal_and_one_that_may_pass_is_not() {
        for fatal in [301, 304, 400, 401, 403, 404, 410, 451] {
            assert!(status(fatal).is_fatal(), "{fatal}");
            assert_eq!(status(fatal).retry_after(), None);
        }
        for passing in [408, 425, 429, 500, 502, 503, 504, 522] {
            assert!(!status(passing).is_fatal(), "{passing}");
            assert_eq!(status(passing).retry_after(), Some(Duration::from_secs(1)));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_more_than_a_day() {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("99999999"), Some(86_400));
        assert_eq!(seconds("Sun, 01 Mar 2026 12:01:30 GMT"), Some(90));
        assert_eq!(seconds("Sun, 01 Mar 2026 11:00:00 GMT"), Some(0));
        assert_eq!(seconds("Tue, 01 Mar 2067 11:00:00 GMT"), Some(86_400));
        for nonsense in ["", "-1", "1.5", "soon", "99999999999999999999999"] {
            assert_eq!(seconds(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_long_media_type_is_cut() {
        let FetchError::NotHtml { content_type } = FetchError::not_html(&"x".repeat(9000)) else {
            unreachable!()
        };
        assert_eq!(content_type.len(), 100);
    }
}
