//! What the scraper reads from the environment, as `umbel config` and docs/CONFIGURATION.md tell it.

use umbel::Setting;

pub(crate) const SETTINGS: &[Setting] = &[
    Setting::new("SWEEP_EVERY", "how often sites are looked for that are due", "duration")
        .default("5m")
        .limits("`1s` to `24h`"),
    Setting::new("SITE_EVERY", "how often a site is due that does not say so itself", "duration")
        .default("1h")
        .limits("`60s` to `30d`"),
    Setting::new(
        "HOST_EVERY",
        "how long from one visit of a host to the next, over all workers; a host's `Crawl-delay` \
         counts where it is longer",
        "duration",
    )
    .default("1s")
    .otherwise("none for hosts of `SCRAPE_ALLOW_PRIVATE`")
    .limits("at most `1h`"),
    Setting::new("SCRAPE_USER_AGENT", "how it names itself to the hosts", "text of a header")
        .otherwise("`umbel/` and the version")
        .limits("not empty"),
    Setting::new("SCRAPE_TIMEOUT", "how long one page may take, redirects included", "duration")
        .default("20s")
        .limits("`100ms` to `75s`"),
    Setting::new(
        "SCRAPE_MAX_BYTES",
        "how much of a page is read; the rest is cut off",
        "bytes, decompressed",
    )
    .default("2097152")
    .limits("`1024` to `67108864`"),
    Setting::new("SCRAPE_MAX_REDIRECTS", "how many redirects are followed", "redirects")
        .default("5")
        .limits("`0` to `20`"),
    Setting::new(
        "SCRAPE_PORTS",
        "the ports that are fetched from",
        "numbers with commas, at most 16",
    )
    .default("80,443")
    .limits("each 1 to 65535"),
    Setting::new(
        "SCRAPE_MIN_RATE",
        "the slowest page that is waited for, on average and after a quarter of `SCRAPE_TIMEOUT`",
        "bytes a second, decompressed",
    )
    .default("256")
    .limits("`1` to `1048576`"),
    Setting::new(
        "SCRAPE_ALLOW_PRIVATE",
        "hosts that may be fetched though they are not public, or not on one of these ports; for \
         development only",
        "hosts with or without a port, with commas",
    )
    .otherwise("none"),
    Setting::new(
        "PAGES_KEPT",
        "how long a page is kept that no run of its site finds any more, or that was asked for by \
         itself",
        "duration",
    )
    .default("90d")
    .limits("`1h` to `3650d`"),
    Setting::new(
        "SCRAPERAPI_KEY",
        "the key for sites that ScraperAPI fetches; without it none is fetched so",
        "secret",
    )
    .otherwise("none")
    .secret(),
    Setting::new("SCRAPERAPI_URL", "where ScraperAPI is", "address")
        .default("https://api.scraperapi.com/")
        .limits("https, or of this machine"),
    Setting::new(
        "SCRAPERAPI_DAILY_CREDITS",
        "what may be spent there in one day of UTC; work beyond that waits for the next day",
        "credits",
    )
    .otherwise("no limit")
    .limits("from 1"),
];
