//! What an application's tasks are called and what they take, for those who enqueue from outside.

use std::collections::BTreeMap;

use schemars::Schema;
use serde_json::Value;

use crate::{CodecError, Task, TaskName, TaskOptions, codec, envelope::ARGS_LARGEST};

/// The tasks of an application by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    entries: BTreeMap<TaskName, CatalogEntry>,
}

/// One task: how it wishes to be treated, and the shapes of its arguments and output.
#[derive(Debug, Clone)]
pub struct CatalogEntry {
    pub name: TaskName,
    pub options: TaskOptions,
    pub args_schema: Schema,
    pub output_schema: Schema,
    accept: fn(Value) -> Result<Vec<u8>, ArgsError>,
}

/// Why a JSON value is not the arguments of a task.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// A field is missing or of the wrong kind. `field` is a path like `links[2].url`; it is empty
    /// where the value as a whole is wrong.
    #[error("{reason}")]
    Field { field: String, reason: String },
    /// The arguments are over [`ARGS_LARGEST`]; send a reference to what is large instead.
    #[error("the arguments have {bytes} bytes when encoded; at most {ARGS_LARGEST} are allowed")]
    TooLarge { bytes: usize },
    /// The arguments cannot be encoded.
    #[error("the arguments cannot be sent")]
    Codec(#[source] CodecError),
}

impl Catalog {
    /// Adds an entry; one of the same name is given back.
    pub fn insert(&mut self, entry: CatalogEntry) -> Option<CatalogEntry> {
        self.entries.insert(entry.name.clone(), entry)
    }

    pub fn get(&self, name: &str) -> Option<&CatalogEntry> {
        self.entries.get(&name.parse::<TaskName>().ok()?)
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.entries.values()
    }
}

impl CatalogEntry {
    /// The entry of a task type under a name that was checked.
    pub fn of<T: Task>(name: TaskName) -> Self {
        Self {
            name,
            options: T::OPTIONS,
            args_schema: schemars::schema_for!(T),
            output_schema: schemars::schema_for!(T::Output),
            accept: accept::<T>,
        }
    }

    /// Reads JSON as the typed arguments and encodes them for the wire.
    pub fn accept(&self, args: Value) -> Result<Vec<u8>, ArgsError> {
        (self.accept)(args)
    }
}

fn accept<T: Task>(args: Value) -> Result<Vec<u8>, ArgsError> {
    let typed: T = serde_path_to_error::deserialize(args).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.inner().to_string();
        ArgsError::Field { field: field(&path, &reason), reason }
    })?;
    match codec::encode(&typed) {
        Ok(encoded) if encoded.len() > ARGS_LARGEST => {
            Err(ArgsError::TooLarge { bytes: encoded.len() })
        }
        Ok(encoded) => Ok(encoded),
        Err(CodecError::TooLarge { bytes }) => Err(ArgsError::TooLarge { bytes }),
        Err(error) => Err(ArgsError::Codec(error)),
    }
}

/// serde tells where it stood, which for an absent or unknown field is its parent.
fn field(path: &str, reason: &str) -> String {
    let parent = if path == "." { "" } else { path };
    let own = ["missing field `", "unknown field `"]
        .iter()
        .find_map(|start| reason.strip_prefix(start)?.split('`').next())
        .unwrap_or("");
    match (parent, own) {
        (parent, "") => parent.to_owned(),
        ("", own) => own.to_owned(),
        // Where the path already ends in the field, it is not said twice.
        (parent, own) if parent == own || parent.ends_with(&format!(".{own}")) => parent.to_owned(),
        (parent, own) => format!("{parent}.{own}"),
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Link {
        depth: u32,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Visit {
        site: String,
        links: Vec<Link>,
    }

    impl Task for Visit {
        const NAME: &'static str = "visit";
        type Output = ();
    }

    fn refused(args: Value) -> (String, String) {
        let entry = CatalogEntry::of::<Visit>(Visit::NAME.parse().unwrap());
        match entry.accept(args).unwrap_err() {
            ArgsError::Field { field, reason } => (field, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn good_arguments_are_encoded_as_the_typed_task() {
        let entry = CatalogEntry::of::<Visit>(Visit::NAME.parse().unwrap());
        let args = json!({"site": "a", "links": [{"depth": 1}]});
        let bytes = entry.accept(args.clone()).unwrap();
        assert_eq!(codec::decode::<Value>(&bytes).unwrap(), args);
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        assert_eq!(refused(json!({"links": []})).0, "site");
        assert_eq!(refused(json!({"site": 7, "links": []})).0, "site");
        assert_eq!(
            refused(json!({"site": "a", "links": [{"depth": 1}, {"depth": -1}]})).0,
            "links[1].depth"
        );
        assert_eq!(refused(json!({"site": "a", "links": [{}]})).0, "links[0].depth");
        assert_eq!(refused(json!({"site": "a", "links": [], "more": 1})).0, "more");
        assert_eq!(refused(json!([])).0, "");
    }

    #[test]
    fn arguments_over_the_size_cap_are_refused_before_they_are_sent() {
        let entry = CatalogEntry::of::<Visit>(Visit::NAME.parse().unwrap());
        let around =
            entry.accept(json!({"site": "x".repeat(70_000), "links": []})).unwrap().len() - 70_000;
        for (bytes, fits) in
            [(ARGS_LARGEST, true), (ARGS_LARGEST + 1, false), (codec::MAX_BYTES + around, false)]
        {
            let answer = entry.accept(json!({"site": "x".repeat(bytes - around), "links": []}));
            match answer {
                Ok(encoded) => assert!(fits && encoded.len() == bytes),
                Err(ArgsError::TooLarge { bytes: told }) => assert!(!fits && told == bytes),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}
