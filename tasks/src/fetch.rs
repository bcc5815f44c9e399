//! Fetches one page of the open web and reads its metadata while it arrives, never the whole page
//! in memory and never from an address that is not public.

mod error;
mod guard;
mod settings;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use encoding_rs::Encoding;
use reqwest::{
    Client, ClientBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
    redirect,
};
use url::Url;

use self::guard::{PublicOnly, Reach};
pub use self::{
    error::FetchError,
    guard::{AllowedPrivate, AllowedPrivateError, Refusal},
    settings::{FetchSettings, FetchSettingsError},
};
use crate::metadata::{MetadataReader, Page};

/// A worker meets a host a few times in a row, and thousands of hosts: keep little, and not for long.
const MAX_IDLE_PER_HOST: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Fetches pages. Cheap to clone; the clones share their connections.
#[derive(Clone, Debug)]
pub struct Fetcher {
    settings: Arc<FetchSettings>,
    /// Resolves names to public addresses only.
    public: Client,
    /// For hosts named by `allowed_private`. A client of its own, so that no connection it opens
    /// can serve a request that only `public` may make.
    private: Client,
}

/// A page that was fetched and read.
#[derive(Clone, Debug)]
pub struct FetchedPage {
    /// The status of the last response, 200 to 299.
    pub status: u16,
    /// The address of the page, after redirects.
    pub final_url: Url,
    /// What it says about itself.
    pub page: Page,
    /// How many bytes of it were read, decompressed.
    pub bytes: usize,
    /// Whether there was more of the page than was read, because of `max_bytes` or because it
    /// needed too much memory.
    pub truncated: bool,
}

impl Fetcher {
    /// Makes a fetcher, or says what is wrong with the settings.
    ///
    /// A rustls crypto provider must have been installed for the process; reqwest panics without.
    pub fn new(settings: FetchSettings) -> Result<Self, FetchSettingsError> {
        settings.check()?;
        let client = || {
            Client::builder()
                .user_agent(&settings.user_agent)
                // Every hop is checked before it is made, so redirects are followed by us.
                .redirect(redirect::Policy::none())
                // A proxy from the environment would resolve names itself, past the guard.
                .no_proxy()
                .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
                .pool_idle_timeout(IDLE_TIMEOUT)
        };
        let build = |builder: ClientBuilder| builder.build().map_err(FetchSettingsError::Client);
        let public = build(client().dns_resolver(PublicOnly))?;
        // Where nothing private is allowed, there is no client that could reach it.
        let private =
            if settings.allowed_private.is_empty() { public.clone() } else { build(client())? };
        Ok(Self { public, private, settings: Arc::new(settings) })
    }

    /// Fetches the page at `url`, follows redirects and reads what arrives as it arrives.
    ///
    /// It ends within `timeout`, redirects included. Of its errors, those that
    /// [`FetchError::is_fatal`] will come again; the others may not.
    pub async fn read_page(&self, url: &Url) -> Result<FetchedPage, FetchError> {
        let limit = self.settings.timeout;
        match tokio::time::timeout(limit, self.follow(url.clone())).await {
            Ok(fetched) => fetched,
            Err(_) => Err(FetchError::TimedOut { limit }),
        }
    }

    async fn follow(&self, mut url: Url) -> Result<FetchedPage, FetchError> {
        for _ in 0..=self.settings.max_redirects {
            let response = self.get(&url).await?;
            match redirect_target(&response, &url)? {
                Some(target) => url = target,
                None => return self.read(url, response).await,
            }
        }
        Err(FetchError::TooManyRedirects { limit: self.settings.max_redirects })
    }

    async fn get(&self, url: &Url) -> Result<Response, FetchError> {
        let client = match guard::check(url, &self.settings.allowed_private)? {
            Reach::Public => &self.public,
            Reach::Private => &self.private,
        };
        client
            .get(url.clone())
            .header(ACCEPT, "text/html,application/xhtml+xml")
            .send()
            .await
            .map_err(FetchError::from_send)
    }

    async fn read(&self, url: Url, mut response: Response) -> Result<FetchedPage, FetchError> {
        let status = response.status();
        if !status.is_success() {
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
            return Err(FetchError::Status {
                status: status.as_u16(),
                retry_after: retry_after.and_then(|value| error::retry_after(value, Utc::now())),
            });
        }
        let mut reader = MetadataReader::new(&url, html_charset(response.headers())?);
        let (mut bytes, mut truncated) = (0, false);
        while let Some(chunk) = response.chunk().await.map_err(FetchError::broken)? {
            let room = self.settings.max_bytes - bytes;
            let taken = &chunk[..chunk.len().min(room)];
            bytes += taken.len();
            truncated = chunk.len() > room;
            if reader.write(taken).is_break() || truncated {
                break;
            }
        }
        let page = reader.end();
        Ok(FetchedPage {
            status: status.as_u16(),
            final_url: url,
            truncated: truncated || !page.complete,
            page,
            bytes,
        })
    }
}

/// Where the response sends us, if it does.
fn redirect_target(response: &Response, url: &Url) -> Result<Option<Url>, FetchError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else {
        return Ok(None);
    };
    let target = std::str::from_utf8(location.as_bytes()).ok().and_then(|to| url.join(to).ok());
    target.map(Some).ok_or(FetchError::BadRedirect)
}

/// The charset of an HTML response, if its `Content-Type` names one that exists.
fn html_charset(headers: &HeaderMap) -> Result<Option<&'static Encoding>, FetchError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(kind.as_str(), "text/html" | "application/xhtml+xml") {
        return Err(FetchError::not_html(&kind));
    }
    let charset = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    Ok(charset.and_then(|(_, label)| {
        Encoding::for_label_no_replacement(label.trim().trim_matches(['"', '\'']).as_bytes())
    }))
}
