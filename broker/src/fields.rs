//! The fields of an entry as they stand in a stream: anybody may have written them, and none need be
//! text.

use redis::Value;

/// Names and values, in their order.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The value of a field; of one that stands there twice, the first.
pub(crate) fn field<'a>(fields: &'a [(Vec<u8>, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|(field, _)| field == name.as_bytes()).map(|(_, value)| value.as_slice())
}

/// Key → entries, each with its id and fields.
pub(crate) type Streams = Vec<(String, Vec<(String, Fields)>)>;

/// What a read of streams was answered with; `None` where it is no such answer. Taken apart by hand:
/// the conversions of the library cost an eighth of all that a worker does for a task.
pub(crate) fn streams(answer: Value) -> Option<Streams> {
    match answer {
        Value::Nil => Some(Vec::new()),
        Value::Array(streams) => streams.into_iter().map(|pair| stream(two(pair)?)).collect(),
        Value::Map(streams) => streams.into_iter().map(|(key, all)| stream([key, all])).collect(),
        _ => None,
    }
}

fn stream([key, entries]: [Value; 2]) -> Option<(String, Vec<(String, Fields)>)> {
    let Value::Array(entries) = entries else { return None };
    Some((text(key)?, entries.into_iter().map(|pair| entry(two(pair)?)).collect::<Option<_>>()?))
}

fn entry([id, fields]: [Value; 2]) -> Option<(String, Fields)> {
    let fields = match fields {
        Value::Array(flat) => {
            let mut flat = flat.into_iter();
            let mut fields = Vec::with_capacity(flat.len() / 2);
            while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
                fields.push((bytes(name)?, bytes(value)?));
            }
            fields
        }
        // Deleted while it was pending.
        Value::Nil => Vec::new(),
        _ => return None,
    };
    Some((text(id)?, fields))
}

fn two(pair: Value) -> Option<[Value; 2]> {
    let Value::Array(pair) = pair else { return None };
    pair.try_into().ok()
}

fn text(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn array(values: impl Into<Vec<Value>>) -> Value {
        Value::Array(values.into())
    }

    #[test]
    fn a_read_is_taken_apart_in_both_protocols() {
        let entries = || array([array([bulk("1-0"), array([bulk("id"), bulk("a")])])]);
        let fields = vec![(b"id".to_vec(), b"a".to_vec())];
        let expected = vec![("key".to_owned(), vec![("1-0".to_owned(), fields)])];
        assert_eq!(streams(array([array([bulk("key"), entries()])])), Some(expected.clone()));
        assert_eq!(streams(Value::Map(vec![(bulk("key"), entries())])), Some(expected));
        assert_eq!(streams(Value::Nil), Some(Vec::new()));
    }

    #[test]
    fn what_is_no_read_is_not_taken_for_one() {
        let odd = [
            Value::Int(1),
            array([bulk("key")]),
            array([array([bulk("key"), array([bulk("1-0")])])]),
            array([array([bulk("key"), array([array([bulk("1-0"), Value::Int(1)])])])]),
        ];
        for answer in odd {
            assert_eq!(streams(answer.clone()), None, "{answer:?}");
        }
    }
}
