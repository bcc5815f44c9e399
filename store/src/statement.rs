//! Fixed SQL text and its parameters become one self-contained statement.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::StoreError;

/// Where the parameters go.
const PLACEHOLDER: &str = "{params}";

/// Sixteen times the largest result a task may have: room for a batch, and far below what Postgres
/// takes (1 GB) or what a small container survives.
const PARAMS_BYTES_MAX: usize = 16 << 20;

/// Puts the parameters where `{params}` stands, as one `jsonb` value. Parameters that are `null` in
/// JSON, such as `&()`, stand for "none": then there must be no placeholder, otherwise exactly one.
pub(crate) fn fill(
    sql: &'static str,
    params: &(impl Serialize + ?Sized),
) -> Result<Cow<'static, str>, StoreError> {
    let json = serde_json::to_string(params)
        .map_err(|error| StoreError::BadParameter(error.to_string()))?;
    let places = sql.matches(PLACEHOLDER).count();
    let wanted = usize::from(json != "null");
    if places != wanted {
        return Err(StoreError::BadParameter(format!(
            "the statement must have {wanted} `{PLACEHOLDER}` for its parameters, and has {places}"
        )));
    }
    if json.len() > PARAMS_BYTES_MAX {
        return Err(StoreError::BadParameter(format!(
            "{} bytes of JSON are more than {PARAMS_BYTES_MAX}: send fewer at a time",
            json.len()
        )));
    }
    if has_nul(&json) {
        return Err(StoreError::BadParameter(
            "a text contains NUL (\\u0000), which postgres cannot store".into(),
        ));
    }
    if wanted == 0 {
        return Ok(Cow::Borrowed(sql));
    }
    // The alphabet of base64 has no quote and no backslash, so there is nothing that could end the
    // literal.
    let literal =
        format!("convert_from(decode('{}','base64'),'UTF8')::jsonb", STANDARD.encode(json));
    Ok(Cow::Owned(sql.replacen(PLACEHOLDER, &literal, 1)))
}

/// Makes each row of a statement come back as one text of JSON, and no more than `limit` of them.
pub(crate) fn as_json_rows(sql: &str, limit: usize) -> String {
    // Materialized, or the order of the rows would be a matter of luck. The name must not be one
    // that a column could have: `row_to_json` would then give that column.
    format!(
        "with umbel_row as materialized (\n{sql}\n) \
         select row_to_json(umbel_row)::text from umbel_row limit {limit}"
    )
}

/// Whether a JSON text has the escape of NUL, which is not the same as an escaped backslash before
/// `u0000`.
fn has_nul(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        if rest[at..].starts_with(b"\\u0000") {
            return true;
        }
        // A backslash is never the last byte of JSON.
        rest = &rest[at + 2..];
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(sql: &'static str, params: &impl Serialize) -> String {
        match fill(sql, params) {
            Err(StoreError::BadParameter(why)) => why,
            other => panic!("must be refused: {other:?}"),
        }
    }

    #[test]
    fn parameters_travel_as_one_literal_that_nothing_can_end() {
        let hostile = json!({ "name": "'); drop table pages; --\\' \u{1f33f}" });
        let statement = fill("select {params} as j", &hostile).expect("fits");
        let literal = statement
            .strip_prefix("select convert_from(decode('")
            .and_then(|rest| rest.strip_suffix("','base64'),'UTF8')::jsonb as j"))
            .expect("the statement around the literal");
        assert!(
            literal.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)),
            "{literal}"
        );
        let back: serde_json::Value =
            serde_json::from_slice(&STANDARD.decode(literal).expect("base64")).expect("json");
        assert_eq!(back, hostile);
    }

    #[test]
    fn a_statement_has_one_placeholder_or_no_parameters() {
        assert_eq!(fill("select 1", &()).expect("fits"), "select 1");
        assert!(refusal("select 1", &json!({ "id": 1 })).contains("must have 1 `{params}`"));
        assert!(refusal("select {params}", &()).contains("must have 0 `{params}`"));
        assert!(refusal("select {params}, {params}", &json!([1])).contains("has 2"));
    }

    #[test]
    fn a_nul_is_refused_and_a_text_about_it_is_not() {
        assert!(refusal("select {params}", &json!(["a\0b"])).contains("NUL"));
        assert!(refusal("select {params}", &json!({ "k\0": 1 })).contains("NUL"));
        fill("select {params}", &json!(["\\u0000", "\\\\u0000", "\"\\"]))
            .expect("only backslashes");
    }

    #[test]
    fn too_much_at_once_is_refused() {
        assert!(
            refusal("select {params}", &"x".repeat(PARAMS_BYTES_MAX)).contains("fewer at a time")
        );
    }
}
