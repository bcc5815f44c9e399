//! Text that others wrote, before the eyes of a person.

/// Whether a character makes a line look like another one, or like two: a control character, a line end
/// beyond ASCII, or what turns the direction of a line.
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_or_turns_a_line_misleads_and_no_letter_does() {
        for misleading in
            ['\0'..='\u{1f}', '\u{7f}'..='\u{9f}', '\u{2028}'..='\u{202e}', '\u{2066}'..='\u{2069}']
        {
            assert_eq!(misleading.clone().find(|c| !misleads(*c)), None, "{misleading:?}");
        }
        for harmless in
            [' '..='~', '\u{a0}'..='\u{2027}', '\u{202f}'..='\u{2065}', '\u{206a}'..=char::MAX]
        {
            assert_eq!(harmless.clone().find(|c| misleads(*c)), None, "{harmless:?}");
        }
    }
}
