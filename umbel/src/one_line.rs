//! Standard error for logs: what one event says stays one line, whoever chose its words, and the line
//! says which role it is of: the processes of `up` share one standard error, and each of them writes
//! a line in one piece.
//!
//! An error of another program, a name, a host: any of them may hold a line end, and with it what
//! looks like the next line of the log. The formats of `tracing-subscriber` do not see to all of it:
//! its text passes line ends of errors on, its JSON the line ends beyond ASCII.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use tracing_subscriber::fmt::MakeWriter;
use umbel_proto::misleads;

use crate::{
    short_line::{self, LINE_MOST},
    terminal::aside,
};

/// Makes the writer of each event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OneLine {
    /// Whether the format itself writes escape characters.
    pub colours: bool,
    /// Whether the format is JSON.
    pub json: bool,
    /// The role of this process, where it is one.
    pub role: Option<&'static str>,
}

impl OneLine {
    /// The whole line, short enough where others write beside it.
    fn line<'a>(&self, event: &'a str) -> Cow<'a, str> {
        let line = self.labelled(event);
        match self.role {
            Some(_) if line.len() > LINE_MOST => Cow::Owned(match self.json {
                true => {
                    short_line::json(event, LINE_MOST, |event| self.labelled(event).into_owned())
                }
                false => short_line::text(&line, LINE_MOST),
            }),
            _ => line,
        }
    }

    /// Text has the role as its first word, JSON as the field `process`: in `role` events of the
    /// supervisor tell of others.
    fn labelled<'a>(&self, event: &'a str) -> Cow<'a, str> {
        let event = escaped(event, self.colours);
        match (self.role, event.strip_prefix('{')) {
            (None, _) => event,
            (Some(role), Some(fields)) if self.json => {
                Cow::Owned(format!(r#"{{"process":"{role}",{fields}"#))
            }
            (Some(role), _) => Cow::Owned(format!("{role:<10} {event}")),
        }
    }
}

impl<'a> MakeWriter<'a> for OneLine {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// Takes an event at a time, as `tracing-subscriber` writes them.
impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        aside(|| io::stderr().lock().write_all(self.line(&text).as_bytes()))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The event with one line end, its last; the others as JSON writes them, so that an event of JSON
/// stays one.
fn escaped(event: &str, colours: bool) -> Cow<'_, str> {
    let (line, end) = match event.strip_suffix('\n') {
        Some(line) => (line, "\n"),
        None => (event, ""),
    };
    let breaks = |c: char| misleads(c) && !(colours && c == '\u{1b}');
    if !line.contains(breaks) {
        return Cow::Borrowed(event);
    }
    let mut text = String::with_capacity(event.len() + 16);
    for c in line.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            c if breaks(c) => {
                // All of them have four digits at most; a text takes any write.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push_str(end);
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_reads_as_it_was() {
        assert!(matches!(escaped("INFO all is well: ä 漢\n", false), Cow::Borrowed(_)));
        for (event, line) in [
            ("a\nINFO forged\n", "a\\nINFO forged\n"),
            ("a\r\nb\n", "a\\r\\nb\n"),
            ("a\u{1b}[2Jb\tc\0\u{7f}\n", "a\\u001b[2Jb\\u0009c\\u0000\\u007f\n"),
            ("a\u{85}b\u{2028}c\u{2029}d\n", "a\\u0085b\\u2028c\\u2029d\n"),
            ("a\u{202e}b\u{2066}c\n", "a\\u202eb\\u2066c\n"),
        ] {
            assert_eq!(escaped(event, false), line);
        }
        assert_eq!(
            escaped("\u{1b}[32mINFO\u{1b}[0m a\nb\n", true),
            "\u{1b}[32mINFO\u{1b}[0m a\\nb\n"
        );
    }

    #[test]
    fn a_line_says_which_role_it_is_of() {
        let line =
            |json, role, event| OneLine { colours: false, json, role }.line(event).into_owned();
        assert_eq!(line(false, Some("api"), "INFO a\nb\n"), "api        INFO a\\nb\n");
        assert_eq!(line(false, None, "INFO a\n"), "INFO a\n");
        assert_eq!(line(true, None, "{\"a\":1}\n"), "{\"a\":1}\n");
        let event = "{\"level\":\"INFO\"}\n";
        let read: serde_json::Value =
            serde_json::from_str(&line(true, Some("worker"), event)).unwrap();
        assert_eq!(read, serde_json::json!({"process": "worker", "level": "INFO"}));
    }

    #[test]
    fn a_line_among_those_of_others_is_written_in_one_piece() {
        let line = |json, role, event: &str| {
            OneLine { colours: false, json, role }.line(event).into_owned()
        };
        let long = "\u{2028}".repeat(5_000);
        let text = line(false, Some("api"), &format!("ERROR {long}\n"));
        assert!(text.len() <= LINE_MOST && text.ends_with("…\n"), "{}", text.len());
        let event = format!("{}\n", serde_json::json!({ "message": long }));
        let json = line(true, Some("api"), &event);
        assert!(json.len() <= LINE_MOST && json.lines().count() == 1, "{}", json.len());
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        // Alone it may be as long as it likes.
        assert!(line(false, None, &format!("ERROR {long}\n")).len() > LINE_MOST);
    }

    #[test]
    fn an_event_of_json_stays_json() {
        let said = "a\u{2028}b\u{202e}c\u{85}d\\n";
        let event = format!("{}\n", serde_json::json!({ "said": said }));
        let line = escaped(&event, false);
        assert!(line.is_ascii(), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["said"], said);
    }
}
