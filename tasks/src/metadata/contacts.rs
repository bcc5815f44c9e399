//! How to reach who is behind a page: addresses of mail, numbers of telephones, places elsewhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::text::tidy;

/// More than the pages of an imprint have; a list of all staff is no contact.
const MAX_OF_A_KIND: usize = 16;
/// The longest address of mail that is allowed to exist.
const MAX_EMAIL_BYTES: usize = 254;
/// Fifteen digits is the longest number there is, with room for signs and an extension.
const MAX_PHONE_BYTES: usize = 40;

/// How to reach who is behind a page, each once, in the order of the page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Contacts {
    /// From `mailto:` links, the part after the `@` in lower case.
    pub emails: Vec<String>,
    /// From `tel:` links, as written.
    pub phones: Vec<String>,
    /// Links to profiles and channels in the large networks.
    pub social: Vec<Url>,
}

/// The networks, by what their hosts end with.
const NETWORKS: [&str; 17] = [
    "bsky.app",
    "discord.com",
    "discord.gg",
    "facebook.com",
    "github.com",
    "gitlab.com",
    "instagram.com",
    "linkedin.com",
    "mastodon.social",
    "pinterest.com",
    "reddit.com",
    "t.me",
    "threads.net",
    "tiktok.com",
    "twitter.com",
    "x.com",
    "youtube.com",
];

/// Paths that share the page itself instead of naming somebody.
const SHARING: [&str; 6] =
    ["/sharer", "/share", "/intent/", "/sharearticle", "/submit", "/pin/create"];

impl Contacts {
    /// Takes the address of a link that is neither `http` nor `https`.
    pub fn link(&mut self, href: &str) {
        let href = href.trim();
        let Some((scheme, rest)) = href.split_once(':') else { return };
        let rest = rest.split('?').next().unwrap_or_default();
        match scheme.to_ascii_lowercase().as_str() {
            "mailto" => rest.split(',').filter_map(email).for_each(|it| add(&mut self.emails, it)),
            "tel" => phone(rest).into_iter().for_each(|number| add(&mut self.phones, number)),
            _ => {}
        }
    }

    /// Takes the address of a link to elsewhere.
    pub fn elsewhere(&mut self, url: &Url) {
        if is_profile(url) {
            add(&mut self.social, url.clone());
        }
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, new: T) {
    if list.len() < MAX_OF_A_KIND && !list.contains(&new) {
        list.push(new);
    }
}

/// An address of mail, if the text is one; `%40` and the like resolved.
fn email(text: &str) -> Option<String> {
    let text = decoded(text)?;
    let (name, host) = text.rsplit_once('@')?;
    let good = |part: &str| {
        !part.is_empty()
            && !part.contains(|c: char| {
                c.is_whitespace() || c.is_control() || "<>()[],;:\\\"@".contains(c)
            })
    };
    let whole = format!("{name}@{}", host.to_lowercase());
    (good(name) && good(host) && host.contains('.') && whole.len() <= MAX_EMAIL_BYTES)
        .then_some(whole)
}

/// A number of a telephone, if the text has one.
fn phone(text: &str) -> Option<String> {
    let text = tidy(&decoded(text)?, MAX_PHONE_BYTES + 1)?;
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let good = text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.()/;=* #".contains(c));
    (good && (3..=20).contains(&digits) && text.len() <= MAX_PHONE_BYTES).then_some(text)
}

/// The text with `%xx` resolved; `None` where that is no text.
fn decoded(text: &str) -> Option<String> {
    let (bytes, mut plain) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).ok()
}

fn is_profile(url: &Url) -> bool {
    let Some(host) = url.domain() else { return false };
    let host = host.strip_prefix("www.").unwrap_or(host);
    let network = NETWORKS.iter().any(|network| {
        host.strip_suffix(network).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    let path = url.path().to_ascii_lowercase();
    network && path.len() > 1 && !SHARING.iter().any(|sharing| path.starts_with(sharing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_written_to_is_an_address() {
        assert_eq!(email("Ada@Example.COM").as_deref(), Some("Ada@example.com"));
        assert_eq!(email("ada%40example.com").as_deref(), Some("ada@example.com"));
        let long = format!("{}@example.com", "a".repeat(250));
        for wrong in ["", "ada", "@example.com", "ada@", "ada@host", "a b@c.d", "<a@b.c>", &long] {
            assert_eq!(email(wrong), None, "{wrong}");
        }
        for wrong in ["a%00@b.c", "a@b%00.c", "a%1b[31m@b.c", "a@b.c%7f", "a%FF@b.c"] {
            assert_eq!(email(wrong), None, "{wrong}: nothing can store or show it");
        }
    }

    #[test]
    fn only_what_can_be_dialled_is_a_number() {
        assert_eq!(phone("+41%2044 000 00 00").as_deref(), Some("+41 44 000 00 00"));
        assert_eq!(phone("117").as_deref(), Some("117"));
        for wrong in ["", "call us", "+", "<b>123</b>", &"1".repeat(41)] {
            assert_eq!(phone(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_profile_is_somebodys_and_not_a_button_that_shares_the_page() {
        let is = |url: &str| is_profile(&url.parse().unwrap());
        assert!(is("https://www.linkedin.com/company/lamps"));
        assert!(is("https://x.com/lamps") && is("https://de-de.facebook.com/lamps"));
        assert!(!is("https://netflix.com/lamps"), "another host that ends alike");
        assert!(!is("https://x.com/") && !is("https://x.com/intent/tweet?text=a"));
        assert!(!is("https://www.facebook.com/sharer/sharer.php?u=a"));
    }
}
