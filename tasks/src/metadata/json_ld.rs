//! Reads JSON-LD scripts: the types they name, and the things of a few kinds that they describe.
//! The document itself is never built in memory.

use std::{collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    text::tidy,
    things::{Draft, MAX_THINGS, Thing, keep},
};

/// Pages name a handful; this is for those that want to fill the store.
const MAX_TYPES: usize = 64;
/// The longest name in schema.org, as an address, has about 60.
const MAX_TYPE_BYTES: usize = 128;

/// What the scripts of a page say.
#[derive(Debug, Default)]
pub(super) struct JsonLd {
    /// Every value of `@type`, however deep.
    pub types: BTreeSet<String>,
    pub things: Vec<Thing>,
}

impl JsonLd {
    /// Reads one more script.
    ///
    /// One that is not JSON, or is nested deeper than serde_json reads (128), adds nothing.
    pub fn read(&mut self, script: &str) {
        let mut here = Self::default();
        let mut json = serde_json::Deserializer::from_str(script);
        let walk = Walk { found: &mut here, naming: None };
        if walk.deserialize(&mut json).and_then(|_| json.end()).is_ok() {
            let room = MAX_TYPES.saturating_sub(self.types.len());
            let new: Vec<_> = here
                .types
                .into_iter()
                .filter(|name| !self.types.contains(name))
                .take(room)
                .collect();
            self.types.extend(new);
            here.things.into_iter().for_each(|thing| keep(&mut self.things, thing));
        }
    }
}

/// Walks any JSON value.
///
/// What is held at a time is one draft a level, of which there are 128 at most, and each is
/// bounded.
struct Walk<'a> {
    found: &'a mut JsonLd,
    /// The draft to which this value adds a type, where it stands under `@type`.
    naming: Option<&'a mut Draft>,
}

/// What a value turned out to be, for the thing whose property it is.
enum Value {
    /// A text, or what can be written as one.
    Text(String),
    Thing(Draft),
    Nothing,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut draft = Draft::default();
        while let Some(key) = map.next_key::<String>()? {
            let naming = (key == "@type").then_some(&mut draft);
            let value = map.next_value_seed(Walk { found: self.found, naming })?;
            match value {
                // `{"@value": "Lamp", "@language": "en"}` is a text.
                Value::Text(text) if key == "@value" => draft.says("name", &text),
                Value::Text(text) => draft.says(&key, &text),
                Value::Thing(within) => draft.has(&key, &within),
                Value::Nothing => {}
            }
        }
        if self.found.things.len() < MAX_THINGS
            && let Some(thing) = draft.finish()
        {
            keep(&mut self.found.things, thing);
        }
        Ok(Value::Thing(draft))
    }

    /// Of a list the first value that says anything counts.
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<Value, A::Error> {
        let mut first = Value::Nothing;
        loop {
            let naming = self.naming.as_deref_mut();
            let walk = Walk { found: self.found, naming };
            match values.next_element_seed(walk)? {
                None => return Ok(first),
                Some(value) if matches!(first, Value::Nothing) => first = value,
                Some(_) => {}
            }
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        if let Some(draft) = self.naming {
            draft.is_a(value);
            if self.found.types.len() < MAX_TYPES {
                self.found.types.extend(tidy(value, MAX_TYPE_BYTES));
            }
            return Ok(Value::Nothing);
        }
        // No more than a property may hold: the rest would only be carried about.
        Ok(tidy(value, 512).map_or(Value::Nothing, Value::Text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::things::Kind;

    fn read(script: &str) -> JsonLd {
        let mut found = JsonLd::default();
        found.read(script);
        found
    }

    fn found(script: &str) -> Vec<String> {
        read(script).types.into_iter().collect()
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
    fn organisations_products_and_articles_are_read_with_what_matters_of_them() {
        let things = read(
            r#"{"@context": "https://schema.org", "@graph": [
            {"name": "Lamps Ltd", "url": "https://lamps.example/", "@type": "Organization",
             "logo": {"@type": "ImageObject", "url": "https://lamps.example/logo.png"},
             "telephone": "+44 20 7946 0000", "sameAs": ["https://social.example/lamps"]},
            {"@type": ["Product", "Thing"], "name": "Lamp", "sku": 17, "brand": {"name": "Lux"},
             "image": ["https://lamps.example/1.jpg", "https://lamps.example/2.jpg"],
             "offers": [{"@type": "Offer", "price": "9.50", "priceCurrency": "EUR",
                         "name": "an offer's name is not the product's"}],
             "aggregateRating": {"@type": "AggregateRating", "ratingValue": 4.5}},
            {"@type": "NewsArticle", "headline": "Light\u0000 at\n last", "author": [{"name": "Ada"}],
             "datePublished": "2026-03-01", "publisher": {"@type": "Organization", "name": "Lamps Ltd"}},
            {"@type": "BreadcrumbList", "name": "not kept"}
        ]}"#,
        )
        .things;
        let shown: Vec<_> = things
            .iter()
            .map(|thing| {
                let properties: Vec<_> = thing
                    .properties
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                (thing.kind, thing.name.as_str(), properties.join(" | "))
            })
            .collect();
        let shown: Vec<_> = shown.iter().map(|(k, n, p)| (*k, *n, p.as_str())).collect();
        assert_eq!(
            shown,
            [
                (
                    Kind::Organization,
                    "Organization",
                    "logo=https://lamps.example/logo.png | name=Lamps Ltd | \
                     telephone=+44 20 7946 0000 | url=https://lamps.example/"
                ),
                (
                    Kind::Product,
                    "Product",
                    "brand=Lux | image=https://lamps.example/1.jpg | name=Lamp | price=9.50 | \
                     priceCurrency=EUR | ratingValue=4.5 | sku=17"
                ),
                (Kind::Organization, "Organization", "name=Lamps Ltd"),
                (
                    Kind::Article,
                    "NewsArticle",
                    "author=Ada | datePublished=2026-03-01 | headline=Light at last | \
                     publisher=Lamps Ltd"
                ),
            ]
        );
    }

    #[test]
    fn a_broken_script_adds_nothing() {
        assert_eq!(found(r#"{"@type": "Article", "name": "#), [""; 0]);
        assert_eq!(found(r#"{"@type": "Article"} trailing"#), [""; 0]);
        assert_eq!(found(""), [""; 0]);
        assert_eq!(read(r#"[{"@type": "Article", "name": "a"}, nonsense]"#).things, []);
    }

    #[test]
    fn a_deep_script_ends_in_an_error_and_not_in_the_stack() {
        assert_eq!(found(&"[".repeat(1_000_000)), [""; 0]);
        assert_eq!(found(&r#"{"a":"#.repeat(300_000)), [""; 0]);
        let deep = format!("{}1{}", r#"{"offers":"#.repeat(120), "}".repeat(120));
        assert_eq!(read(&deep).things, [], "and one that is nearly too deep is read");
    }

    #[test]
    fn whatever_a_script_lists_there_is_an_end() {
        let many: Vec<String> = (0..1000).map(|n| format!("T{n:04}")).collect();
        let script = serde_json::json!([{ "@type": many }, {"@type": "T9999"}]).to_string();
        assert_eq!(found(&script).len(), MAX_TYPES);

        let things: Vec<_> = (0..1000)
            .map(|n| serde_json::json!({"@type": "Product", "name": format!("{n}").repeat(5000)}))
            .collect();
        let things = read(&serde_json::json!(things).to_string()).things;
        assert_eq!(things.len(), MAX_THINGS);
        assert!(things.iter().all(|thing| thing.properties["name"].len() <= 512));
    }
}
