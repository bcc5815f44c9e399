//! How the roles reach Postgres, and how much of it each may use.

use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use umbel_store::StoreSettings;

use crate::{
    env::milliseconds,
    roles::Role,
    settings::{SettingsError, given, secret},
};

/// Where the house stands: what nobody sets goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Environment {
    /// Where others rely on it
    Production,
    /// Where it is being built
    Development,
}

impl Environment {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Development => "development",
        }
    }

    /// How many connections are kept open, and how many are opened at most.
    const fn connections(self) -> (u32, u32) {
        match self {
            Self::Production => (2, 20),
            Self::Development => (5, 10),
        }
    }
}

/// The API's part of the connections that all roles of one container share: its calls are short.
const API_PART: u32 = 4;

/// The settings of the database.
#[derive(Debug, Clone, Args)]
pub(crate) struct DatabaseArgs {
    /// Where Postgres is: postgres://user:password@host:5432/database; a transaction pooler will do
    #[arg(long, env = "DATABASE_URL", global = true, hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,

    /// Postgres past the pooler, for migrations
    #[arg(
        long,
        env = "DATABASE_DIRECT_URL",
        global = true,
        hide_env_values = true,
        value_parser = secret
    )]
    pub database_direct_url: Option<SecretString>,

    /// production or development: how many connections there are where nobody says so
    #[arg(long, env = "ENVIRONMENT", global = true, value_enum)]
    pub environment: Option<Environment>,

    /// The most connections to Postgres; the roles of `up` share them
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", global = true)]
    pub database_max_connections: Option<u32>,

    /// How many connections to Postgres are kept open
    #[arg(long, env = "DATABASE_MIN_CONNECTIONS", global = true)]
    pub database_min_connections: Option<u32>,

    /// How long a call waits for a connection to Postgres
    #[arg(long, env = "DATABASE_ACQUIRE_TIMEOUT", global = true, default_value = "10s", value_parser = crate::env::duration)]
    pub database_acquire_timeout: Duration,

    /// How long Postgres may work on one statement
    #[arg(long, env = "DATABASE_STATEMENT_TIMEOUT", global = true, default_value = "30s", value_parser = crate::env::duration)]
    pub database_statement_timeout: Duration,
}

impl DatabaseArgs {
    /// `None` where no database was named.
    pub fn store(&self) -> Result<Option<StoreSettings>, SettingsError> {
        given(&self.database_url).map(|url| self.at(url)).transpose()
    }

    /// For migrations: past the pooler where a way was named.
    pub fn store_direct(&self) -> Result<Option<StoreSettings>, SettingsError> {
        match given(&self.database_direct_url) {
            Some(url) => {
                // The other is wrong for all who come after: not to be found out only then.
                self.store()?;
                self.at(url).map(Some)
            }
            None => self.store(),
        }
    }

    fn at(&self, url: &SecretString) -> Result<StoreSettings, SettingsError> {
        let (min_connections, max_connections) = self.connections();
        let settings = StoreSettings {
            url: url.clone(),
            max_connections,
            min_connections,
            acquire_timeout: self.database_acquire_timeout,
            statement_timeout: self.database_statement_timeout,
        };
        settings.check().map_err(|error| SettingsError::new(error.to_string()))?;
        Ok(settings)
    }

    /// How many are kept open, and how many are opened at most.
    pub fn connections(&self) -> (u32, u32) {
        let environment = self.environment.unwrap_or(Environment::Production);
        let (min, max) = environment.connections();
        let max = self.database_max_connections.unwrap_or(max);
        // A pool that was made small keeps what it can.
        (self.database_min_connections.unwrap_or_else(|| min.min(max)), max)
    }

    /// How many connections there are at most, where there is a database.
    pub fn most(&self) -> Option<u32> {
        given(&self.database_url).map(|_| self.connections().1)
    }

    /// API and worker of one container need one connection each.
    pub fn check_shared(&self) -> Result<(), SettingsError> {
        match self.most() {
            Some(..2) => Err(SettingsError::new(
                "DATABASE_MAX_CONNECTIONS must be at least 2 where API and worker share them",
            )),
            _ => Ok(()),
        }
    }

    /// As environment, for the process of one role: of the connections it gets its part, one at
    /// least. Beat needs none.
    pub fn as_env(&self, role: Role) -> [(&'static str, String); 5] {
        let (min, max) = self.connections();
        let of_api = |all: u32| (all / API_PART).max(1);
        let part = |all: u32| match role {
            Role::Api => of_api(all),
            Role::Beat => 1,
            Role::Worker => all.saturating_sub(of_api(all)).max(1),
        };
        let (min, max) = match role {
            Role::Beat => (0, 1),
            _ if min == 0 => (0, part(max)),
            _ => (part(min).min(part(max)), part(max)),
        };
        [
            (
                "ENVIRONMENT",
                self.environment.unwrap_or(Environment::Production).as_str().to_owned(),
            ),
            ("DATABASE_MAX_CONNECTIONS", max.to_string()),
            ("DATABASE_MIN_CONNECTIONS", min.to_string()),
            ("DATABASE_ACQUIRE_TIMEOUT", milliseconds(self.database_acquire_timeout)),
            ("DATABASE_STATEMENT_TIMEOUT", milliseconds(self.database_statement_timeout)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        database: DatabaseArgs,
    }

    fn args(flags: &[&str]) -> DatabaseArgs {
        Line::parse_from(std::iter::once(&"umbel").chain(flags)).database
    }

    fn pool(flags: &[&str]) -> (u32, u32) {
        let url = "--database-url=postgres://h/d";
        let settings = args(&[&[url], flags].concat()).store().unwrap().unwrap();
        (settings.min_connections, settings.max_connections)
    }

    #[test]
    fn the_pool_goes_by_the_environment_and_by_what_is_set() {
        assert_eq!(pool(&[]), (2, 20));
        assert_eq!(pool(&["--environment=development"]), (5, 10));
        assert_eq!(pool(&["--database-max-connections=1"]), (1, 1));
        assert_eq!(pool(&["--database-min-connections=0", "--database-max-connections=7"]), (0, 7));
        let wrong = args(&[
            "--database-url=postgres://h/d",
            "--database-min-connections=9",
            "--database-max-connections=8",
        ]);
        assert!(wrong.store().unwrap_err().to_string().starts_with("DATABASE_MIN_CONNECTIONS"));
    }

    #[test]
    fn the_roles_of_one_container_share_one_budget() {
        for (flags, of_api, of_worker) in [
            (vec![], ("1", "5"), ("1", "15")),
            (vec!["--environment=development"], ("1", "2"), ("4", "8")),
            (vec!["--database-max-connections=4"], ("1", "1"), ("1", "3")),
            (vec!["--database-max-connections=1"], ("1", "1"), ("1", "1")),
            (vec!["--database-min-connections=0"], ("0", "5"), ("0", "15")),
        ] {
            let of = |role| {
                let env = args(&flags).as_env(role);
                let value = |name| env.iter().find(|(n, _)| *n == name).unwrap().1.clone();
                (value("DATABASE_MIN_CONNECTIONS"), value("DATABASE_MAX_CONNECTIONS"))
            };
            let told = |(min, max): (&str, &str)| (min.to_owned(), max.to_owned());
            assert_eq!(of(Role::Api), told(of_api), "{flags:?}");
            assert_eq!(of(Role::Worker), told(of_worker), "{flags:?}");
            assert_eq!(of(Role::Beat), told(("0", "1")));
        }
    }
}
