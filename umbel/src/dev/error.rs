//! What can be wrong with the data folder or the private services, as sentences for a person.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum DevError {
    /// Wait for the other one, end it, or choose another folder.
    #[error(
        "another `umbel dev`{} uses `{}`: end it, or name another folder in UMBEL_DATA",
        process(*pid), path.display()
    )]
    Busy { path: PathBuf, pid: Option<u32> },

    /// Choose another folder, or remove this one.
    #[error("`{}` {why}", path.display())]
    NotPrivate { path: PathBuf, why: String },

    #[error("cannot {doing} `{}`", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },

    /// Delete the file.
    #[error("`{}` holds no secret: delete it, and a new one is made", .0.display())]
    NoSecret(PathBuf),

    /// Install what is missing.
    #[error("there is no {what} on this machine: {advice}")]
    Missing { what: String, advice: &'static str },

    /// Use a real Redis, or a persistent disk.
    #[error(
        "the disk here ({0} is set) is gone after the next deploy, and the queue with it: set \
         REDIS_URL to a real Redis, or UMBEL_DATA to a folder on a persistent disk"
    )]
    Ephemeral(&'static str),

    /// Install the older Postgres, or move the data away.
    #[error(
        "the data in `{}` are of Postgres {data}, and here is only Postgres {}: install \
         postgresql-{data}, or move that folder away to begin with an empty database",
        path.display(), list(found)
    )]
    Version { path: PathBuf, data: u32, found: Vec<u32> },

    /// End the other server.
    #[error(
        "the {name} of an earlier `umbel dev` still runs in `{}`: end it first",
        path.display()
    )]
    StillRuns { name: &'static str, path: PathBuf },

    /// Read the log.
    #[error("{name} did not start: it {why}; `{}` says: {tail}", log.display())]
    NotStarted { name: &'static str, why: String, log: PathBuf, tail: String },

    #[error("cannot start {name}")]
    Spawn { name: &'static str, source: io::Error },

    /// Nothing: the caller has given up waiting.
    #[error("the private services were stopped before they were ready")]
    Stopped,
}

impl DevError {
    /// Whether starting again would not mend it.
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::NotPrivate { .. }
            | Self::NoSecret(_)
            | Self::Missing { .. }
            | Self::Ephemeral(_)
            | Self::Version { .. } => true,
            Self::File { .. }
            | Self::StillRuns { .. }
            | Self::NotStarted { .. }
            | Self::Spawn { .. }
            | Self::Stopped => false,
        }
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn list(versions: &[u32]) -> String {
    let versions: Vec<String> = versions.iter().map(u32::to_string).collect();
    versions.join(", ")
}
