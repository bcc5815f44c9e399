//! Why an API cannot start.

use std::time::Duration;

/// What stands in the way, as a sentence for the person who starts it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The secret could be guessed. Make one by `openssl rand -hex 32`.
    #[error(
        "JWT_SECRET has {bytes} bytes; at least {shortest} are needed, \
         for example from `openssl rand -hex 32`"
    )]
    ShortSecret { bytes: usize, shortest: usize },
    /// Nothing says whose tokens are believed.
    #[error(
        "JWT_SECRET or JWKS_URL must be set: a secret of 32 bytes or more, or where keys are \
         published"
    )]
    NoKeys,
    /// A token was to be made without a secret.
    #[error("JWT_SECRET must be set: tokens are signed with it")]
    NoSecret,
    /// Whoever gets between could put own keys in the place of these.
    #[error(
        "JWKS_URL must be an https address without user or fragment (http only at a loopback \
         address like 127.0.0.1)"
    )]
    JwksUrl,
    #[error("JWKS_MAX_AGE must be {shortest:?} or more: keys are looked for that often")]
    JwksMaxAge { shortest: Duration },
    /// A token of the same keys may be meant for somebody else.
    #[error("{variable} must be set where JWKS_URL is: others have tokens of the same keys")]
    NeededByJwks { variable: &'static str },
    #[error("no HTTP client can be made for JWKS_URL: {0}")]
    HttpClient(String),
    #[error("the metrics cannot be counted: {0}")]
    Metrics(String),
    #[error("{variable} is {value}; it must be {least} to {most}")]
    OutOfRange { variable: &'static str, value: String, least: String, most: String },
    /// A setting is there and empty, which would accept nobody.
    #[error("{variable} is empty; give it a value or leave it out")]
    EmptySetting { variable: &'static str },
    /// An application's route lies where the API has its own.
    #[error("the application's route `{path}` cannot be served: `{taken}` is the API's own")]
    RouteTaken { path: String, taken: String },
    /// An application describes a schema under a name that the API describes otherwise.
    #[error("the application's schema `{name}` has the name of one of the API's own; rename it")]
    SchemaTaken { name: String },
    /// No token could ever hold it.
    #[error(
        "`{method} {path}` asks for `{scope}`, which is no scope: an application's own have a name, \
         a colon and what may be done, such as `sites:read`"
    )]
    ScopeOfRoute { scope: String, method: String, path: String },
    /// It is misspelt, or of another application.
    #[error(
        "JWT_ROLE_SCOPES or JWT_DEFAULT_SCOPES has the scope `{scope}`, and no route asks for it"
    )]
    NobodyAsks { scope: String },
    /// A defect of this crate, found before anybody could be served: a route of which the table
    /// does not say what it asks of a token, or a line of the table without its route.
    #[error("`{method} {path}` stands not both among the routes and in the table of access")]
    NoAccess { method: String, path: String },
    /// A token was asked for nobody.
    #[error("a token's subject has 1 to {longest} characters and no control characters")]
    Subject { longest: usize },
}
