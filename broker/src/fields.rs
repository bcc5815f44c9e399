//! The fields of an entry as they stand in a stream: anybody may have written them, and none need be
//! text.

/// Names and values, in their order.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The value of a field; of one that stands there twice, the first.
pub(crate) fn field<'a, B: AsRef<[u8]>>(fields: &'a [(B, B)], name: &str) -> Option<&'a [u8]> {
    let found = fields.iter().find(|(field, _)| field.as_ref() == name.as_bytes());
    found.map(|(_, value)| value.as_ref())
}
