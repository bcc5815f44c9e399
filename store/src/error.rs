//! What can go wrong between us and Postgres, told by what the caller can do about it.

use std::{error::Error, time::Duration};

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::tls;

/// Why the database did not do as asked. Holds no password, no parameters, and none of the row
/// values that Postgres quotes in its `DETAIL` lines.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres or its pooler cannot be used now; the same call may work later. A statement that
    /// was on its way when the connection broke may have taken effect: what must happen once goes
    /// through [`Db::once`](crate::Db::once).
    #[error("postgres is unavailable")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// The connection broke after the commit was sent and before its answer came: the transaction may
    /// have taken effect or not. [`Db::once`](crate::Db::once), called again, finds out.
    #[error("postgres did not answer a commit: it may have happened")]
    CommitUnknown(#[source] Box<dyn Error + Send + Sync>),
    /// Postgres does not let us in, or is not trusted. The same call works only after somebody has
    /// changed the settings, or the user, the database, the rules of access or the certificate on
    /// the server.
    #[error("{}", .0.advice())]
    Denied(#[source] Denial),
    /// The statement ran into its time limit and was cancelled; nothing of it remains.
    #[error("a statement took longer than {limit:?}")]
    TooSlow {
        /// The limit that was in force.
        limit: Duration,
    },
    /// Deadlock, serialization failure or a lock not to be had: another transaction went first. Try
    /// again.
    #[error("lost against another transaction")]
    Conflict(#[source] Refusal),
    /// The value is there already.
    #[error("`{constraint}` allows a value only once")]
    UniqueViolation {
        /// The name of the constraint or unique index.
        constraint: String,
        /// What Postgres said.
        #[source]
        source: Refusal,
    },
    /// Postgres refused the statement and will refuse it again: wrong SQL, a violated check, a
    /// missing right.
    #[error("postgres refused the statement")]
    Statement(#[source] Refusal),
    /// The parameters cannot be sent, or do not fit the statement's `{params}`.
    #[error("bad parameters: {0}")]
    BadParameter(String),
    /// A row came back that is not a `T`.
    #[error("a row does not decode as {wanted}")]
    Decode {
        /// The type that was asked for.
        wanted: &'static str,
        /// What did not fit.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The statement gives more rows than the caller said it would take.
    #[error("a statement gave more than {limit} rows")]
    TooManyRows {
        /// How many there may be.
        limit: usize,
    },
    /// A statement of the transaction failed, the failure was passed over, and so there is nothing
    /// to commit.
    #[error("the transaction was rolled back: one of its statements had failed")]
    Aborted,
}

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum Denial {
    /// The login was refused.
    #[error(transparent)]
    Login(Refusal),
    /// The server, or its pooler, takes nobody without TLS, or not this user.
    #[error(transparent)]
    TlsNeeded(Refusal),
    /// The address asks for TLS and the server offers none.
    #[error("{0}")]
    NoTls(String),
    /// The server's certificate is signed by a CA that is not known.
    #[error("{0}")]
    UnknownIssuer(String),
    /// The server's certificate is for another host than the address names.
    #[error("{0}")]
    AnotherHost(String),
    /// The server's certificate is not accepted for another reason: it has expired, for instance.
    #[error("{0}")]
    Certificate(String),
}

impl Denial {
    /// What somebody must change.
    fn advice(&self) -> &'static str {
        match self {
            Self::Login(_) => {
                "postgres denies access: user, password and database of its address must be right"
            }
            Self::TlsNeeded(_) => {
                "postgres denies access without TLS: sslmode in its address must be require or \
                 verify-full"
            }
            Self::NoTls(_) => {
                "postgres offers no TLS, which sslmode in its address asks for: switch it on \
                 there, or write sslmode=disable"
            }
            Self::UnknownIssuer(_) => {
                "postgres is not trusted: sslrootcert in its address must name a file with the \
                 certificate of the CA that signed the server's"
            }
            Self::AnotherHost(_) => {
                "postgres is not trusted: its address must name a host that the server's \
                 certificate is for (sslmode=verify-ca does without)"
            }
            Self::Certificate(_) => "postgres is not trusted: the server needs another certificate",
        }
    }
}

/// What Postgres answered to a statement that it refused.
#[derive(Debug, thiserror::Error)]
#[error("{message} (SQLSTATE {code})")]
pub struct Refusal {
    /// The five characters of SQLSTATE.
    pub code: String,
    /// Postgres' primary message, one line.
    pub message: String,
}

impl StoreError {
    /// One word for what went wrong.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::CommitUnknown(_) => "commit_unknown",
            Self::TooSlow { .. } => "too_slow",
            Self::Conflict(_) => "conflict",
            Self::Denied(_) => "denied",
            _ => "statement",
        }
    }

    /// Whether the same call may work later without a change of program, data or schema.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::CommitUnknown(_)
                | Self::TooSlow { .. }
                | Self::Conflict(_)
        )
    }

    /// Reads sqlx' error; `limit` is the time limit that the statement ran under.
    pub(crate) fn from_sqlx(error: sqlx::Error, limit: Duration) -> Self {
        match error {
            sqlx::Error::Database(error) => {
                let fatal = error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| {
                    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                });
                let constraint = error.constraint().map(str::to_owned);
                let refusal = Refusal {
                    code: error.code().unwrap_or_default().into_owned(),
                    message: error.message().to_owned(),
                };
                refusal.judge(fatal, constraint, limit)
            }
            sqlx::Error::Encode(source) => Self::BadParameter(source.to_string()),
            other => match tls::denial(&other) {
                Some(denial) => Self::Denied(denial),
                None => Self::Unavailable(other.into()),
            },
        }
    }
}

impl Refusal {
    fn judge(self, fatal: bool, constraint: Option<String>, limit: Duration) -> StoreError {
        match (self.code.as_str(), constraint) {
            ("57014", _) => StoreError::TooSlow { limit },
            ("40001" | "40P01" | "55P03", _) => StoreError::Conflict(self),
            ("23505", Some(constraint)) => StoreError::UniqueViolation { constraint, source: self },
            // A login that the next attempt would not mend. A pooler that has one code for all of
            // its troubles (PgBouncer's is 08P01) says too little for that, and is waited for.
            _ if fatal && self.wants_tls() => StoreError::Denied(Denial::TlsNeeded(self)),
            ("3D000", _) if fatal => StoreError::Denied(Denial::Login(self)),
            (code, _) if fatal && code.starts_with("28") => StoreError::Denied(Denial::Login(self)),
            // Connection, resources, shutdown, trouble of the machine, a standby after a failover.
            // What is fatal ends the connection, whatever its code: poolers use codes of their own.
            ("25006", _) => StoreError::Unavailable(self.into()),
            (code, _)
                if fatal
                    || ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) =>
            {
                StoreError::Unavailable(self.into())
            }
            _ => StoreError::Statement(self),
        }
    }

    /// By its words, for poolers have one code for all of their troubles: "SSL required" says
    /// PgBouncer, "SSL connection is required" Supavisor, "no pg_hba.conf entry for …, no
    /// encryption" Postgres, to who came without. (It ends so as well where a rule *rejects* who
    /// came without: then TLS may change nothing.)
    fn wants_tls(&self) -> bool {
        let said = &self.message;
        (said.contains("SSL") && said.contains("required"))
            || (said.starts_with("no pg_hba.conf entry") && said.ends_with("no encryption"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: &str, fatal: bool) -> StoreError {
        let refusal = Refusal { code: code.to_owned(), message: "no".to_owned() };
        refusal.judge(fatal, Some("pages_url_key".to_owned()), Duration::from_secs(30))
    }

    #[test]
    fn an_error_says_what_the_caller_can_do() {
        assert!(matches!(judged("23505", false), StoreError::UniqueViolation { .. }));
        assert!(matches!(judged("57014", false), StoreError::TooSlow { .. }));
        assert!(matches!(judged("40P01", false), StoreError::Conflict(_)));
        assert!(matches!(judged("42601", false), StoreError::Statement(_)));
        assert!(matches!(judged("23514", false), StoreError::Statement(_)));
        for code in ["08006", "53300", "57P01", "58030", "25006"] {
            assert!(matches!(judged(code, false), StoreError::Unavailable(_)), "{code}");
        }
    }

    #[test]
    fn whatever_ends_the_connection_is_told_as_unavailable() {
        for code in ["XX000", "08P01", "57P03"] {
            assert!(matches!(judged(code, true), StoreError::Unavailable(_)), "{code}");
        }
        assert!(matches!(judged("XX000", false), StoreError::Statement(_)));
    }

    #[test]
    fn a_login_that_was_refused_is_told_apart_from_a_statement_that_was() {
        for code in ["28P01", "28000", "3D000"] {
            assert!(matches!(judged(code, true), StoreError::Denied(_)), "{code}");
            assert!(matches!(judged(code, false), StoreError::Statement(_)), "{code}");
        }
    }

    #[test]
    fn a_server_that_wants_tls_is_understood_whatever_its_code() {
        for (code, message) in [
            (
                "28000",
                "no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption",
            ),
            ("08P01", "SSL required"),
            ("XX000", "SSL connection is required"),
        ] {
            let refusal = |message: &str| Refusal { code: code.into(), message: message.into() };
            let error = refusal(message).judge(true, None, Duration::from_secs(30));
            assert!(matches!(error, StoreError::Denied(Denial::TlsNeeded(_))), "{error:?}");
            assert!(error.to_string().contains("sslmode") && !error.is_transient(), "{error}");
        }
    }

    #[test]
    fn a_rule_that_rejects_is_not_mended_by_tls() {
        let message = "pg_hba.conf rejects connection for host \"::1\", user \"u\", database \"d\", no encryption";
        let refusal = |code: &str| Refusal { code: code.into(), message: message.into() };
        let direct = refusal("28000").judge(true, None, Duration::from_secs(30));
        assert!(matches!(direct, StoreError::Denied(Denial::Login(_))), "{direct:?}");
        let pooled = refusal("08P01").judge(true, None, Duration::from_secs(30));
        assert!(matches!(pooled, StoreError::Unavailable(_)), "{pooled:?}");
    }

    #[test]
    fn only_trouble_that_passes_is_transient() {
        assert!(judged("57P01", true).is_transient());
        assert!(judged("57014", false).is_transient());
        assert!(judged("40001", false).is_transient());
        assert!(!judged("28P01", true).is_transient());
        assert!(!judged("23505", false).is_transient());
        assert!(!judged("42601", false).is_transient());
    }
}
