//! msgpack with bounds: maps with field names, nesting, size and trailing bytes checked.
//!
//! Values are written in their human-readable form (a UUID is text, a time is RFC 3339), so that a
//! payload has the same shape as its JSON and any language reads it with a plain msgpack library.

use std::io::Cursor;

use serde::{Serialize, de::DeserializeOwned};

/// The largest payload or result, encoded. What is larger belongs into a store of its own: Redis
/// keeps every waiting task in memory, and a batch of 64 of these still fits its client buffers.
pub const MAX_BYTES: usize = 256 * 1024;

/// The deepest nesting that is decoded. rmp-serde's own limit of 1,024 overflows a 2 MiB stack in
/// a debug build; nothing that a person writes as arguments nests deeper than this.
pub const MAX_DEPTH: usize = 32;

/// Why bytes could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The encoded value is over [`MAX_BYTES`]; send a reference to it instead.
    #[error("{bytes} bytes encoded; at most {MAX_BYTES} are allowed")]
    TooLarge { bytes: usize },
    /// The value cannot be written as msgpack.
    #[error("cannot be encoded")]
    Encode(#[source] rmp_serde::encode::Error),
    /// The bytes are not such a value, or nest deeper than [`MAX_DEPTH`].
    #[error("cannot be decoded")]
    Decode(#[source] rmp_serde::decode::Error),
    /// A whole value was read and something follows it.
    #[error("{bytes} bytes follow the value")]
    Trailing { bytes: usize },
}

/// Encodes `value` as a map with field names.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut serializer =
        rmp_serde::Serializer::new(Vec::with_capacity(128)).with_struct_map().with_human_readable();
    value.serialize(&mut serializer).map_err(CodecError::Encode)?;
    let bytes = serializer.into_inner();
    check_size(&bytes)?;
    Ok(bytes)
}

/// Decodes a `T` that fills `bytes` to the last one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    check_size(bytes)?;
    let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(bytes)).with_human_readable();
    deserializer.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut deserializer).map_err(CodecError::Decode)?;
    let read = deserializer.get_ref().position() as usize;
    if read < bytes.len() {
        return Err(CodecError::Trailing { bytes: bytes.len() - read });
    }
    Ok(value)
}

fn check_size(bytes: &[u8]) -> Result<(), CodecError> {
    if bytes.len() > MAX_BYTES {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Args {
        id: Uuid,
        note: Option<String>,
    }

    #[test]
    fn a_value_comes_back_and_reads_like_its_json() {
        let args = Args { id: Uuid::nil(), note: Some("ä".into()) };
        let bytes = encode(&args).unwrap();
        assert_eq!(decode::<Args>(&bytes).unwrap(), args);
        assert_eq!(
            decode::<Value>(&bytes).unwrap(),
            json!({"id": "00000000-0000-0000-0000-000000000000", "note": "ä"})
        );
    }

    #[test]
    fn a_nesting_bomb_is_refused_at_the_limit() {
        let nested = |depth: usize| {
            let mut bytes = vec![0x91; depth];
            bytes.push(0xc0);
            bytes
        };
        assert!(decode::<Value>(&nested(MAX_DEPTH - 1)).is_ok());
        assert!(matches!(decode::<Value>(&nested(MAX_DEPTH + 1)), Err(CodecError::Decode(_))));
        assert!(matches!(decode::<Value>(&nested(100_000)), Err(CodecError::Decode(_))));
    }

    #[test]
    fn trailing_bytes_cut_bytes_and_declared_giants_are_refused() {
        let mut bytes = encode(&json!({"a": 1})).unwrap();
        assert!(decode::<Value>(&bytes[..bytes.len() - 1]).is_err());
        bytes.push(0xc0);
        assert!(matches!(decode::<Value>(&bytes), Err(CodecError::Trailing { bytes: 1 })));
        // An array and a binary that claim four giga-elements.
        assert!(decode::<Value>(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(decode::<Value>(&[0xc6, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn a_value_over_the_size_cap_is_refused_both_ways() {
        let large = "x".repeat(MAX_BYTES);
        assert!(matches!(encode(&large), Err(CodecError::TooLarge { .. })));
        let bytes = vec![0xc0; MAX_BYTES + 1];
        assert!(matches!(decode::<Value>(&bytes), Err(CodecError::TooLarge { .. })));
    }
}
