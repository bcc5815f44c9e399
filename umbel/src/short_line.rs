//! Lines that are short enough to be written in one piece: the processes of `up` share a pipe, and what is
//! longer could be torn apart by a line of another.

use serde_json::Value;

/// As much as a pipe takes in one piece (`PIPE_BUF` on Linux).
pub(crate) const LINE_MOST: usize = 4096;

/// In the place of what is left out.
const CUT: &str = "…";

/// A line of text, its end included, cut to `most` bytes.
pub(crate) fn text(line: &str, most: usize) -> String {
    if line.len() <= most {
        return line.to_owned();
    }
    let kept = line.floor_char_boundary(most.saturating_sub(CUT.len() + 1));
    format!("{}{CUT}\n", &line[..kept])
}

/// An event of JSON, of which `line` makes a line: its longest texts are cut until that has at most `most`
/// bytes. An event that is long without a long text stays as it is.
pub(crate) fn json(event: &str, most: usize, line: impl Fn(&str) -> String) -> String {
    let mut made = line(event);
    let Ok(mut fields) = serde_json::from_str::<Value>(event) else { return made };
    while made.len() > most {
        let too_long = made.len() - most;
        let Some(longest) = longest(&mut fields) else { break };
        // Written it may be much longer than it is here: half of it may be enough to lose.
        let kept = longest.len().saturating_sub(too_long + CUT.len()).max(longest.len() / 2);
        let kept = kept.min(longest.len() - CUT.len() - 1);
        longest.truncate(longest.floor_char_boundary(kept));
        longest.push_str(CUT);
        made = line(&format!("{fields}\n"));
    }
    made
}

/// The longest text that can be made shorter.
fn longest(value: &mut Value) -> Option<&mut String> {
    let found = match value {
        Value::String(text) => Some(text),
        Value::Array(items) => items.iter_mut().filter_map(longest).max_by_key(|text| text.len()),
        Value::Object(fields) => {
            fields.values_mut().filter_map(longest).max_by_key(|text| text.len())
        }
        _ => None,
    };
    found.filter(|text| text.len() > CUT.len() + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_keeps_its_end() {
        assert_eq!(text("short\n", 6), "short\n");
        assert_eq!(text("too long\n", 8), "too …\n");
        assert_eq!(text("äääääää\n", 8), "ää…\n");
    }

    #[test]
    fn an_event_loses_of_its_longest_texts_and_stays_an_event() {
        let line =
            |event: &str| format!("{{\"process\":\"api\",{}", event.strip_prefix('{').unwrap());
        let event = json!({
            "message": "\"\n".repeat(3_000),
            "spans": [{"name": "ä".repeat(3_000)}],
            "level": "ERROR",
        });
        let cut = super::json(&format!("{event}\n"), LINE_MOST, line);
        assert!((LINE_MOST / 4..=LINE_MOST).contains(&cut.len()), "{}", cut.len());
        let read: Value = serde_json::from_str(&cut).unwrap();
        assert_eq!((&read["level"], &read["process"]), (&json!("ERROR"), &json!("api")));
        assert!(read["message"].as_str().unwrap().ends_with(CUT), "{cut}");
    }

    #[test]
    fn an_event_of_many_numbers_stays_as_it_is() {
        let event = format!("{}\n", json!({ "numbers": vec![1; 5_000] }));
        assert_eq!(super::json(&event, LINE_MOST, str::to_owned), event);
    }
}
