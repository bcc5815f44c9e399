//! Finds the types that a JSON-LD script names, without building the document in memory.

use std::{collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::text::tidy;

/// Pages name a handful; this is for those that want to fill the store.
const MAX_TYPES: usize = 64;
/// The longest name in schema.org, as an address, has about 60.
const MAX_TYPE_BYTES: usize = 128;

/// Adds every value of `@type` in the script, however deep, to `found`.
///
/// A script that is not JSON, or is nested deeper than serde_json reads (128), adds nothing.
pub(super) fn types(script: &str, found: &mut BTreeSet<String>) {
    let mut here = BTreeSet::new();
    let mut json = serde_json::Deserializer::from_str(script);
    let walk = Walk { found: &mut here, naming: false };
    if walk.deserialize(&mut json).and_then(|()| json.end()).is_ok() {
        let room = MAX_TYPES.saturating_sub(found.len());
        let new: Vec<_> =
            here.into_iter().filter(|name| !found.contains(name)).take(room).collect();
        found.extend(new);
    }
}

/// Walks any JSON value and keeps only names of types.
struct Walk<'a> {
    found: &'a mut BTreeSet<String>,
    /// Whether this value stands under `@type`.
    naming: bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Walk { found: self.found, naming: key == "@type" })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(Walk { found: self.found, naming: self.naming })?.is_some() {
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        if self.naming && self.found.len() < MAX_TYPES {
            self.found.extend(tidy(value, MAX_TYPE_BYTES));
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(script: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        types(script, &mut found);
        found.into_iter().collect()
    }

    #[test]
    fn types_are_found_in_graphs_lists_and_nested_things() {
        let script = r#"[
            {"@context": "https://schema.org", "@graph": [
                {"@type": ["WebPage", "FAQPage"], "name": "not a type"},
                {"@type": "Article", "author": {"@type": "Person", "age": 41, "x": null, "y": 1.5}}
            ]},
            {"@type": "Article", "isAccessibleForFree": true}
        ]"#;
        assert_eq!(found(script), ["Article", "FAQPage", "Person", "WebPage"]);
    }

    #[test]
    fn a_broken_script_adds_nothing() {
        assert_eq!(found(r#"{"@type": "Article", "name": "#), [""; 0]);
        assert_eq!(found(r#"{"@type": "Article"} trailing"#), [""; 0]);
        assert_eq!(found(""), [""; 0]);
    }

    #[test]
    fn a_deep_script_ends_in_an_error_and_not_in_the_stack() {
        assert_eq!(found(&"[".repeat(1_000_000)), [""; 0]);
        assert_eq!(found(&r#"{"a":"#.repeat(300_000)), [""; 0]);
    }

    #[test]
    fn the_number_of_types_is_bounded() {
        let many: Vec<String> = (0..1000).map(|n| format!("T{n:04}")).collect();
        let script = serde_json::json!([{ "@type": many }, {"@type": "T9999"}]).to_string();
        assert_eq!(found(&script).len(), MAX_TYPES);
    }
}
