//! Gathers what the elements of a page say, one element at a time.

use std::collections::{BTreeMap, HashSet};

use lol_html::{
    html_content::{TextChunk, TextType},
    send::Element,
};
use url::Url;

use super::{
    Alternate, Feed, Icon, MAX_URL_BYTES, Page, PageMetadata,
    json_ld::JsonLd,
    language::Sample,
    microdata::{Attributes, Microdata},
    text::{attribute, content, has_word, tidy},
    things::keep,
};

/// Search engines show some 60 characters of a title and 160 of a description; these are for the
/// longest honest ones, in any script.
const MAX_TITLE_BYTES: usize = 512;
const MAX_DESCRIPTION_BYTES: usize = 2048;
/// A title may hold blanks and references (`&#x1F600;`) that take more room than what they stand for.
const MAX_RAW_TITLE_BYTES: usize = 16 * 1024;
/// The longest registered language tags have about 30 characters.
const MAX_LANGUAGE_BYTES: usize = 35;
const MAX_ROBOTS_BYTES: usize = 256;
/// More properties or icons than the richest pages have; the point is that there is an end.
const MAX_PROPERTIES: usize = 32;
const MAX_PROPERTY_NAME_BYTES: usize = 64;
const MAX_PROPERTY_BYTES: usize = 1024;
const MAX_ICONS: usize = 16;
const MAX_ICON_WORD_BYTES: usize = 64;
const MAX_FEEDS: usize = 8;
/// A page in all languages of the largest sites.
const MAX_ALTERNATES: usize = 64;
const MAX_GENERATOR_BYTES: usize = 128;
/// One page shall not decide alone where a whole crawl goes.
const MAX_LINKS: usize = 500;
/// The largest product lists in the wild; a longer script cannot be read in part and is left out.
const MAX_JSON_LD_BYTES: usize = 256 * 1024;

/// `og:` and the object types that <https://ogp.me> defines.
const OPEN_GRAPH: [&str; 6] = ["og:", "article:", "book:", "music:", "profile:", "video:"];
const FEEDS: [&str; 3] = ["application/rss+xml", "application/atom+xml", "application/feed+json"];
const ICONS: [&str; 4] = ["icon", "apple-touch-icon", "apple-touch-icon-precomposed", "mask-icon"];

/// What the page has said so far.
pub(super) struct Collector {
    page: Url,
    base: Url,
    base_is_given: bool,
    head_has_ended: bool,
    /// Not only because a drawing was met, whose titles are not the page's.
    head_is_over: bool,
    title: Title,
    /// The script that is being read.
    script: Option<String>,
    json_ld: JsonLd,
    microdata: Microdata,
    sample: Sample,
    nofollow: bool,
    links: Vec<Url>,
    linked: HashSet<Url>,
    metadata: PageMetadata,
}

/// What ends with an end tag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    Head,
    /// An item of microdata, or the text of one of its properties.
    Item(u32),
}

/// Only the first title counts.
enum Title {
    Awaited,
    Open(String),
    Closed(String),
}

impl Collector {
    pub(super) fn new(page: &Url) -> Self {
        let mut page = page.clone();
        page.set_fragment(None);
        Self {
            base: page.clone(),
            page,
            base_is_given: false,
            head_has_ended: false,
            head_is_over: false,
            title: Title::Awaited,
            script: None,
            json_ld: JsonLd::default(),
            microdata: Microdata::default(),
            sample: Sample::default(),
            nofollow: false,
            links: Vec::new(),
            linked: HashSet::new(),
            metadata: PageMetadata::default(),
        }
    }

    /// Takes a start tag; tells what ends with its end tag.
    pub(super) fn element(&mut self, element: &Element<'_, '_>) -> Option<Ends> {
        let get = |name: &str| element.get_attribute(name).map(|raw| attribute(&raw));
        let tag = element.tag_name();
        match tag.as_str() {
            "html" => {
                let language = get("lang").and_then(|lang| tidy(&lang, MAX_LANGUAGE_BYTES));
                fill(&mut self.metadata.language, language);
            }
            "head" => return Some(Ends::Head),
            "base" => self.base(&get("href").unwrap_or_default()),
            "body" => (self.head_has_ended, self.head_is_over) = (true, true),
            "svg" => self.head_has_ended = true,
            "title" => self.open_title(),
            "meta" => {
                let content = get("content").unwrap_or_default();
                for name in [get("name"), get("property")].into_iter().flatten() {
                    self.property(&name.trim().to_ascii_lowercase(), &content);
                }
            }
            "link" => self.relation(&get),
            "a" | "area" => {
                let [rel, href] = ["rel", "href"].map(|name| get(name).unwrap_or_default());
                self.link(&rel, &href);
            }
            "script" => self.script = is_json_ld(get("type")).then(String::new),
            _ => {}
        }
        self.sample.boundary();
        let (item, property) = (element.has_attribute("itemscope"), get("itemprop"));
        if !item && property.is_none() {
            return None;
        }
        let value = get("content").or_else(|| self.value(tag.as_str(), &get));
        self.microdata
            .open(Attributes { item, types: get("itemtype"), property, value })
            .map(Ends::Item)
    }

    /// Takes an end tag.
    pub(super) fn ended(&mut self, what: Ends) {
        match what {
            Ends::Head => (self.head_has_ended, self.head_is_over) = (true, true),
            Ends::Item(number) => self.microdata.close(number),
        }
    }

    /// Whether all of the head was seen.
    pub(super) fn head_is_over(&self) -> bool {
        self.head_is_over
    }

    /// Takes a piece of text of the elements that say something.
    pub(super) fn text(&mut self, chunk: &TextChunk<'_>) {
        let (text, last) = (chunk.as_str(), chunk.last_in_text_node());
        match chunk.text_type() {
            TextType::ScriptData => self.script(text, last),
            TextType::RCData => self.title(text, last),
            TextType::Data => {
                self.sample.take(text);
                self.microdata.text(text);
            }
            _ => {}
        }
    }

    /// Gives all that was said.
    pub(super) fn page(mut self, complete: bool) -> Page {
        let mut metadata = self.metadata;
        if let Title::Open(title) | Title::Closed(title) = self.title {
            metadata.title = tidy(&content(&title), MAX_TITLE_BYTES);
        }
        self.microdata.end();
        metadata.language_guess = self.sample.guess();
        metadata.json_ld_types = self.json_ld.types.into_iter().collect();
        metadata.microdata_types = self.microdata.types.into_iter().collect();
        metadata.things = self.json_ld.things;
        self.microdata.things.into_iter().for_each(|thing| keep(&mut metadata.things, thing));
        let links = if self.nofollow { Vec::new() } else { self.links };
        Page { metadata, links, complete }
    }

    /// Only the first base with an address counts, and only for what comes after it.
    fn base(&mut self, href: &str) {
        if !self.base_is_given
            && let Some(base) = resolve(&self.page, href)
        {
            self.base = base;
            self.base_is_given = true;
        }
    }

    fn open_title(&mut self) {
        self.title = match std::mem::replace(&mut self.title, Title::Awaited) {
            Title::Awaited if !self.head_has_ended => Title::Open(String::new()),
            Title::Awaited => Title::Awaited,
            Title::Open(title) | Title::Closed(title) => Title::Closed(title),
        };
    }

    fn property(&mut self, name: &str, content: &str) {
        let metadata = &mut self.metadata;
        match name {
            "description" => fill(&mut metadata.description, tidy(content, MAX_DESCRIPTION_BYTES)),
            "generator" => fill(&mut metadata.generator, tidy(content, MAX_GENERATOR_BYTES)),
            "robots" => {
                self.nofollow |= has_word(content, &["nofollow", "none"]);
                fill(&mut metadata.robots, tidy(content, MAX_ROBOTS_BYTES));
            }
            _ if name.starts_with("twitter:") => put(&mut metadata.twitter, name, content),
            _ if OPEN_GRAPH.iter().any(|prefix| name.starts_with(prefix)) => {
                put(&mut metadata.open_graph, name, content);
            }
            _ => {}
        }
    }

    fn relation(&mut self, get: &impl Fn(&str) -> Option<String>) {
        let [rel, href] = ["rel", "href"].map(|name| get(name).unwrap_or_default());
        let Some(href) = resolve(&self.base, &href) else {
            return;
        };
        let metadata = &mut self.metadata;
        let word = |name| get(name).and_then(|text| tidy(&text, MAX_ICON_WORD_BYTES));
        if has_word(&rel, &["canonical"]) {
            fill(&mut metadata.canonical, Some(href));
        } else if has_word(&rel, &ICONS) && metadata.icons.len() < MAX_ICONS {
            metadata.icons.push(Icon {
                href,
                rel: tidy(&rel.to_ascii_lowercase(), MAX_ICON_WORD_BYTES).unwrap_or_default(),
                sizes: word("sizes"),
            });
        } else if has_word(&rel, &["alternate"]) {
            let kind = get("type").unwrap_or_default().trim().to_ascii_lowercase();
            if FEEDS.contains(&kind.as_str()) && metadata.feeds.len() < MAX_FEEDS {
                let title = get("title").and_then(|title| tidy(&title, MAX_TITLE_BYTES));
                metadata.feeds.push(Feed { href, kind, title });
            } else if metadata.alternates.len() < MAX_ALTERNATES
                && let Some(language) = word("hreflang")
            {
                metadata.alternates.push(Alternate { href, language });
            }
        }
    }

    /// What an element gives as the value of its property in attributes of its own.
    fn value(&self, tag: &str, get: &impl Fn(&str) -> Option<String>) -> Option<String> {
        let name = match tag {
            "a" | "area" | "link" => "href",
            "time" => return get("datetime"),
            "data" => return get("value"),
            _ => return None,
        };
        get(name).map(|href| resolve(&self.base, &href).map_or(href, String::from))
    }

    /// The title ends with its text: a form field has text of the same type.
    fn title(&mut self, text: &str, last: bool) {
        if let Title::Open(title) = &mut self.title {
            let room = MAX_RAW_TITLE_BYTES - title.len();
            title.push_str(&text[..text.floor_char_boundary(room)]);
            if last {
                self.title = Title::Closed(std::mem::take(title));
            }
        }
    }

    fn link(&mut self, rel: &str, href: &str) {
        if href.trim_start().starts_with('#') {
            return;
        }
        let Some(mut url) = resolve(&self.base, href) else {
            self.metadata.contacts.link(href);
            return;
        };
        let counts = &mut self.metadata.link_counts;
        let internal = same_origin(&url, &self.page);
        let nofollow = has_word(rel, &["nofollow"]);
        let kind = if internal { &mut counts.internal } else { &mut counts.external };
        *kind = kind.saturating_add(1);
        counts.nofollow = counts.nofollow.saturating_add(nofollow.into());
        if !internal {
            self.metadata.contacts.elsewhere(&url);
        }

        url.set_fragment(None);
        let bears_a_name = !url.username().is_empty() || url.password().is_some();
        if internal
            && !nofollow
            && !bears_a_name
            && url != self.page
            && self.links.len() < MAX_LINKS
            && self.linked.insert(url.clone())
        {
            self.links.push(url);
        }
    }

    fn script(&mut self, text: &str, last: bool) {
        let Some(script) = &mut self.script else {
            return;
        };
        if script.len() + text.len() > MAX_JSON_LD_BYTES {
            self.script = None;
            return;
        }
        script.push_str(text);
        if last {
            self.json_ld.read(script);
            self.script = None;
        }
    }
}

fn is_json_ld(kind: Option<String>) -> bool {
    kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/ld+json"))
}

/// The first value wins, as it does in a browser.
fn fill<T>(slot: &mut Option<T>, value: Option<T>) {
    if slot.is_none() {
        *slot = value;
    }
}

fn put(properties: &mut BTreeMap<String, String>, name: &str, content: &str) {
    if name.len() > MAX_PROPERTY_NAME_BYTES || properties.len() >= MAX_PROPERTIES {
        return;
    }
    let name = tidy(name, MAX_PROPERTY_NAME_BYTES);
    if let (Some(name), Some(content)) = (name, tidy(content, MAX_PROPERTY_BYTES)) {
        properties.entry(name).or_insert(content);
    }
}

/// An absolute `http` or `https` address; one that is too long is left out, not cut.
fn resolve(base: &Url, href: &str) -> Option<Url> {
    if href.len() > MAX_URL_BYTES {
        return None;
    }
    let url = base.join(href).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.as_str().len() <= MAX_URL_BYTES).then_some(url)
}

fn same_origin(one: &Url, other: &Url) -> bool {
    // `Url` leaves out a port that the scheme implies.
    one.scheme() == other.scheme() && one.host() == other.host() && one.port() == other.port()
}
