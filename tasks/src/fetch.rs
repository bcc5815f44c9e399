//! Fetches one page of the open web and reads its metadata while it arrives, never the whole page
//! in memory and never from an address that is not public.

mod body;
mod error;
mod guard;
#[cfg(test)]
mod hostile;
mod settings;
#[cfg(test)]
mod tests;
mod traced;
mod trail;

use std::{net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};

use chrono::Utc;
use encoding_rs::Encoding;
use reqwest::{
    Client, ClientBuilder, Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
    redirect,
};
use ring::digest::{Context as Digest, SHA256};
use url::{Host, Url};

pub(crate) use self::trail::{Hop, Trail};
use self::{
    body::Limits,
    guard::{LookupError, PublicOnly, Reach},
    traced::traced,
};
pub use self::{
    error::FetchError,
    guard::{AllowedPrivate, AllowedPrivateError, Lookup, Refusal, SystemLookup},
    settings::{FetchSettings, FetchSettingsError},
};
use crate::metadata::{MetadataReader, Page};

/// A worker meets a host a few times in a row, and thousands of hosts: keep little, and not for long.
const MAX_IDLE_PER_HOST: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Twice what the largest honest hosts send, per block over HTTP/2; over HTTP/1 the client itself
/// takes no more than 100 headers in 400 KB.
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// A name that takes longer is of a host that will too.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

const HTML: &str = "text/html,application/xhtml+xml";

/// Fetches pages. Cheap to clone; the clones share their connections.
#[derive(Clone, Debug)]
pub struct Fetcher {
    settings: Arc<FetchSettings>,
    /// Resolves names to public addresses only.
    public: Client,
    /// For hosts named by `allowed_private`. A client of its own, so that no connection it opens
    /// can serve a request that only `public` may make.
    private: Client,
    resolver: PublicOnly,
}

/// How much of a page is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// All of it, within the limits.
    #[default]
    Whole,
    /// Its head: the transfer ends where that does. No links, and nothing else that bodies say.
    Head,
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
    /// SHA-256 of these bytes, in hexadecimal: the same for the same page, whole or cut alike.
    pub content_hash: String,
    /// Whether there was more of the page than was read, because of `max_bytes`, because it
    /// needed too much memory, or because only its head was wanted.
    pub truncated: bool,
}

/// A file that was fetched: robots.txt or a sitemap.
#[derive(Clone, Debug)]
pub struct FetchedFile {
    /// Where it was in the end, after redirects.
    pub final_url: Url,
    /// How many bytes of it were read, decompressed from the transfer.
    pub bytes: usize,
    /// Whether there was more of it.
    pub truncated: bool,
}

impl Fetcher {
    /// Whether an address is of a host that may be fetched though it is not of the internet.
    pub fn is_own(&self, url: &Url) -> bool {
        let reach = guard::check(url, &self.settings.ports, &self.settings.allowed_private);
        matches!(reach, Ok(guard::Reach::Private))
    }

    /// Makes a fetcher, or says what is wrong with the settings.
    ///
    /// A rustls crypto provider must have been installed for the process; reqwest panics without.
    pub fn new(settings: FetchSettings) -> Result<Self, FetchSettingsError> {
        Self::with_lookup(settings, Arc::new(SystemLookup))
    }

    /// As [`new`](Self::new), with a resolver other than the system's.
    pub fn with_lookup(
        settings: FetchSettings,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, FetchSettingsError> {
        settings.check()?;
        let resolver = PublicOnly(lookup);
        let client = || {
            Client::builder()
                .user_agent(&settings.user_agent)
                // Every hop is checked before it is made, so redirects are followed by us.
                .redirect(redirect::Policy::none())
                // A proxy from the environment would resolve names itself, past the guard.
                .no_proxy()
                .http2_max_header_list_size(MAX_HEADER_BYTES)
                .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
                .pool_idle_timeout(IDLE_TIMEOUT)
        };
        let build = |builder: ClientBuilder| builder.build().map_err(FetchSettingsError::Client);
        let public = build(client().dns_resolver(resolver.clone()))?;
        // Where nothing private is allowed, there is no client that could reach it.
        let private =
            if settings.allowed_private.is_empty() { public.clone() } else { build(client())? };
        Ok(Self { public, private, resolver, settings: Arc::new(settings) })
    }

    /// The way to what `url` leads to, which ends within `limit`, or `timeout` where that is less.
    pub(crate) fn trail(&self, url: &Url, limit: Duration) -> Trail {
        Trail::new(url.clone(), limit.min(self.settings.timeout), self.settings.max_redirects)
    }

    /// Asks for the page that the trail is at, and reads what arrives as it arrives.
    ///
    /// Of its errors, those that [`FetchError::is_fatal`] will come again; the others may not.
    pub(crate) async fn read_page(
        &self,
        trail: &Trail,
        reading: Reading,
    ) -> Result<Hop<FetchedPage>, FetchError> {
        let url = trail.url();
        let hop = async {
            let response = match self.get(url, HTML).await? {
                Hop::Moved { status, to } => return Ok(Hop::Moved { status, to }),
                Hop::Arrived(response) => response,
            };
            let page = read_html(url.clone(), response, Limits::of(&self.settings), reading);
            page.await.map(Hop::Arrived)
        };
        traced(url, trail.in_time(hop), |page| (Some(page.status), page.bytes)).await
    }

    /// Asks for a file of at most `max_bytes` under the same rules, and hands it to `take` as it
    /// arrives, whatever its type.
    pub(crate) async fn read_file(
        &self,
        trail: &Trail,
        max_bytes: usize,
        take: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<Hop<FetchedFile>, FetchError> {
        let url = trail.url();
        let hop = async {
            let response = match self.get(url, "*/*").await? {
                Hop::Moved { status, to } => return Ok(Hop::Moved { status, to }),
                Hop::Arrived(response) => success(response)?,
            };
            let limits = Limits { max_bytes, ..Limits::of(&self.settings) };
            let taken = body::take(response, limits, take).await?;
            let (final_url, bytes) = (url.clone(), taken.bytes);
            Ok(Hop::Arrived(FetchedFile { final_url, bytes, truncated: taken.cut }))
        };
        traced(url, trail.in_time(hop), |file| (None, file.bytes)).await
    }

    /// Checks an address as a fetch would, without one: for what another network fetches for us.
    pub(crate) async fn check_target(&self, url: &Url) -> Result<(), FetchError> {
        let reach = guard::check(url, &self.settings.ports, &self.settings.allowed_private)?;
        let (Reach::Public, Some(Host::Domain(name))) = (reach, url.host()) else {
            return Ok(());
        };
        let looked_up = tokio::time::timeout(LOOKUP_TIMEOUT, self.resolver.addresses(name)).await;
        match looked_up {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(LookupError::Refused(refusal))) => Err(refusal.into()),
            Ok(Err(error)) => Err(FetchError::Unresolved(error.to_string())),
            Err(_) => Err(FetchError::TimedOut { limit: LOOKUP_TIMEOUT }),
        }
    }

    /// Reads a response that somebody else got for us, of the page at `url`.
    pub(crate) async fn read_for(
        &self,
        url: Url,
        response: Response,
        limit: Duration,
    ) -> Result<FetchedPage, FetchError> {
        guard::check(&url, &self.settings.ports, &self.settings.allowed_private)?;
        let reading = read_html(url, response, Limits::of(&self.settings), Reading::Whole);
        match tokio::time::timeout(limit, reading).await {
            Ok(page) => page,
            Err(_) => Err(FetchError::TimedOut { limit }),
        }
    }

    /// One request, which knows nothing of the one before it: no cookie, no referrer, no
    /// credentials. Where it says to go is an address that may be asked.
    async fn get(&self, url: &Url, accept: &'static str) -> Result<Hop<Response>, FetchError> {
        let check = |url| guard::check(url, &self.settings.ports, &self.settings.allowed_private);
        let reach = check(url)?;
        let client = match reach {
            Reach::Public => &self.public,
            Reach::Private => &self.private,
        };
        let request = client.get(url.clone()).header(ACCEPT, accept);
        let response = request.send().await.map_err(FetchError::from_send)?;
        // The resolver gave public addresses only, so this says nothing new unless somebody finds
        // a way around it.
        let astray = |peer: SocketAddr| reach == Reach::Public && !guard::is_public(peer.ip());
        if response.remote_addr().is_some_and(astray) {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(Refusal::NotPublic(host).into());
        }
        match redirect_target(&response, url)? {
            Some(to) => {
                // Before anybody waits for a turn there.
                check(&to)?;
                Ok(Hop::Moved { status: response.status().as_u16(), to })
            }
            None => Ok(Hop::Arrived(response)),
        }
    }
}

/// Reads an HTML response.
async fn read_html(
    url: Url,
    response: Response,
    limits: Limits,
    reading: Reading,
) -> Result<FetchedPage, FetchError> {
    let response = success(response)?;
    let status = response.status().as_u16();
    let charset = html_charset(response.headers())?;
    let mut reader = MetadataReader::new(&url, charset).reading(reading);
    let mut digest = Digest::new(&SHA256);
    let taken = body::take(response, limits, |bytes| {
        digest.update(bytes);
        reader.write(bytes)
    });
    let taken = taken.await?;
    let page = reader.end();
    Ok(FetchedPage {
        status,
        final_url: url,
        truncated: taken.cut || !page.complete,
        page,
        bytes: taken.bytes,
        content_hash: digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// The response, if its status says that it is what was asked for.
fn success(response: Response) -> Result<Response, FetchError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Err(FetchError::Status {
        status: status.as_u16(),
        retry_after: retry_after.and_then(|value| error::retry_after(value, Utc::now())),
    })
}

/// How long a `Retry-After` header asks to wait, from now on.
pub(crate) fn seconds_of(retry_after: &str) -> Option<Duration> {
    error::retry_after(retry_after, Utc::now())
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
