//! Reads the metadata of one HTML page while it streams by, in bounded memory.

mod collector;
mod contacts;
mod json_ld;
mod language;
mod microdata;
#[cfg(test)]
mod tests;
mod text;
mod things;

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use encoding_rs::{CoderResult, Decoder, Encoding, UTF_8};
use lol_html::{
    AsciiCompatibleEncoding, HtmlRewriter, MemorySettings, OutputSink, Settings, element, send,
    text,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use self::collector::{Collector, Ends};
pub use self::{
    contacts::Contacts,
    things::{Kind, Thing},
};
use crate::fetch::Reading;

/// What a page says about itself. Every text and list in it is bounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PageMetadata {
    /// The title in the head, at most 512 bytes.
    pub title: Option<String>,
    /// `<meta name="description">`, at most 2048 bytes.
    pub description: Option<String>,
    /// The address the page wants to be known by, `<link rel="canonical">`.
    pub canonical: Option<Url>,
    /// `<html lang>`, such as `de-CH`.
    pub language: Option<String>,
    /// The language of its text as a guess, where there is enough of it and no doubt: the three
    /// letters of ISO 639-3, such as `deu`.
    pub language_guess: Option<String>,
    /// The charset that it was decoded with, such as `UTF-8` or `windows-1252`.
    pub charset: Option<String>,
    /// `<meta name="generator">`, at most 128 bytes.
    pub generator: Option<String>,
    /// Open Graph properties (`og:title`, `article:author`, …); the first value wins.
    pub open_graph: BTreeMap<String, String>,
    /// Twitter card properties (`twitter:card`, …); the first value wins.
    pub twitter: BTreeMap<String, String>,
    /// The icons the page offers, in its order.
    pub icons: Vec<Icon>,
    /// The feeds it offers, at most 8.
    pub feeds: Vec<Feed>,
    /// The same page in other languages, at most 64.
    pub alternates: Vec<Alternate>,
    /// The names of the types in its JSON-LD scripts, sorted, each once.
    pub json_ld_types: Vec<String>,
    /// The types of its microdata, as addresses, sorted, each once, at most 32.
    pub microdata_types: Vec<String>,
    /// The organisations, products and articles that its JSON-LD and its microdata tell of, at
    /// most 16.
    pub things: Vec<Thing>,
    /// How to reach who is behind it.
    pub contacts: Contacts,
    /// `<meta name="robots">`, such as `noindex, nofollow`.
    pub robots: Option<String>,
    /// How many links the page has.
    pub link_counts: LinkCounts,
}

/// An icon of a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Icon {
    /// Where it is.
    pub href: Url,
    /// What it is for: `icon`, `apple-touch-icon`, …
    pub rel: String,
    /// Its sizes in pixels as the page gives them, such as `32x32` or `any`.
    pub sizes: Option<String>,
}

/// A feed of a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Feed {
    /// Where it is.
    pub href: Url,
    /// Its type: `application/rss+xml`, `application/atom+xml` or `application/feed+json`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its title as the page gives it.
    pub title: Option<String>,
}

/// The same page in another language, or for those who speak none of them (`x-default`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alternate {
    /// Where it is.
    pub href: Url,
    /// `hreflang`, such as `de-CH`.
    pub language: String,
}

/// How many `http` and `https` links a page has. Links to a place in the page itself do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LinkCounts {
    /// Links to the page's own origin.
    pub internal: u32,
    /// Links to anywhere else.
    pub external: u32,
    /// Those of both that are marked `rel="nofollow"`.
    pub nofollow: u32,
}

/// All that was read of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// What is worth keeping.
    pub metadata: PageMetadata,
    /// Other pages of the same origin that this one invites to follow, without fragments, each
    /// once, in the order of the page, at most 500. Empty if the page says `nofollow`.
    pub links: Vec<Url>,
    /// Whether the page was read to its end: `false` if it needed more memory than a page may
    /// take, and `metadata` and `links` are what came before.
    pub complete: bool,
}

/// The longest address that is fetched or kept. Browsers and servers agree on about 2000
/// characters, and an index of Postgres holds no more than 2700 bytes.
pub const MAX_URL_BYTES: usize = 2048;

/// Pages are parsed in blocks of this size whatever the network delivers, so that a page always
/// reads the same. The standard looks for a declared charset in the first 1024 bytes; the first
/// block is somewhat more generous.
const BLOCK_BYTES: usize = 4096;
/// Enough for 10 000 open elements (old pages never close a `<li>`) or for an attribute of 2 MB,
/// and little enough for dozens of pages at once in a small container.
const MAX_PARSER_BYTES: usize = 2 << 20;

/// The elements that say something. An `<svg>` has titles of its own. Microdata is looked for on
/// the elements that usually bear it and not on all: an attribute that is asked for is held in
/// memory as a whole, and the `src` of a picture may be the picture.
const ELEMENTS: &str = "html[lang], head, base[href], body, svg, title, meta[content], \
    link[rel][href], a[href], area[href], script[type^='application/ld+json' i], \
    html[itemscope], body[itemscope], main[itemscope], article[itemscope], section[itemscope], \
    div[itemscope], span[itemscope], ul[itemscope], ol[itemscope], li[itemscope], p[itemscope], \
    tr[itemscope], dl[itemscope], footer[itemscope], header[itemscope], \
    meta[itemprop], link[itemprop], a[itemprop], time[itemprop], data[itemprop], div[itemprop], \
    span[itemprop], p[itemprop], h1[itemprop], h2[itemprop], h3[itemprop], li[itemprop], \
    td[itemprop], dd[itemprop], strong[itemprop], b[itemprop], em[itemprop], address[itemprop]";
/// Text of the body is for the guess of its language and for microdata.
const TEXTS: &str = "title, script[type^='application/ld+json' i], p, h1, h2, h3, li, dd, td, \
    div[itemprop], span[itemprop], strong[itemprop], b[itemprop], em[itemprop], address[itemprop]";

/// Writes the page to nowhere: it is only read.
type Parser = send::HtmlRewriter<'static, fn(&[u8])>;

/// Takes a page chunk by chunk and gives what it says about itself.
///
/// The page may be broken or hostile: whatever the bytes, there is an answer, and it does not
/// depend on how they were cut into chunks.
pub struct MetadataReader {
    charset: Option<&'static Encoding>,
    /// Chosen when the first block is there to look for a declared charset.
    decoder: Option<Decoder>,
    block: Vec<u8>,
    block_bytes: usize,
    reading: Reading,
    text: String,
    /// `None` once the page took too much memory.
    rewriter: Option<Parser>,
    collector: Arc<Mutex<Collector>>,
}

impl MetadataReader {
    /// A reader for the page at `base`, whose charset is the one of its `Content-Type`, if any.
    ///
    /// A byte order mark overrules that charset; without either, the page's own declaration
    /// counts, and else UTF-8.
    pub fn new(base: &Url, charset: Option<&'static Encoding>) -> Self {
        Self::with_blocks(base, charset, BLOCK_BYTES)
    }

    fn with_blocks(base: &Url, charset: Option<&'static Encoding>, block_bytes: usize) -> Self {
        let collector = Arc::new(Mutex::new(Collector::new(base)));
        let (elements, texts) = (collector.clone(), collector.clone());
        let settings = Settings::new_send()
            // A page that could be parsed in two ways is better read in one than not at all.
            .with_strict(false)
            .with_memory_settings(
                MemorySettings::new().with_max_allowed_memory_usage(MAX_PARSER_BYTES),
            )
            .append_element_content_handler(element!(ELEMENTS, move |element: &mut _| {
                let ends = lock(&elements).element(element);
                if let Some(ends) = ends {
                    at_its_end(element, ends, &elements);
                }
                Ok(())
            }))
            .append_element_content_handler(text!(TEXTS, move |chunk| {
                lock(&texts).text(chunk);
                Ok(())
            }));
        Self {
            charset,
            decoder: None,
            block: Vec::with_capacity(block_bytes),
            block_bytes,
            reading: Reading::Whole,
            text: String::new(),
            rewriter: Some(HtmlRewriter::new(settings, |_: &[u8]| {})),
            collector,
        }
    }

    /// The same reader, for as much of the page.
    pub fn reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// Reads on. `Break` says that nothing more needs to be read: the page takes more memory than
    /// a page may, or only its head is wanted and has ended.
    pub fn write(&mut self, mut bytes: &[u8]) -> ControlFlow<()> {
        if self.rewriter.is_none() {
            return ControlFlow::Break(());
        }
        while !bytes.is_empty() {
            let room = self.block_bytes - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == self.block_bytes {
                self.parse_block(false)?;
                if self.reading == Reading::Head && lock(&self.collector).head_is_over() {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends the page, or the part of it that there will be, and gives what was read.
    pub fn end(mut self) -> Page {
        let complete = self.parse_block(true).is_continue();
        drop(self.rewriter);
        let charset = self.decoder.map(|decoder| decoder.encoding().name().to_owned());
        let collector =
            Arc::into_inner(self.collector).expect("the rewriter, its other owner, is gone");
        let collector = collector.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut page = collector.page(complete);
        page.metadata.charset = charset;
        page
    }

    fn parse_block(&mut self, last: bool) -> ControlFlow<()> {
        let Some(mut rewriter) = self.rewriter.take() else {
            return ControlFlow::Break(());
        };
        let decoder = self.decoder.get_or_insert_with(|| {
            self.charset.unwrap_or_else(|| declared_charset(&self.block)).new_decoder()
        });
        decode(decoder, &self.block, last, &mut self.text);
        self.block.clear();

        let mut parsed = rewriter.write(self.text.as_bytes());
        if parsed.is_ok() {
            if last {
                parsed = rewriter.end();
            } else {
                self.rewriter = Some(rewriter);
            }
        }
        match parsed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::debug!(%error, "a page is read only in part");
                ControlFlow::Break(())
            }
        }
    }
}

impl fmt::Debug for MetadataReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataReader").field("charset", &self.charset).finish_non_exhaustive()
    }
}

/// Tells the collector when the element ends; one that has no end tag has ended already.
fn at_its_end(element: &mut send::Element<'_, '_>, ends: Ends, collector: &Arc<Mutex<Collector>>) {
    let Some(handlers) = element.end_tag_handlers() else {
        return lock(collector).ended(ends);
    };
    let collector = collector.clone();
    handlers.push(Box::new(move |_| {
        lock(&collector).ended(ends);
        Ok(())
    }));
}

fn lock(collector: &Mutex<Collector>) -> MutexGuard<'_, Collector> {
    collector.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces `text` by the decoded block; what is no character becomes U+FFFD.
fn decode(decoder: &mut Decoder, mut block: &[u8], last: bool, text: &mut String) {
    text.clear();
    loop {
        let needed = decoder.max_utf8_buffer_length(block.len());
        text.reserve(needed.expect("a block is far shorter than memory"));
        let (result, read, _) = decoder.decode_to_string(block, text, last);
        block = &block[read..];
        if result == CoderResult::InputEmpty {
            return;
        }
    }
}

/// The charset that a `<meta>` in the head declares, else UTF-8.
fn declared_charset(head: &[u8]) -> &'static Encoding {
    let declared = Cell::new(UTF_8);
    let settings = Settings::new().with_strict(false).with_adjust_charset_on_meta_tag(true);
    let mut rewriter = HtmlRewriter::new(settings, Declared(&declared));
    if let Err(error) = rewriter.write(head).and_then(|()| rewriter.end()) {
        tracing::debug!(%error, "the head of a page declares no charset that could be read");
    }
    declared.get()
}

/// Learns which charset the parser switched to.
struct Declared<'a>(&'a Cell<&'static Encoding>);

impl OutputSink for Declared<'_> {
    fn handle_chunk(&mut self, _: &[u8]) {}

    fn set_encoding(&mut self, encoding: AsciiCompatibleEncoding) {
        self.0.set(encoding.into());
    }
}
