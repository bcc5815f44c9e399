//! The endpoints of the scraper: enter a site, see the sites, see their pages. Each asks for a scope,
//! and everybody sees what is their own.

use std::error::Error;

use axum::{
    Extension, Json,
    extract::{Query, State},
    http::StatusCode,
    response::IntoResponse,
};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use umbel::{Claims, FieldError, JsonBody, Problem, StoreError};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    App, SweepSites, address,
    app::EVERY_S,
    ledger::SourceStatus,
    listing::{Page, PageFilter, Site, SiteFilter},
    scraperapi::Source,
    sites::SiteOptions,
    tables::Status,
};

/// Deeper is no site but a trap: calendars and filters have pages without end.
const MAX_DEPTH: u32 = 20;

/// One run of a site this large takes an hour or so; more is a crawl, which wants other tools.
const MAX_PAGES: u32 = 10_000;

/// How many rows an answer has at most, and unless it is told.
const LIMIT: u32 = 500;
const DEFAULT_LIMIT: u32 = 100;

/// The endpoints, for the framework to serve under `/v1` behind its door.
pub fn routes(app: App) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_site, list_sites))
        .routes(routes!(list_pages))
        .routes(routes!(list_sources))
        .with_state(app)
}

/// A site to scrape.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSite {
    /// Where it begins: http or https.
    #[schema(example = "https://example.com/")]
    url: Url,
    /// How many links away from there others are followed: 0 to 20, default 3.
    max_depth: Option<u32>,
    /// How many pages are scraped in one run: 1 to 10 000, default 100.
    max_pages: Option<u32>,
    /// How often it is due, in seconds: 60 to 2 592 000, 30 days.
    every_s: Option<u32>,
    /// How it is fetched: `"direct"`, the default, or `{"scraperapi": {"render": true}}`.
    source: Option<Source>,
}

/// The sources that cost something, by name.
#[derive(Debug, Serialize, ToSchema)]
struct SourceList {
    sources: Vec<SourceStatus>,
}

/// The sites, by id.
#[derive(Debug, Serialize, ToSchema)]
struct SiteList {
    sites: Vec<Site>,
}

/// Pages, by id.
#[derive(Debug, Serialize, ToSchema)]
struct PageList {
    pages: Vec<Page>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SitesQuery {
    /// How many at most: 1 to 500, default 100.
    limit: Option<u32>,
    /// Only those with a greater id: that of the last one seen.
    after: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PagesQuery {
    /// Only those of this site.
    site_id: Option<i64>,
    /// Only those in this state.
    status: Option<Status>,
    /// How many at most: 1 to 500, default 100.
    limit: Option<u32>,
    /// Only those with a greater id: that of the last one seen.
    after: Option<i64>,
}

/// Have a site scraped
///
/// It is due at once and then again every so often. A site that the caller has entered already takes
/// the options that are given, keeps the others, and is due at once too.
#[utoipa::path(
    post,
    path = "/sites",
    tag = "scraper",
    security(("bearer" = ["sites:write"])),
    request_body = NewSite,
    responses(
        (status = 201, description = "It is new.", body = Site),
        (status = 200, description = "It was known.", body = Site),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_site(
    State(app): State<App>,
    Extension(claims): Extension<Claims>,
    JsonBody(new): JsonBody<NewSite>,
) -> Result<impl IntoResponse, Problem> {
    let options = options(new, &claims.sub)?;
    let put = app.sites.put(&options, app.settings.site_every_s).await.map_err(store_problem)?;
    // Now rather than at the next sweep. Where it cannot be, the next sweep finds the site due.
    if let Err(error) = app.client.enqueue(SweepSites {}).owner(&claims.sub).await {
        warn!(%error, site = put.id, "could not ask for a sweep; the site waits for the next one");
    }
    let site = app.sites.get(put.id).await.map_err(store_problem)?;
    let site = site.ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT).detail("the site was deleted in the meantime")
    })?;
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(site)))
}

/// The sites, and how many of their pages are in which state
#[utoipa::path(
    get,
    path = "/sites",
    tag = "scraper",
    security(("bearer" = ["sites:read"])),
    params(SitesQuery),
    responses(
        (status = 200, body = SiteList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list_sites(
    State(app): State<App>,
    Extension(claims): Extension<Claims>,
    Query(query): Query<SitesQuery>,
) -> Result<Json<SiteList>, Problem> {
    let (after, limit) = (query.after.unwrap_or(0), limit(query.limit)?);
    let filter = SiteFilter { id: None, owner: whose(&claims), after, limit };
    let sites = app.sites.list(&filter).await.map_err(store_problem)?;
    Ok(Json(SiteList { sites }))
}

/// The pages, and what they say about themselves
///
/// An answer ends at the limit or at about 1 MiB, whichever comes first: ask for those after its last
/// one until there are none.
#[utoipa::path(
    get,
    path = "/pages",
    tag = "scraper",
    security(("bearer" = ["sites:read"])),
    params(PagesQuery),
    responses(
        (status = 200, body = PageList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list_pages(
    State(app): State<App>,
    Extension(claims): Extension<Claims>,
    Query(query): Query<PagesQuery>,
) -> Result<Json<PageList>, Problem> {
    let PagesQuery { site_id, status, limit: wanted, after } = query;
    let (after, limit) = (after.unwrap_or(0), limit(wanted)?);
    let filter = PageFilter { owner: whose(&claims), site_id, status, after, limit };
    let pages = app.pages.list(&filter).await.map_err(store_problem)?;
    Ok(Json(PageList { pages }))
}

/// The sources that cost something: what they cost today, and whether one is stopped
#[utoipa::path(
    get,
    path = "/sources",
    tag = "scraper",
    security(("bearer" = ["sites:read"])),
    responses(
        (status = 200, body = SourceList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list_sources(State(app): State<App>) -> Result<Json<SourceList>, Problem> {
    let sources = app.ledger.list(Utc::now()).await.map_err(store_problem)?;
    Ok(Json(SourceList { sources }))
}

/// Whose rows the caller sees: an admin everybody's.
fn whose(claims: &Claims) -> Option<String> {
    (!claims.is_admin()).then(|| claims.sub.clone())
}

/// Checks what somebody wants, and says all that is wrong with it.
fn options(new: NewSite, owner: &str) -> Result<SiteOptions, Problem> {
    let NewSite { mut url, max_depth, max_pages, every_s, source } = new;
    // What comes after it is a place in the page, and no other page.
    url.set_fragment(None);
    let mut errors = Vec::new();
    if let Err(refusal) = address::check(&url) {
        errors.push(FieldError::new("url", refusal.to_string()));
    }
    for (field, value, range) in [
        ("max_depth", max_depth, 0..=MAX_DEPTH),
        ("max_pages", max_pages, 1..=MAX_PAGES),
        ("every_s", every_s, EVERY_S),
    ] {
        if value.is_some_and(|value| !range.contains(&value)) {
            let rule = format!("must be {} to {}", range.start(), range.end());
            errors.push(FieldError::new(field, rule));
        }
    }
    if let Some(Source::ScraperApi(options)) = &source
        && let Err(rule) = options.check()
    {
        errors.push(FieldError::new("source", rule));
    }
    if errors.is_empty() {
        let owner = Some(owner.to_owned());
        return Ok(SiteOptions { url, owner, max_depth, max_pages, every_s, source });
    }
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY).detail("a site cannot be so");
    Err(errors.into_iter().fold(problem, Problem::error))
}

fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    let limit = wanted.unwrap_or(DEFAULT_LIMIT);
    if (1..=LIMIT).contains(&limit) {
        return Ok(limit);
    }
    let error = FieldError::new("limit", format!("must be 1 to {LIMIT}"));
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY).error(error))
}

fn store_problem(error: StoreError) -> Problem {
    let cause = &error as &dyn Error;
    // Nothing is wrong with the request where the password of the database is.
    if error.is_transient() || matches!(error, StoreError::Denied(_)) {
        warn!(error = cause, "answered 503 for the database");
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE)
            .detail("the database is not available");
    }
    error!(error = cause, "answered 500 for the database");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(url: &str) -> NewSite {
        NewSite {
            url: url.parse().unwrap(),
            max_depth: None,
            max_pages: None,
            every_s: None,
            source: None,
        }
    }

    /// What is wrong, as the caller reads it.
    fn refused(new: NewSite) -> String {
        format!("{:?}", options(new, "ann").unwrap_err())
    }

    #[test]
    fn what_a_site_cannot_be_is_named_all_at_once() {
        let good = new("https://example.com/");
        let wrong = refused(NewSite {
            max_depth: Some(21),
            max_pages: Some(0),
            every_s: Some(59),
            ..new("ftp://example.com/")
        });
        for part in ["url", "max_depth", "0 to 20", "max_pages", "every_s", "60 to 2592000"] {
            assert!(wrong.contains(part), "{part} in {wrong}");
        }
        let bounds = NewSite {
            max_depth: Some(0),
            max_pages: Some(10_000),
            every_s: Some(60),
            ..good.clone()
        };
        assert!(options(bounds, "ann").is_ok());
        assert!(refused(new("https://a:b@example.com/")).contains("password"));
    }

    #[test]
    fn a_place_in_a_page_is_the_page() {
        assert_eq!(
            options(new("https://example.com/a#b"), "ann").unwrap().url.as_str(),
            "https://example.com/a"
        );
    }

    #[test]
    fn an_answer_has_an_end() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some(500)).unwrap(), 500);
        assert!(limit(Some(0)).is_err() && limit(Some(501)).is_err());
    }
}
