//! Why an API cannot start.

/// What stands in the way, as a sentence for the person who starts it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The secret could be guessed. Make one by `openssl rand -hex 32`.
    #[error(
        "JWT_SECRET has {bytes} bytes; at least {shortest} are needed, \
         for example from `openssl rand -hex 32`"
    )]
    ShortSecret { bytes: usize, shortest: usize },
    /// A setting is there and empty, which would accept nobody.
    #[error("{variable} is empty; give it a value or leave it out")]
    EmptySetting { variable: &'static str },
    /// An application's route lies where the API has its own.
    #[error("the application's route `{path}` cannot be served: `{taken}` is the API's own")]
    RouteTaken { path: String, taken: String },
    /// An application describes a schema under a name that the API describes otherwise.
    #[error("the application's schema `{name}` has the name of one of the API's own; rename it")]
    SchemaTaken { name: String },
    /// A token was asked for nobody.
    #[error("a token's subject has 1 to {longest} characters and no control characters")]
    Subject { longest: usize },
}
