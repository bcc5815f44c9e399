//! Which addresses are taken at all: those that a row can bear and a fetch may ask for.

use url::Url;

use crate::{fetch::Refusal, metadata::MAX_URL_BYTES};

/// Refuses what could never be fetched. Whether a host is public shows only when it is fetched.
pub(crate) fn check(url: &Url) -> Result<(), Refusal> {
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(Refusal::TooLong);
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::Scheme(url.scheme().to_owned()));
    }
    // Before there is a row: a password must not stand in one.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::UserInfo);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_that_a_row_can_bear_are_taken() {
        let check = |url: &str| check(&url.parse().unwrap());
        assert_eq!(check("https://example.com/a?b"), Ok(()));
        assert_eq!(check("http://127.0.0.1:8123/"), Ok(()));
        assert_eq!(check("ftp://example.com/"), Err(Refusal::Scheme("ftp".to_owned())));
        assert_eq!(check("data:text/html,a"), Err(Refusal::Scheme("data".to_owned())));
        assert_eq!(check("https://ann@example.com/"), Err(Refusal::UserInfo));
        assert_eq!(check("https://:pw@example.com/"), Err(Refusal::UserInfo));
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        assert_eq!(check(&long), Err(Refusal::TooLong));
    }
}
