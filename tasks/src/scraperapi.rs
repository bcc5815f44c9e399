//! ScraperAPI: a service that fetches pages from its own network, for sites that want a browser,
//! an address in another country, or no visits from ours.
//!
//! What it answers is told apart by what can be done about it ([`Refused`]); what it costs is in
//! the [ledger](crate::ledger). Its key travels in the query of each request, as its interface
//! wants it: no address of a request is ever shown, logged or kept.

mod settings;

use std::time::Duration;

use reqwest::{Client, Response, header::RETRY_AFTER, redirect};
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use umbel::telemetry::{self, Fetch};
use url::Url;
use utoipa::ToSchema;

pub use self::settings::ScraperApiSettings;
use crate::fetch::{FetchError, FetchSettingsError, FetchedPage, Fetcher, seconds_of};

/// The service itself tries for up to 70 s before it gives up; who goes earlier pays for an answer
/// that nobody reads.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(72);

/// How a site is fetched. Without options of its own: from here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// By us.
    #[default]
    Direct,
    /// By ScraperAPI, which SCRAPERAPI_KEY must be set for.
    ScraperApi(ScraperApiOptions),
}

/// What ScraperAPI is asked to do for a site. Each of them may cost more credits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScraperApiOptions {
    /// Runs the scripts of the page in a browser. Default no.
    pub render: bool,
    /// Uses addresses of homes and telephones. Default no.
    pub premium: bool,
    /// The country to be in, as two letters. Default any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_code: Option<String>,
    /// Pages with the same number come from the same address while that lasts. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_number: Option<u32>,
}

impl ScraperApiOptions {
    /// Says which option cannot be, if one cannot.
    pub fn check(&self) -> Result<(), &'static str> {
        match &self.country_code {
            Some(code) if code.len() != 2 || !code.bytes().all(|b| b.is_ascii_lowercase()) => {
                Err("country_code must be two small letters, such as `us`")
            }
            _ => Ok(()),
        }
    }

    /// What one page costs in credits, as far as that is known before; some hosts cost more.
    pub fn estimate(&self) -> u32 {
        match (self.render, self.premium) {
            (false, false) => 1,
            (true, true) => 25,
            _ => 10,
        }
    }
}

/// Fetches through the service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ScraperApi {
    settings: ScraperApiSettings,
    client: Client,
}

/// Why the service gave no page.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The page itself is at fault, or the way to the service.
    #[error(transparent)]
    Page(#[from] FetchError),
    /// Too many requests at once (429): the service wants a pause.
    #[error("scraperapi asks for a pause")]
    Pause {
        /// As long as it says, where it does.
        wait: Option<Duration>,
    },
    /// All credits are used up (403): no request will be answered until there are new ones.
    #[error("scraperapi is out of credits")]
    OutOfCredits,
    /// The key is wrong (401).
    #[error("scraperapi refuses the key: SCRAPERAPI_KEY must be right")]
    Key,
    /// The service tried for 70 s and got no page (500 and above). It costs nothing, and may work
    /// later.
    #[error("scraperapi could not get the page (status {status})")]
    Failed {
        /// The status.
        status: u16,
    },
    /// The request is wrong (400). Fatal.
    #[error("scraperapi takes the request for wrong")]
    Request,
}

impl Refused {
    /// One word for what went wrong.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Page(error) => error.class(),
            Self::Pause { .. } => "source-busy",
            Self::OutOfCredits => "source-credits",
            Self::Key => "source-key",
            Self::Failed { .. } => "source-failed",
            Self::Request => "source-request",
        }
    }
}

/// What a request came to, and what it cost in credits: nothing where it was answered otherwise than
/// with the page, or with that there is none; and as much as a page where it was sent and no answer
/// came, for the service may have got the page and counts it then.
#[derive(Debug)]
pub struct Answer {
    pub result: Result<FetchedPage, Refused>,
    pub cost: u32,
}

impl ScraperApi {
    /// The service, if there is a key for it.
    pub fn new(settings: ScraperApiSettings) -> Result<Option<Self>, FetchSettingsError> {
        if settings.key.is_none() {
            return Ok(None);
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            // The libraries below write no request line of HTTP/1 into any trace.
            .http1_only()
            .timeout(TIMEOUT)
            .build()
            .map_err(FetchSettingsError::Client)?;
        Ok(Some(Self { settings, client }))
    }

    /// Has the page at `url` fetched, which must be one that we would fetch too, and reads it.
    pub async fn read_page(
        &self,
        fetcher: &Fetcher,
        url: &Url,
        options: &ScraperApiOptions,
    ) -> Answer {
        let service = self.settings.url.host_str().unwrap_or_default();
        telemetry::fetch(service, async {
            let answer = self.read_within(fetcher, url, options).await;
            let fetch = match &answer.result {
                Ok(page) => {
                    Fetch { status: Some(page.status), bytes: page.bytes as u64, failed: None }
                }
                Err(refused) => Fetch { failed: Some(refused.class()), ..Fetch::default() },
            };
            (answer, fetch)
        })
        .await
    }

    async fn read_within(
        &self,
        fetcher: &Fetcher,
        url: &Url,
        options: &ScraperApiOptions,
    ) -> Answer {
        let nothing = |error: FetchError| Answer { result: Err(error.into()), cost: 0 };
        if let Err(error) = fetcher.check_target(url).await {
            return nothing(error);
        }
        let response = match self.client.get(self.request(url, options)).send().await {
            Ok(response) => response,
            Err(error) => {
                let cost = if error.is_connect() { 0 } else { options.estimate() };
                let error = match error.is_timeout() {
                    true => FetchError::TimedOut { limit: TIMEOUT },
                    false => FetchError::Unreachable(error.without_url()),
                };
                return Answer { result: Err(error.into()), cost };
            }
        };
        let status = response.status().as_u16();
        let charged = matches!(status, 200..=299 | 404);
        let said = header(&response, "sa-credit-cost").and_then(|cost| cost.parse().ok());
        let cost = if charged { said.unwrap_or(options.estimate()) } else { 0 };
        Answer { result: read(fetcher, url, response).await, cost }
    }

    fn request(&self, url: &Url, options: &ScraperApiOptions) -> Url {
        let mut request = self.settings.url.clone();
        let mut query = request.query_pairs_mut();
        if let Some(key) = &self.settings.key {
            query.append_pair("api_key", key.expose_secret());
        }
        query.append_pair("url", url.as_str());
        if options.render {
            query.append_pair("render", "true");
        }
        if options.premium {
            query.append_pair("premium", "true");
        }
        if let Some(country) = &options.country_code {
            query.append_pair("country_code", country);
        }
        if let Some(number) = options.session_number {
            query.append_pair("session_number", &number.to_string());
        }
        drop(query);
        request
    }

    /// How many credits may be spent in one day (UTC), if there is a limit.
    pub fn daily_credits(&self) -> Option<u32> {
        self.settings.daily_credits
    }
}

async fn read(fetcher: &Fetcher, url: &Url, response: Response) -> Result<FetchedPage, Refused> {
    match response.status().as_u16() {
        200..=299 => {
            // Where the page was in the end. Its own network was asked, not ours, but what its
            // links mean depends on it.
            let said = header(&response, "sa-final-url").and_then(|url| url.parse::<Url>().ok());
            let final_url = said.unwrap_or_else(|| url.clone());
            Ok(fetcher.read_for(final_url, response, TIMEOUT).await?)
        }
        400 => Err(Refused::Request),
        401 => Err(Refused::Key),
        403 => Err(Refused::OutOfCredits),
        429 => {
            let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            Err(Refused::Pause { wait: wait.and_then(seconds_of) })
        }
        status @ (404 | 410) => Err(FetchError::Status { status, retry_after: None }.into()),
        status => Err(Refused::Failed { status }),
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}
