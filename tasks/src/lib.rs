//! The reference application: a scraper of website metadata.
//!
//! A beat sweeps the sites that are due; each of them is a task, which plans its run; each page is a
//! task, reads its metadata and finds further pages of its site.
//!
//! - [`application`]: all of it as one value, for `umbel::run`
//! - [`SweepSites`], [`ScrapeSite`], [`ScrapePage`], [`PrunePages`], [`PruneSteps`]: the tasks
//! - [`App`], with [`Sites`] and [`Pages`]: the state they share, and the tables under it
//! - [`fetch`], [`metadata`]: one page from the web, and what it says about itself

mod address;
mod app;
mod enqueue;
mod error;
pub mod fetch;
mod handover;
mod ledger;
mod listed;
mod listing;
pub mod metadata;
mod pages;
mod paid;
mod plan;
mod politeness;
mod prune;
mod repair;
mod robots;
mod routes;
mod scrape;
mod scraperapi;
mod site_run;
mod sitemap;
mod sites;
mod sweep;
mod tables;
mod visit;

use std::{ops::RangeInclusive, time::Duration};

use umbel::{Application, Env, Registry, RegistryError, SettingsError, Timetable, every};

pub use app::{App, Settings};
pub use handover::{Silent, SilentSite, Wanted, WantedSite};
pub use ledger::{Ledger, Reserved, SourceStatus, Stopped};
pub use listing::{Page, PageCounts, PageFilter, Site, SiteFilter};
pub use pages::{Attempt, PageRun, Pages, Place, Scraped, Trouble};
pub use plan::{PlannedSite, ScrapeSite};
pub use prune::{PrunePages, PruneSteps, Pruned, PrunedPages};
pub use robots::Robots;
pub use routes::routes;
pub use scrape::{ScrapePage, ScrapedPage};
pub use scraperapi::{ScraperApiOptions, ScraperApiSettings, Source};
pub use site_run::{Plan, SiteAttempt, SitePlace, SiteRun};
pub use sites::{Put, SiteOptions, Sites};
pub use sweep::{SweepSites, Swept};
pub use tables::{MIGRATIONS, Status};

/// The scraper.
pub fn application() -> Application<App> {
    Application::new("scraper")
        .state(App::open)
        .registry(registry)
        .timetable(timetable)
        .routes(routes)
        .migrations(MIGRATIONS)
        .settings(listed::SETTINGS)
}

/// The tasks, name → handler.
pub fn registry() -> Result<Registry<App>, RegistryError> {
    Registry::builder()
        .register::<SweepSites>()
        .register::<ScrapeSite>()
        .register::<ScrapePage>()
        .register::<PruneSteps>()
        .register::<PrunePages>()
        .build()
}

/// How often due sites are looked for, unless SWEEP_EVERY says otherwise: a site that is due
/// hourly is then late by less than a tenth.
const SWEEP_EVERY: Duration = Duration::from_mins(5);

/// No timetable has a shorter period, and a sweep that comes more rarely than a site can be due
/// would make that setting untrue.
const SWEEP_PERIODS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// What is kept for a week need not be pruned more often.
const PRUNE_EVERY: Duration = Duration::from_hours(24);

/// The periodic work: a sweep every SWEEP_EVERY (default 5 min), and upkeep.
pub fn timetable(env: &Env) -> anyhow::Result<Timetable> {
    let sweep_every = env.duration_or("SWEEP_EVERY", SWEEP_EVERY)?;
    if !SWEEP_PERIODS.contains(&sweep_every) {
        let sentence = format!("SWEEP_EVERY must be from 1 s to 24 h, and is {sweep_every:?}");
        return Err(SettingsError::new(sentence).into());
    }
    Ok(Timetable::new()
        .entry("sweep-sites", every(sweep_every), SweepSites {})
        .entry("prune-steps", every(PRUNE_EVERY), PruneSteps {})
        .entry("prune-pages", every(PRUNE_EVERY), PrunePages {})
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_comes_as_often_as_the_settings_say_and_never_ever_or_always() {
        let slots = |env: &[(&str, &str)]| {
            timetable(&Env::from_iter(env.iter().copied()))
                .map(|timetable| timetable.entries()[0].schedule.to_string())
        };
        assert_eq!(slots(&[]).unwrap(), "every 5m");
        assert_eq!(slots(&[("SWEEP_EVERY", "5s")]).unwrap(), "every 5s");
        for wrong in ["soon", "0s", "999ms", "2d"] {
            let error = slots(&[("SWEEP_EVERY", wrong)]).unwrap_err();
            assert!(error.is::<SettingsError>(), "{wrong}");
            assert!(error.to_string().starts_with("SWEEP_EVERY"), "{error}");
        }
    }

    #[test]
    fn steps_of_tasks_and_old_pages_are_pruned_daily() {
        let timetable = timetable(&Env::default()).unwrap();
        let entries = timetable.entries().iter();
        let shown: Vec<_> = entries
            .map(|entry| format!("{} {} {}", entry.name, entry.schedule, entry.task.task))
            .collect();
        let expected = [
            "sweep-sites every 5m sites.sweep",
            "prune-steps every 1d steps.prune",
            "prune-pages every 1d pages.prune",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn only_a_page_can_be_asked_for_over_http() {
        let catalog = registry().unwrap().catalog();
        let open: Vec<_> = catalog
            .iter()
            .filter(|entry| entry.options.over_http)
            .map(|entry| entry.name.as_str())
            .collect();
        assert_eq!(open, ["pages.scrape"]);
    }
}
