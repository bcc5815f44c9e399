//! Sitemaps: the pages that a site names itself. Read while they stream by, plain or gzipped, in
//! memory that does not grow with them.

use std::{
    collections::{HashSet, VecDeque},
    io::{self, Write},
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flate2::write::GzDecoder;
use lol_html::{HtmlRewriter, MemorySettings, Settings, comments, element, end_tag, send, text};
use url::Url;

use crate::{
    fetch::{FetchError, Fetcher, Hop, Trail},
    metadata::MAX_URL_BYTES,
};

/// All sitemaps of a site together, the turns at their host included, of which there is one a second;
/// what was read by then counts.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Of the transfer and, where a file is gzipped itself, again of what comes out. The protocol
/// allows 50 MB, which no run has places for.
const MAX_FILE_BYTES: usize = 8 << 20;
/// An index may name 50 000 further files.
const MAX_FILES: usize = 10;
/// A tenth of what one file may have, and half of what a run may have.
const MAX_PAGES: usize = 5_000;
/// For one element of the file.
const MAX_PARSER_BYTES: usize = 256 * 1024;

/// The sitemaps of a site, one after the other: those of `named`, which robots.txt names, or else
/// `/sitemap.xml`.
///
/// A site without a sitemap has no pages here: its links are followed.
#[derive(Debug)]
pub(crate) struct Maps {
    /// The pages that they name, each once.
    pub pages: Vec<Url>,
    /// What was wrong with the first that could not be read.
    pub error: Option<String>,
    site: Url,
    wanted: usize,
    known: HashSet<Url>,
    files: VecDeque<Url>,
    read: usize,
    are_named: bool,
}

impl Maps {
    /// Of their pages at most `wanted` are, those of the site's own address left out.
    pub fn new(site: &Url, named: &[Url], wanted: usize) -> Self {
        let are_named = !named.is_empty();
        let mut files: VecDeque<Url> = named.iter().take(MAX_FILES).cloned().collect();
        if !are_named {
            files.extend(site.join("/sitemap.xml"));
        }
        let known = HashSet::from([site.clone()]);
        let wanted = wanted.min(MAX_PAGES);
        let (pages, error, site) = (Vec::new(), None, site.clone());
        Self { pages, error, site, wanted, known, files, read: 0, are_named }
    }

    /// The file to read next, while more pages are wanted.
    pub fn next(&mut self) -> Option<Url> {
        if self.pages.len() >= self.wanted {
            return None;
        }
        self.read += 1;
        self.files.pop_front()
    }

    /// Takes what a file names: pages of the site, or of the host where the file was in the end, for
    /// the site may be at home there, if the host wants them to be read; and further files.
    pub fn take(&mut self, found: Found, allows: impl Fn(&Url) -> bool) {
        let homes = [Some(self.site.origin()), found.at.as_ref().map(Url::origin)];
        for url in found.pages {
            if self.pages.len() < self.wanted
                && homes.contains(&Some(url.origin()))
                && allows(&url)
                && self.known.insert(url.clone())
            {
                self.pages.push(url);
            }
        }
        let room = MAX_FILES.saturating_sub(self.read + self.files.len());
        self.files.extend(found.files.into_iter().take(room));
        self.are_named |= !self.files.is_empty();
    }

    /// Takes that a file could not be read. Where nobody has named it, that there is none is nothing
    /// wrong.
    pub fn miss(&mut self, file: &Url, why: &str, is_fatal: bool) {
        if self.are_named || !is_fatal {
            self.error.get_or_insert_with(|| format!("{file}: {why}"));
        }
    }
}

/// Reads one sitemap, if it is where the trail is.
pub(crate) async fn read(fetcher: &Fetcher, trail: &Trail) -> Result<Hop<Found>, FetchError> {
    let mut reader = Reader::new();
    let read = fetcher.read_file(trail, MAX_FILE_BYTES, |bytes| reader.write(bytes)).await?;
    Ok(read.map(|file| Found { at: Some(file.final_url), ..reader.end() }))
}

/// What one file names.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Where it was in the end.
    at: Option<Url>,
    pages: Vec<Url>,
    /// Further files, where it is an index.
    files: Vec<Url>,
    /// The address that is being read, and whether it is of a file.
    open: Option<(String, bool)>,
}

impl Found {
    fn text(&mut self, text: &str) {
        if let Some((address, _)) = &mut self.open
            && address.len() + text.len() <= MAX_URL_BYTES
        {
            address.push_str(text);
        }
    }

    fn close(&mut self) {
        let Some((address, is_file)) = self.open.take() else { return };
        let address = htmlize::unescape(address.trim());
        let Ok(mut url) = address.parse::<Url>() else { return };
        url.set_fragment(None);
        let (list, most) = match is_file {
            true => (&mut self.files, MAX_FILES),
            false => (&mut self.pages, MAX_PAGES),
        };
        if list.len() < most && url.as_str().len() <= MAX_URL_BYTES {
            list.push(url);
        }
    }
}

/// Takes a file piece by piece.
enum Reader {
    Begin(Sink),
    Plain(Sink),
    Gzip(Box<GzDecoder<Sink>>),
}

impl Reader {
    fn new() -> Self {
        Self::Begin(Sink::new())
    }

    fn write(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        if let Self::Begin(sink) = self {
            let sink = std::mem::replace(sink, Sink::new());
            // What is compressed for the transfer is unpacked by now; this is a file that is.
            *self = match bytes.starts_with(&[0x1f, 0x8b]) {
                true => Self::Gzip(Box::new(GzDecoder::new(sink))),
                false => Self::Plain(sink),
            };
        }
        let written = match self {
            Self::Begin(sink) | Self::Plain(sink) => sink.write_all(bytes),
            Self::Gzip(decoder) => decoder.write_all(bytes),
        };
        // Too long, broken, or more of it than anybody wants: what was read is what there is.
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(self) -> Found {
        let found = match self {
            Self::Begin(sink) | Self::Plain(sink) => sink.found,
            Self::Gzip(decoder) => decoder.get_ref().found.clone(),
        };
        std::mem::take(&mut *lock(&found))
    }
}

/// Parses what is written to it.
struct Sink {
    parser: send::HtmlRewriter<'static, fn(&[u8])>,
    found: Arc<Mutex<Found>>,
    bytes: usize,
}

impl Sink {
    fn new() -> Self {
        let found = Arc::new(Mutex::new(Found::default()));
        let [opened, told, hidden] = [found.clone(), found.clone(), found.clone()];
        let settings = Settings::new_send()
            .with_strict(false)
            .with_memory_settings(
                MemorySettings::new().with_max_allowed_memory_usage(MAX_PARSER_BYTES),
            )
            .append_element_content_handler(element!("sitemap > loc", open(&opened, true)))
            .append_element_content_handler(element!("url > loc", open(&opened, false)))
            .append_element_content_handler(text!("loc", move |chunk| {
                lock(&told).text(chunk.as_str());
                Ok(())
            }))
            // To a parser of HTML a section of CDATA is a comment.
            .append_element_content_handler(comments!("loc", move |comment| {
                let text = comment.text();
                let inner = text.strip_prefix("[CDATA[").and_then(|t| t.strip_suffix("]]"));
                lock(&hidden).text(inner.unwrap_or_default());
                Ok(())
            }));
        Self { parser: HtmlRewriter::new(settings, |_: &[u8]| {}), found, bytes: 0 }
    }
}

fn open(
    found: &Arc<Mutex<Found>>,
    is_file: bool,
) -> impl FnMut(&mut send::Element<'_, '_>) -> lol_html::HandlerResult + Send + 'static {
    let found = found.clone();
    move |element| {
        lock(&found).open = Some((String::new(), is_file));
        let found = found.clone();
        element.on_end_tag(end_tag!(move |_| {
            lock(&found).close();
            Ok(())
        }))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len();
        if self.bytes > MAX_FILE_BYTES || lock(&self.found).pages.len() >= MAX_PAGES {
            return Err(io::Error::other("enough"));
        }
        self.parser.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn read(bytes: &[u8]) -> Found {
        let mut reader = Reader::new();
        for chunk in bytes.chunks(100) {
            if reader.write(chunk).is_break() {
                break;
            }
        }
        reader.end()
    }

    fn zipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn shown(urls: &[Url]) -> Vec<&str> {
        urls.iter().map(Url::as_str).collect()
    }

    const MAP: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
        <urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\"><url>
        <loc> https://example.com/a?b=1&amp;c=2 </loc><lastmod>2026-03-01</lastmod>
        <image:image><image:loc>https://example.com/a.png</image:loc></image:image></url>
        <url><loc><![CDATA[https://example.com/b&c]]></loc></url>
        <url><loc>not an address</loc></url><url><loc/></url>
        <url><loc>https://example.com/caf\u{e9}#top</loc></url></urlset>";

    #[test]
    fn the_pages_of_a_map_are_read_plain_and_gzipped() {
        for file in [MAP.as_bytes().to_vec(), zipped(MAP.as_bytes())] {
            let found = read(&file);
            let expected = [
                "https://example.com/a?b=1&c=2",
                "https://example.com/b&c",
                "https://example.com/caf%C3%A9",
            ];
            assert_eq!((shown(&found.pages), found.files.len()), (expected.to_vec(), 0));
        }
    }

    #[test]
    fn an_index_names_files() {
        let index = "<sitemapindex><sitemap><loc>https://example.com/1.xml.gz</loc></sitemap>
            <sitemap><loc>https://example.com/2.xml</loc></sitemap></sitemapindex>";
        let found = read(index.as_bytes());
        assert_eq!(
            shown(&found.files),
            ["https://example.com/1.xml.gz", "https://example.com/2.xml"]
        );
        assert!(found.pages.is_empty());
    }

    fn maps(named: &[&str], wanted: usize) -> Maps {
        let named: Vec<Url> = named.iter().map(|url| url.parse().unwrap()).collect();
        Maps::new(&"https://example.com/".parse().unwrap(), &named, wanted)
    }

    fn found(at: &str, pages: &[&str], files: &[&str]) -> Found {
        let urls = |urls: &[&str]| urls.iter().map(|url| url.parse().unwrap()).collect();
        Found { at: at.parse().ok(), pages: urls(pages), files: urls(files), open: None }
    }

    #[test]
    fn pages_are_those_of_the_site_and_of_where_its_map_was_each_once_and_no_more_than_wanted() {
        let mut maps = maps(&[], 3);
        assert_eq!(maps.next().unwrap().as_str(), "https://example.com/sitemap.xml");
        let pages = [
            "https://example.com/",
            "https://www.example.com/a",
            "https://example.com/b",
            "https://example.com/b",
            "https://elsewhere.example/",
            "https://example.com/private",
            "https://example.com/c",
            "https://example.com/d",
        ];
        let found = found("https://www.example.com/map", &pages, &["https://example.com/more"]);
        maps.take(found, |url| url.path() != "/private");
        let expected =
            ["https://www.example.com/a", "https://example.com/b", "https://example.com/c"];
        assert_eq!(shown(&maps.pages), expected);
        assert_eq!(maps.next(), None, "there is no place for more");
    }

    #[test]
    fn maps_are_read_until_there_are_ten_and_an_index_of_indexes_ends() {
        let mut maps = maps(&["https://example.com/1", "https://example.com/2"], 9);
        let mut read = 0;
        while let Some(file) = maps.next() {
            read += 1;
            let more = [&*format!("{file}a"), &*format!("{file}b"), &*format!("{file}c")];
            maps.take(found(file.as_str(), &[], &more), |_| true);
        }
        assert_eq!(read, MAX_FILES);
    }

    #[test]
    fn a_map_that_was_named_is_missed_and_one_that_was_guessed_is_not() {
        let file: Url = "https://example.com/sitemap.xml".parse().unwrap();
        let missed = |named: &[&str], is_fatal| {
            let mut maps = maps(named, 9);
            maps.miss(&file, "why", is_fatal);
            maps.miss(&file, "another", false);
            maps.error.unwrap()
        };
        assert_eq!(missed(&[file.as_str()], true), "https://example.com/sitemap.xml: why");
        assert_eq!(missed(&[], false), "https://example.com/sitemap.xml: why");
        assert_eq!(missed(&[], true), "https://example.com/sitemap.xml: another");
    }

    #[test]
    fn whatever_a_map_holds_it_ends() {
        let one = "<url><loc>https://example.com/a</loc></url>";
        assert_eq!(read(one.repeat(20_000).as_bytes()).pages.len(), MAX_PAGES);
        let long = format!("<url><loc>https://example.com/{}</loc></url>{one}", "a".repeat(9000));
        assert_eq!(shown(&read(long.as_bytes()).pages).last(), Some(&"https://example.com/a"));
        let mut bomb = one.as_bytes().to_vec();
        bomb.resize(100 << 20, b' ');
        let bomb = zipped(&bomb);
        let mut reader = Reader::new();
        assert!(reader.write(&bomb).is_break(), "it is not unpacked to its end");
        assert_eq!(reader.end().pages.len(), 1);
        assert!(read(b"\x1f\x8bnonsense").pages.is_empty() && read(b"").pages.is_empty());
    }
}
