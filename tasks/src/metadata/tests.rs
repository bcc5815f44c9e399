//! What is read of good, careless, broken and hostile pages.

mod cuts;

use encoding_rs::{GBK, ISO_2022_JP, SHIFT_JIS, UTF_16LE, WINDOWS_1252};

use super::*;

const HOME: &str = "https://example.com/news/page?x=1#top";

const ARTICLE: &str = r##"<!doctype html>
<html lang="de-CH">
<head>
  <meta charset="utf-8">
  <title>
    Caf&eacute; &amp; Bar &#x27;Zum
    Löwen&#39;   </title>
  <meta name="Description" content="Essen &quot;wie&quot; fr&uuml;her">
  <meta name="description" content="the second is not taken">
  <meta property="og:title" content="Caf&eacute;"><meta property="og:title" content="later">
  <meta name="og:type" content="article"><meta property="article:author" content="Ada">
  <meta name="twitter:card" content="summary">
  <meta name="viewport" content="width=device-width">
  <link rel="canonical" href="/news/page">
  <link rel="shortcut icon" href="/favicon.ico"><link rel="stylesheet" href="/s.css">
  <link rel="apple-touch-icon" sizes="180x180" href="https://cdn.example.net/touch.png">
  <script type="application/ld+json">{"@graph": [{"@type": "NewsArticle"}, {"@type": ["Thing"]}]}</script>
  <script>var a = "<a href='/not-a-link'>";</script>
</head>
<body>
  <svg><title>not the title</title></svg>
  <a href="other?a=1&amp;b=2#part">internal</a> <a href="other?a=1&b=2">the same</a>
  <a href="https://EXAMPLE.com:443/news/third">internal</a>
  <a href="#part">here</a> <a href="/news/page?x=1">itself</a>
  <a rel="noopener nofollow" href="/login">internal, not followed</a>
  <a href="//elsewhere.org/">external</a> <a href="http://example.com/">another origin</a>
  <a href="mailto:a@example.com">no page</a> <a href="javascript:void(0)">nor this</a>
  <map><area href="/map"></map>
</body></html>"##;

fn home() -> Url {
    HOME.parse().unwrap()
}

fn read(html: impl AsRef<[u8]>) -> Page {
    read_as(html, None)
}

fn read_as(html: impl AsRef<[u8]>, charset: Option<&'static Encoding>) -> Page {
    let mut reader = MetadataReader::new(&home(), charset);
    let _ = reader.write(html.as_ref());
    reader.end()
}

fn title(html: impl AsRef<[u8]>) -> Option<String> {
    read(html).metadata.title
}

fn addresses(links: &[Url]) -> Vec<&str> {
    links.iter().map(Url::as_str).collect()
}

fn pairs(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn an_article_says_what_it_is() {
    let Page { metadata, links, complete } = read(ARTICLE);

    assert!(complete);
    assert_eq!(metadata.title.as_deref(), Some("Café & Bar 'Zum Löwen'"));
    assert_eq!(metadata.description.as_deref(), Some("Essen \"wie\" früher"));
    assert_eq!(metadata.canonical.unwrap().as_str(), "https://example.com/news/page");
    assert_eq!(metadata.language.as_deref(), Some("de-CH"));
    assert_eq!(
        pairs(&metadata.open_graph),
        [("article:author", "Ada"), ("og:title", "Café"), ("og:type", "article")]
    );
    assert_eq!(pairs(&metadata.twitter), [("twitter:card", "summary")]);
    assert_eq!(metadata.json_ld_types, ["NewsArticle", "Thing"]);
    assert_eq!(metadata.robots, None);
    assert_eq!(metadata.link_counts, LinkCounts { internal: 6, external: 2, nofollow: 1 });

    let icons: Vec<_> = metadata
        .icons
        .iter()
        .map(|icon| (icon.rel.as_str(), icon.href.as_str(), icon.sizes.as_deref()))
        .collect();
    assert_eq!(
        icons,
        [
            ("shortcut icon", "https://example.com/favicon.ico", None),
            ("apple-touch-icon", "https://cdn.example.net/touch.png", Some("180x180")),
        ]
    );
    assert_eq!(
        addresses(&links),
        [
            "https://example.com/news/other?a=1&b=2",
            "https://example.com/news/third",
            "https://example.com/map",
        ]
    );
}

#[test]
fn a_page_says_who_made_it_who_is_behind_it_and_where_else_it_is() {
    let html = r#"<html><head><meta name="Generator" content="Hugo 0.140"><title>Lamps</title>
        <link rel="alternate" type="application/rss+xml" title="News" href="/feed.xml">
        <link rel="alternate" type="Application/Atom+XML" href="https://feeds.example/lamps">
        <link rel="alternate" hreflang="de-CH" href="/de/"><link rel="alternate" hreflang="x-default" href="/">
        <link rel="alternate stylesheet" href="/dark.css">
        <script type="application/ld+json">{"@type": "Organization", "name": "Lamps Ltd"}</script>
        </head><body>
        <p>We have been making lamps of brass and glass in the same small workshop for more than
           a hundred years, and we would be glad to show you how they are made.</p>
        <a href="mailto:Info@Lamps.EXAMPLE?subject=hello">mail</a> <a href="MAILTO:info@lamps.example">again</a>
        <a href="tel:+41-44-000-00-00">call</a> <a href="javascript:void(0)">no contact</a>
        <a href="https://www.linkedin.com/company/lamps">in</a>
        <a href="https://twitter.com/intent/tweet?text=lamps">share</a></body></html>"#;
    let metadata = read(html).metadata;
    assert_eq!(metadata.generator.as_deref(), Some("Hugo 0.140"));
    assert_eq!((metadata.language, metadata.language_guess.as_deref()), (None, Some("eng")));
    assert_eq!(metadata.charset.as_deref(), Some("UTF-8"));
    let feeds: Vec<_> = metadata
        .feeds
        .iter()
        .map(|feed| (feed.href.as_str(), feed.kind.as_str(), feed.title.as_deref()))
        .collect();
    assert_eq!(
        feeds,
        [
            ("https://example.com/feed.xml", "application/rss+xml", Some("News")),
            ("https://feeds.example/lamps", "application/atom+xml", None),
        ]
    );
    let alternates: Vec<_> =
        metadata.alternates.iter().map(|a| (a.language.as_str(), a.href.as_str())).collect();
    let expected = [("de-CH", "https://example.com/de/"), ("x-default", "https://example.com/")];
    assert_eq!(alternates, expected);
    assert_eq!(metadata.things[0].properties["name"], "Lamps Ltd");
    let Contacts { emails, phones, social } = metadata.contacts;
    assert_eq!(emails, ["Info@lamps.example", "info@lamps.example"]);
    assert_eq!(phones, ["+41-44-000-00-00"]);
    assert_eq!(addresses(&social), ["https://www.linkedin.com/company/lamps"]);
}

#[test]
fn microdata_tells_of_things_too() {
    let html = r#"<body itemscope itemtype="https://schema.org/WebPage">
        <div itemscope itemtype="http://schema.org/Product">
          <h1 itemprop="name">Caf&eacute; <b>lamp</b></h1><meta itemprop="sku" content="17">
          <a itemprop="url" href="/lamp">more</a>
          <div itemprop="brand" itemscope itemtype="http://schema.org/Brand">
            <span itemprop="name">Lux</span></div>
          <div itemprop="offers" itemscope itemtype="http://schema.org/Offer">
            <span itemprop="price">9.50</span><meta itemprop="priceCurrency" content="EUR"></div>
          <p itemprop="description">Never closed
        </div>
        <article itemscope itemtype="https://schema.org/BlogPosting">
          <h2 itemprop="headline">Light</h2><time itemprop="datePublished" datetime="2026-03-01">March</time>
        </article></body>"#;
    let metadata = read(html).metadata;
    let types = [
        "http://schema.org/Brand",
        "http://schema.org/Offer",
        "http://schema.org/Product",
        "https://schema.org/BlogPosting",
        "https://schema.org/WebPage",
    ];
    assert_eq!(metadata.microdata_types, types);
    let [product, article] = &metadata.things[..] else { panic!("{:?}", metadata.things) };
    let expected = [
        ("brand", "Lux"),
        ("description", "Never closed"),
        ("name", "Café lamp"),
        ("price", "9.50"),
        ("priceCurrency", "EUR"),
        ("sku", "17"),
        ("url", "https://example.com/lamp"),
    ];
    assert_eq!((product.kind, pairs(&product.properties)), (Kind::Product, expected.to_vec()));
    let expected = [("datePublished", "2026-03-01"), ("headline", "Light")];
    assert_eq!((article.kind, pairs(&article.properties)), (Kind::Article, expected.to_vec()));
}

#[test]
fn what_a_page_lists_of_itself_has_an_end() {
    let mut html = String::new();
    for n in 0..500 {
        html += &format!(
            "<link rel=alternate type=application/rss+xml href=/{n}><link rel=alternate \
             hreflang=l{n} href=/{n}><a href=mailto:a{n}@example.com></a><a href=tel:{n}000></a>\
             <a href=https://x.com/u{n}></a><div itemscope itemtype='http://schema.org/Product t{n}'>\
             <span itemprop=name>"
        );
        html += &"long ".repeat(300);
    }
    let Page { metadata, complete, .. } = read(html);
    assert!(complete);
    assert_eq!((metadata.feeds.len(), metadata.alternates.len()), (8, 64));
    let Contacts { emails, phones, social } = &metadata.contacts;
    assert_eq!((emails.len(), phones.len(), social.len()), (16, 16, 16));
    assert!(metadata.microdata_types.len() <= 32 && metadata.things.len() <= 16);
    let kept = serde_json::to_string(&metadata).unwrap().len();
    assert!(kept < 64 * 1024, "{kept} bytes");
}

#[test]
fn metadata_survives_json() {
    let metadata = read(ARTICLE).metadata;
    let json = serde_json::to_string(&metadata).unwrap();
    assert_eq!(serde_json::from_str::<PageMetadata>(&json).unwrap(), metadata);
    assert_eq!(serde_json::from_str::<PageMetadata>("{}").unwrap(), PageMetadata::default());
}

#[test]
fn a_page_without_a_head_tag_has_a_title_and_a_page_without_a_title_has_none() {
    assert_eq!(title("<!doctype html><title>plain</title><p>text").as_deref(), Some("plain"));
    assert_eq!(title("<body><title>not in the head</title>"), None);
    assert_eq!(title("<svg><title>a drawing</title></svg><p>text"), None);
    assert_eq!(title("<title> \n </title><title>the second does not count</title>"), None);
    assert_eq!(title(""), None);
}

#[test]
fn a_title_does_not_take_the_text_of_others() {
    for others in [
        "<title>other</title>",
        "<svg><title>drawing</title></svg>",
        "<svg><script type='application/ld+json'>{}</script></svg>",
        "<textarea>typed</textarea>",
    ] {
        assert_eq!(title(format!("<title>mine</title>{others}")).as_deref(), Some("mine"));
    }
    assert_eq!(title("<svg><desc><title>of a drawing</title></desc></svg>"), None);
}

#[test]
fn a_base_moves_relative_addresses_but_not_the_origin() {
    let page = read(
        "<base target=_blank><base href='/docs/'><base href='/second/'>\
         <link rel=canonical href=here><a href=a>internal</a>",
    );
    assert_eq!(page.metadata.canonical.unwrap().as_str(), "https://example.com/docs/here");
    assert_eq!(addresses(&page.links), ["https://example.com/docs/a"]);

    let page = read(
        "<base href='https://cdn.example.net/x/'><a href=a>external</a><a href='https://example.com/b'>",
    );
    assert_eq!(page.metadata.link_counts, LinkCounts { internal: 1, external: 1, nofollow: 0 });
    assert_eq!(addresses(&page.links), ["https://example.com/b"]);

    let page = read("<base href='javascript:alert(1)'><a href=a>");
    assert_eq!(addresses(&page.links), ["https://example.com/news/a"]);
}

#[test]
fn a_page_that_asks_not_to_be_followed_gives_no_links_but_counts_them() {
    for robots in ["noindex, NOFOLLOW", "none", "index,nofollow"] {
        let page = read(format!("<a href=/a><meta name=ROBOTS content='{robots}'><a href=/b>"));
        assert_eq!(page.metadata.robots.as_deref(), Some(robots));
        assert_eq!(page.metadata.link_counts.internal, 2);
        assert_eq!(page.links, []);
    }
    assert_eq!(read("<meta name=robots content='noindex'><a href=/b>").links.len(), 1);
}

#[test]
fn a_link_that_bears_a_password_is_not_followed() {
    assert_eq!(
        read("<a href='https://ada:secret@example.com/a'><a href='//ada@example.com/'>").links,
        []
    );
}

#[test]
fn every_list_and_text_has_an_end() {
    let long = "ä".repeat(100_000);
    let mut html = format!(
        "<html lang='{long}'><title>{long}</title><meta name=description content='{long}'>\
         <meta name=robots content='{long}'><link rel=canonical href='/{long}'>"
    );
    for n in 0..2000 {
        html += &format!(
            "<meta property='og:{n}' content='{long:.2000}'><meta name='twitter:{n}' content=x>\
             <link rel=icon sizes='{long:.200}' href='/{n}'><a href='/{n}'></a>"
        );
    }
    html += &format!("<a href='/{long}'></a><meta property='og:{long}' content=x>");
    let Page { metadata, links, complete } = read(html);

    assert!(complete);
    assert_eq!(metadata.title.unwrap(), "ä".repeat(256));
    assert_eq!(metadata.description.unwrap(), "ä".repeat(1024));
    assert_eq!(metadata.language.unwrap(), "ä".repeat(17));
    assert_eq!(metadata.robots.unwrap(), "ä".repeat(128));
    assert_eq!(metadata.canonical, None);
    assert_eq!(metadata.open_graph.len(), 32);
    assert_eq!(metadata.open_graph["og:0"], "ä".repeat(512));
    assert_eq!(metadata.twitter.len(), 32);
    assert_eq!(metadata.icons.len(), 16);
    assert_eq!(metadata.icons[0].sizes.as_deref(), Some("ä".repeat(32).as_str()));
    assert_eq!(metadata.link_counts.internal, 2000);
    assert_eq!(links.len(), 500);
}

#[test]
fn a_script_too_long_to_keep_is_left_out() {
    let script = |padding: usize| {
        format!(
            "<script type='application/ld+json'>{{\"@type\": \"Long\", \"x\": \"{}\"}}</script>\
             <script type='application/LD+JSON; charset=utf-8'>{{\"@type\": \"Short\"}}</script>",
            "x".repeat(padding)
        )
    };
    assert_eq!(read(script(1000)).metadata.json_ld_types, ["Long", "Short"]);
    assert_eq!(read(script(300_000)).metadata.json_ld_types, ["Short"]);
}

#[test]
fn a_header_charset_is_believed() {
    let html =
        b"<meta charset=utf-8><title>caf\xe9 \x80</title><meta name=description content='\xfc'>";
    let metadata = read_as(html, Some(WINDOWS_1252)).metadata;
    assert_eq!(metadata.title.as_deref(), Some("café €"));
    assert_eq!(metadata.description.as_deref(), Some("ü"));
}

#[test]
fn a_declared_charset_counts_even_for_a_title_before_it() {
    assert_eq!(title(b"<title>caf\xe9</title><meta charset=iso-8859-1>").as_deref(), Some("café"));
    let html = b"<title>\xd6\xd0</title><meta http-equiv=Content-Type content='text/html; charset=gb2312'>";
    assert_eq!(title(html).as_deref(), Some("中"));
    assert_eq!(
        title(GBK.encode("<meta charset=gbk><title>中文</title>").0).as_deref(),
        Some("中文")
    );
}

#[test]
fn a_byte_order_mark_overrules_the_header() {
    let html = b"\xef\xbb\xbf<title>caf\xc3\xa9</title>";
    assert_eq!(read_as(html, Some(WINDOWS_1252)).metadata.title.as_deref(), Some("café"));

    let wide: Vec<u8> =
        "\u{feff}<title>café</title>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(title(&wide).as_deref(), Some("café"));
    assert_eq!(read_as(&wide[2..], Some(UTF_16LE)).metadata.title.as_deref(), Some("café"));
}

#[test]
fn charsets_that_share_bytes_with_markup_are_read() {
    for charset in [SHIFT_JIS, ISO_2022_JP] {
        let bytes = charset.encode("<title>表示ソ</title>").0;
        assert_eq!(read_as(bytes, Some(charset)).metadata.title.as_deref(), Some("表示ソ"));
    }
}

#[test]
fn without_any_declaration_a_page_is_utf_8_and_bad_bytes_show() {
    assert_eq!(title("<title>café</title>").as_deref(), Some("café"));
    assert_eq!(title(b"<title>caf\xe9</title>").as_deref(), Some("caf\u{fffd}"));
    assert_eq!(title("<meta charset=klingon><title>café</title>").as_deref(), Some("café"));
}

#[test]
fn broken_pages_give_what_can_be_read() {
    assert_eq!(title("<html><head><title>never closed").as_deref(), Some("never closed"));
    assert_eq!(title("<title>a</title").as_deref(), Some("a</title"));
    assert_eq!(title("<<<title>b</title>>").as_deref(), Some("b"));
    assert_eq!(title("<!--<title>c</title>"), None);
    assert_eq!(read("<a href='/open").links, []);
    assert_eq!(addresses(&read("<a href=/a<a href=/b>").links), ["https://example.com/a%3Ca"]);
    assert_eq!(
        read("<script type=application/ld+json>{\"@type\":\"Cut").metadata.json_ld_types,
        [""; 0]
    );
    assert_eq!(read("<a href='http://['><a href='http://a b/'><a href='https://:0/'>").links, []);
}

#[test]
fn ten_thousand_nested_elements_are_read() {
    let page = read(format!("<title>deep</title>{}<a href=/a>", "<div>".repeat(10_000)));
    assert!(page.complete);
    assert_eq!(page.metadata.title.as_deref(), Some("deep"));
    assert_eq!(page.links.len(), 1);
}

#[test]
fn a_page_that_takes_too_much_memory_keeps_what_came_before() {
    let start = "<title>greedy</title><a href=/before>";
    let nested = format!("{start}{}<a href=/after>", "<div>".repeat(200_000));
    let huge = format!("{start}<a title='{}' href=/in><a href=/after>", "x".repeat(4 << 20));
    for html in [nested, huge] {
        let mut reader = MetadataReader::new(&home(), None);
        assert!(reader.write(html.as_bytes()).is_break());
        assert!(reader.write(b"<a href=/later>").is_break());
        let page = reader.end();
        assert!(!page.complete);
        assert_eq!(page.metadata.title.as_deref(), Some("greedy"));
        assert_eq!(addresses(&page.links), ["https://example.com/before"]);
    }
}

#[test]
fn a_large_picture_in_the_page_takes_no_memory() {
    let picture = format!("<img src='data:image/png;base64,{}'>", "A".repeat(8 << 20));
    let page = read(format!("<title>a</title>{picture}<a href=/after>"));
    assert!(page.complete);
    assert_eq!(page.links.len(), 1);
}
