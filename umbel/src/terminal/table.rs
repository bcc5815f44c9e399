//! Columns and times for people.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use umbel_proto::misleads;

/// No cell is wider: an error can be a page long.
const CELL_WIDEST: usize = 80;

/// Rows under a head, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(str::to_uppercase).to_vec()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| cut(&plain(cell), CELL_WIDEST)).collect());
    }

    /// The table, or what is said where it has no rows.
    pub fn or(&self, nothing: &str) -> String {
        if self.rows.len() == 1 { nothing.to_owned() } else { self.to_string() }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = width(column).unwrap_or_default();
                // What is a number is read from its end.
                let is_number = !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit());
                let _ = match is_number {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What others wrote, on one line: it can neither end it nor move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if misleads(c) { ' ' } else { c }).collect()
}

pub(super) fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

/// `3 s`, `5 min`, `2 h`, `4 d`.
pub(super) fn span(time: TimeDelta) -> String {
    let s = time.num_seconds();
    match s {
        ..1 => format!("{} ms", time.num_milliseconds().max(0)),
        1..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} d", s / 86_400),
    }
}

/// `5 s ago`, `in 2 min`; nothing where there is no time.
pub(super) fn relative(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> String {
    let Some(at) = at else { return String::new() };
    match at - now {
        ahead if ahead > TimeDelta::zero() => format!("in {}", span(ahead)),
        ago => format!("{} ago", span(-ago)),
    }
}

/// A moment for people: to the second, in UTC.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

pub(super) fn number<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// `12.3 MB`
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut count = count as f64;
    let mut unit = 0;
    while count >= 1_000.0 && unit + 1 < UNITS.len() {
        count /= 1_000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{count:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_end_together() {
        let mut table = Table::new(["name", "depth", "error"]);
        table.row(["default".into(), "7".into(), "no\nline".into()]);
        table.row(["a".into(), "1234".into(), String::new()]);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["NAME     DEPTH  ERROR", "default      7  no line", "a         1234"]);
        assert_eq!(Table::new(["a"]).or("none"), "none");
    }

    #[test]
    fn times_are_told_in_one_unit() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(9);
        for (ms, told) in
            [(400, "400 ms"), (61_000, "61 s"), (600_000, "10 min"), (9_000_000, "2 h")]
        {
            let at = TimeDelta::milliseconds(ms);
            assert_eq!(relative(Some(now + at), now), format!("in {told}"));
            assert_eq!(relative(Some(now - at), now), format!("{told} ago"));
        }
        assert_eq!(relative(None, now), "");
        assert_eq!((bytes(999), bytes(12_340_000)), ("999 B".to_owned(), "12.3 MB".to_owned()));
        assert_eq!(cut("abcdef", 4), "abc…");
    }
}
