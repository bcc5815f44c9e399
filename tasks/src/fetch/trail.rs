//! The way of a fetch from the address that was asked for to where its redirects end.

use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::FetchError;

/// What one request came to.
#[derive(Clone, Debug)]
pub(crate) enum Hop<T> {
    /// It is here.
    Arrived(T),
    /// It is elsewhere, at an address that may be asked.
    Moved { status: u16, to: Url },
}

/// Where a fetch is, and how much further it may go.
#[derive(Clone, Debug)]
pub(crate) struct Trail {
    url: Url,
    redirects: usize,
    max_redirects: usize,
    until: Instant,
    limit: Duration,
}

impl<T> Hop<T> {
    pub fn map<U>(self, arrived: impl FnOnce(T) -> U) -> Hop<U> {
        match self {
            Self::Arrived(what) => Hop::Arrived(arrived(what)),
            Self::Moved { status, to } => Hop::Moved { status, to },
        }
    }
}

impl Trail {
    pub(super) fn new(url: Url, limit: Duration, max_redirects: usize) -> Self {
        Self { url, redirects: 0, max_redirects, until: Instant::now() + limit, limit }
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Goes where a redirect leads, unless it has led about long enough.
    pub fn moved(&mut self, to: Url) -> Result<(), FetchError> {
        if self.redirects == self.max_redirects {
            return Err(FetchError::TooManyRedirects { limit: self.max_redirects });
        }
        self.redirects += 1;
        self.url = to;
        Ok(())
    }

    /// How long it may go on.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Does a part of it, as long as there is time.
    pub async fn in_time<T, E: From<FetchError>>(
        &self,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match tokio::time::timeout_at(self.until, part).await {
            Ok(done) => done,
            Err(_) => Err(FetchError::TimedOut { limit: self.limit }.into()),
        }
    }
}
