//! An application's own settings, from the environment.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc, time::Duration};

use crate::SettingsError;

/// The environment as it was at start; tests make their own.
#[derive(Clone, Default)]
pub struct Env(Arc<HashMap<String, String>>);

impl Env {
    /// The environment of this process; variables that are not text are left out.
    pub fn of_process() -> Self {
        let text = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self(Arc::new(text.collect()))
    }

    /// The names of all variables that are set to something.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str())
    }

    /// The text of a setting; an empty one counts as not given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A setting parsed, or `default` where it is not given.
    pub fn parse_or<T: FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, SettingsError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|error| SettingsError(format!("{name}: {error}"))),
        }
    }

    /// A duration like `500ms`, `30s`, `5m`, `2h`, or `default` where it is not given.
    pub fn duration_or(&self, name: &str, default: Duration) -> Result<Duration, SettingsError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => duration(text).map_err(|error| SettingsError(format!("{name}: {error}"))),
        }
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(Arc::new(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Env({} variables)", self.0.len())
    }
}

/// Reads a number with one of the units `ms s m h d`.
pub(crate) fn duration(text: &str) -> Result<Duration, SettingsError> {
    let wrong =
        || SettingsError(format!("`{text}` is no duration: write 500ms, 30s, 5m, 2h or 7d"));
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().map_err(|_| wrong())?;
    let factor = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong)
}

/// Writes a duration as [`duration`] reads it, to the millisecond.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, expected) in [
            ("500ms", Duration::from_millis(500)),
            ("0s", Duration::ZERO),
            ("5m", Duration::from_secs(300)),
            ("2h", Duration::from_secs(7_200)),
            ("7d", Duration::from_secs(604_800)),
        ] {
            assert_eq!(duration(text), Ok(expected));
            assert_eq!(duration(&milliseconds(expected)), Ok(expected));
        }
        for wrong in [
            "",
            "5",
            "s",
            "5 m",
            "-5s",
            "5min",
            "1e3s",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong:?} must be refused");
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let env = Env::from_iter([("SWEEP_EVERY", "soon"), ("PAGES", "many"), ("EMPTY", "")]);
        let error = env.duration_or("SWEEP_EVERY", Duration::ZERO).unwrap_err();
        assert!(error.to_string().starts_with("SWEEP_EVERY: `soon`"), "{error}");
        assert!(env.parse_or("PAGES", 1).unwrap_err().to_string().starts_with("PAGES: "));
        assert_eq!(env.parse_or("EMPTY", 7), Ok(7));
        assert_eq!(env.get("EMPTY"), None);
    }
}
