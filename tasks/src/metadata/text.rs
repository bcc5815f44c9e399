//! Makes strings of a page fit to keep: references resolved, white space collapsed, length bounded.

/// The text with white space collapsed to single blanks, at most `longest` bytes long, cut between
/// characters; `None` if nothing is left.
///
/// Control characters count as white space: a NUL cannot be stored, and no page shall write
/// escape sequences into a log or a terminal.
pub(super) fn tidy(text: &str, longest: usize) -> Option<String> {
    let mut tidy = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !tidy.is_empty() {
            tidy.push(' ');
        }
        let room = longest.saturating_sub(tidy.len());
        tidy.push_str(&word[..word.floor_char_boundary(room)]);
        if tidy.len() >= longest || room < word.len() {
            break;
        }
    }
    tidy.truncate(tidy.floor_char_boundary(longest));
    tidy.truncate(tidy.trim_end().len());
    (!tidy.is_empty()).then_some(tidy)
}

/// The value of an attribute, its character references resolved.
pub(super) fn attribute(raw: &str) -> String {
    htmlize::unescape_attribute(raw).into_owned()
}

/// Text between tags, its character references resolved.
pub(super) fn content(raw: &str) -> String {
    htmlize::unescape(raw).into_owned()
}

/// Whether a list of words such as `rel` or the content of `robots` has one of them.
pub(super) fn has_word(list: &str, words: &[&str]) -> bool {
    list.split(|c: char| c.is_whitespace() || c == ',')
        .any(|found| words.iter().any(|word| found.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_control_characters_collapse_to_one_blank() {
        assert_eq!(tidy("\n a\u{0}\u{1b}[31m \u{a0}\u{2028} b\t", 99).as_deref(), Some("a [31m b"));
        assert_eq!(tidy(" \n\u{0}", 99), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(tidy("ééé", 5).as_deref(), Some("éé"));
        assert_eq!(tidy("abcd efg", 5).as_deref(), Some("abcd"));
        assert_eq!(tidy("abcd efg", 6).as_deref(), Some("abcd e"));
        assert_eq!(tidy("ab é f", 4).as_deref(), Some("ab"));
        assert_eq!(tidy("€", 2), None);
    }

    #[test]
    fn a_parameter_that_looks_like_a_reference_stays_in_an_attribute() {
        assert_eq!(attribute("?a=1&copy=2&amp;b=3"), "?a=1&copy=2&b=3");
        assert_eq!(content("&copy 2 &eacute;&#x27;"), "© 2 é'");
    }

    #[test]
    fn words_are_found_whole_and_in_any_case() {
        assert!(has_word("noopener NoFollow", &["nofollow"]));
        assert!(has_word("noindex,none", &["nofollow", "none"]));
        assert!(!has_word("nofollowing", &["nofollow"]));
    }
}
