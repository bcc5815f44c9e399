//! robots.txt (RFC 9309): which pages of a host a crawler may visit, and how fast.
//!
//! Only the rules for us are kept, and only so many: they stand in the row of their site. A rule
//! is matched by hand, one character after the other, because a file of patterns compiled as
//! regular expressions takes as much memory as its author likes.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::metadata::MAX_URL_BYTES;

/// As much of the file is read; the standard asks for no less, and none that is honest has more.
pub(crate) const MAX_FILE_BYTES: usize = 500 * 1024;
/// The largest shops have some hundred rules.
const MAX_RULES: usize = 1000;
const MAX_SITEMAPS: usize = 10;
const MAX_PATTERN_BYTES: usize = 512;
/// Together with the number of rules this bounds what one check can cost.
const MAX_RULES_BYTES: usize = 32 * 1024;
/// A host that wants more time between two pages is visited at this pace all the same.
const MAX_DELAY_S: f32 = 300.0;

/// The rules of a host for us.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Robots {
    rules: Vec<Rule>,
    /// Seconds between two pages, at most 300.
    pub crawl_delay_s: Option<f32>,
    /// The sitemaps that the file names, whomever else it speaks to; at most 10.
    #[serde(skip)]
    pub sitemaps: Vec<Url>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rule {
    allow: bool,
    /// `*` stands for anything; `$` at the end is the end.
    pattern: String,
}

impl Robots {
    /// Reads the file for the crawler of this name: the groups that name it, or else those for all.
    pub fn parse(file: &str, user_agent: &str) -> Self {
        let us = user_agent.split(['/', ' ']).next().unwrap_or_default().to_ascii_lowercase();
        let (mut ours, mut all) = (None, None);
        let mut sitemaps: Vec<Url> = Vec::new();
        // Which of the two the group at hand is for, and whether it is still naming crawlers.
        let (mut named, mut starred, mut naming) = (false, false, false);
        for line in file.trim_start_matches('\u{feff}').lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((field, value)) = line.split_once(':') else { continue };
            let (field, value) = (field.trim().to_ascii_lowercase(), value.trim());
            if field == "user-agent" {
                if !naming {
                    (named, starred, naming) = (false, false, true);
                }
                let name = value.split('/').next().unwrap_or_default().to_ascii_lowercase();
                if name == "*" {
                    starred = true;
                    all.get_or_insert_with(Self::default);
                } else if name == us {
                    named = true;
                    ours.get_or_insert_with(Self::default);
                }
                continue;
            }
            if field == "sitemap" {
                // Stands for itself, wherever it is.
                if sitemaps.len() < MAX_SITEMAPS && value.len() <= MAX_URL_BYTES {
                    sitemaps.extend(value.parse());
                }
                continue;
            }
            naming = false;
            for group in [named.then_some(&mut ours), starred.then_some(&mut all)] {
                if let Some(Some(robots)) = group {
                    robots.take(&field, value);
                }
            }
        }
        Self { sitemaps, ..ours.or(all).unwrap_or_default() }
    }

    fn take(&mut self, field: &str, value: &str) {
        match field {
            "allow" | "disallow" => {
                let kept: usize = self.rules.iter().map(|rule| rule.pattern.len()).sum();
                let fits = value.len() <= MAX_PATTERN_BYTES
                    && kept + value.len() <= MAX_RULES_BYTES
                    && self.rules.len() < MAX_RULES;
                // An empty rule says nothing: `Disallow:` allows all.
                if fits && !value.is_empty() && !value.contains('\0') {
                    let rule = Rule { allow: field == "allow", pattern: normal(value) };
                    self.rules.push(rule);
                }
            }
            "crawl-delay" => {
                let delay = value.parse().ok().filter(|delay: &f32| *delay > 0.0);
                self.crawl_delay_s =
                    delay.map(|delay| delay.min(MAX_DELAY_S)).or(self.crawl_delay_s);
            }
            _ => {}
        }
    }

    /// Whether we may visit the page: the longest rule that matches decides, and of two of the
    /// same length the one that allows.
    pub fn allow(&self, url: &Url) -> bool {
        let place = match url.query() {
            Some(query) => normal(&format!("{}?{query}", url.path())),
            None => normal(url.path()),
        };
        if place == "/robots.txt" {
            return true;
        }
        let matching = self.rules.iter().filter(|rule| matches(&rule.pattern, &place));
        matching.max_by_key(|rule| (rule.pattern.len(), rule.allow)).is_none_or(|rule| rule.allow)
    }
}

/// One spelling for what `%` and letters outside of ASCII spell in many.
fn normal(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, escaped) = match (bytes[at], hex) {
            (b'%', Some(byte)) => (byte, true),
            (byte, _) => (byte, false),
        };
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain || (!escaped && byte.is_ascii_graphic()) {
            normal.push(char::from(byte));
        } else {
            normal.push_str(&format!("%{byte:02X}"));
        }
        at += if escaped { 3 } else { 1 };
    }
    normal
}

/// Whether the pattern matches the beginning of the place, or all of it where it ends with `$`.
///
/// Each piece between two stars is looked for once, behind the one before it: there is no way back
/// and so no pattern that takes long.
fn matches(pattern: &str, place: &str) -> bool {
    let (pattern, to_the_end) = match pattern.strip_suffix('$') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let mut pieces = pattern.split('*');
    let Some(mut rest) = place.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let pieces: Vec<_> = pieces.collect();
    for (number, piece) in pieces.iter().enumerate() {
        if to_the_end && number + 1 == pieces.len() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(found) => rest = &rest[found + piece.len()..],
            None => return false,
        }
    }
    !to_the_end || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(file: &str, path: &str) -> bool {
        let url = Url::parse("https://example.com/").unwrap().join(path).unwrap();
        Robots::parse(file, "umbel/0.1.0").allow(&url)
    }

    #[test]
    fn the_longest_rule_decides_and_stars_and_ends_are_understood() {
        for (rules, path, allowed) in [
            ("Disallow: /", "/", false),
            ("Disallow: /", "/robots.txt", true),
            ("Disallow:", "/a", true),
            ("Disallow: /a", "/ab", false),
            ("Disallow: /a", "/b", true),
            ("Disallow: /a\nAllow: /a/b", "/a/b/c", true),
            ("Allow: /a/b\nDisallow: /a", "/a/c", false),
            ("Allow: /a\nDisallow: /a", "/a", true),
            ("Disallow: /*.php", "/x/index.php?q=1", false),
            ("Disallow: /*.php$", "/index.php", false),
            ("Disallow: /*.php$", "/index.php5", true),
            ("Disallow: /*?sort=", "/list?sort=up", false),
            ("Disallow: /*/b*/c$", "/a/bb/c/c", false),
            ("Disallow: /*/b*/c$", "/a/bb/c/d", true),
            ("Disallow: /$", "/", false),
            ("Disallow: /$", "/a", true),
            ("Disallow: /caf%C3%A9", "/café", false),
            ("Disallow: /café", "/caf%c3%a9/x", false),
            ("Disallow: /a%62", "/ab", false),
            ("Disallow: *", "/a", false),
        ] {
            assert_eq!(allows(&format!("User-agent: *\n{rules}"), path), allowed, "{rules} {path}");
        }
    }

    #[test]
    fn a_group_for_us_goes_before_those_for_all_and_groups_of_one_name_are_one() {
        let file = "\u{feff}user-agent: other\nuser-agent: *  # everybody\ndisallow: /all\n\n\
                    User-Agent: Umbel/2.0\nDisallow: /us\nCrawl-delay: 2.5\n\
                    nonsense\nSitemap: https://example.com/sitemap.xml\n\
                    User-agent: another\nDisallow: /\nUser-agent: umbel\nDisallow: /too";
        assert!(allows(file, "/all") && !allows(file, "/us") && !allows(file, "/too"));
        assert!(allows(file, "/a"));
        let robots = Robots::parse(file, "umbel/0.1.0");
        assert_eq!(robots.crawl_delay_s, Some(2.5));
        assert_eq!(robots.sitemaps[0].as_str(), "https://example.com/sitemap.xml");
        assert!(!Robots::parse(file, "somebody").allow(&"https://a.b/all".parse().unwrap()));
        assert!(allows("", "/a") && allows("<html>not found</html>", "/a"));
    }

    #[test]
    fn a_hostile_file_is_bounded_in_memory_and_time() {
        let evil = format!("Disallow: /{}b\n", "*a".repeat(200)).repeat(5000);
        let robots = Robots::parse(&format!("User-agent: *\nCrawl-delay: 1e30\n{evil}"), "umbel");
        assert!(serde_json::to_string(&robots).unwrap().len() < 128 * 1024);
        assert_eq!(robots.crawl_delay_s, Some(300.0));
        let began = std::time::Instant::now();
        let long = format!("https://example.com/{}", "a".repeat(2000));
        assert!(robots.allow(&long.parse().unwrap()));
        assert!(began.elapsed().as_secs() < 2, "{:?}", began.elapsed());
    }
}
