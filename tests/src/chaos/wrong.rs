//! Something that must not be.

use std::fmt;

/// A law of the protocol that was broken, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// As the protocol numbers it.
    pub law: &'static str,
    pub what: String,
}

impl Wrong {
    pub fn new(law: &'static str, subject: &str, what: impl fmt::Display) -> Self {
        Self { law, what: format!("{subject} {what}") }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.what)
    }
}
