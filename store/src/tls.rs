//! TLS to Postgres: what an address asks for, and what it means when that cannot be had.

use std::{fs, io};

use rustls::{
    CertificateError, Error as TlsError,
    pki_types::{CertificateDer, pem::PemObject},
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::{SettingsError, error::Denial};

/// By these names an address has the file with the certificates of those who may sign the server's.
pub(crate) const ROOT_CERT: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];

/// sqlx' words for a server that has answered so.
const NO_TLS: &str = "server does not support TLS";

/// Whether what the address says of TLS belongs together; `root` is the file that it names.
pub(crate) fn checked(
    options: PgConnectOptions,
    root: Option<&str>,
) -> Result<PgConnectOptions, SettingsError> {
    let Some(root) = root else { return Ok(options) };
    // Read at each connection; here once before, so that a wrong path is told at start.
    let pem = fs::read(root).map_err(|error| {
        SettingsError(format!("sslrootcert in DATABASE_URL cannot be read ({root}): {error}"))
    })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if !certificates.is_ok_and(|certificates| !certificates.is_empty()) {
        return Err(SettingsError(format!(
            "sslrootcert in DATABASE_URL ({root}) must be a file of certificates in PEM"
        )));
    }
    match options.get_ssl_mode() {
        PgSslMode::VerifyCa | PgSslMode::VerifyFull => Ok(options),
        // As libpq has it: who names a CA wants it to be asked.
        PgSslMode::Require => Ok(options.ssl_mode(PgSslMode::VerifyCa)),
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => Err(SettingsError(
            "sslrootcert in DATABASE_URL is asked only with sslmode=verify-full, verify-ca or \
             require: add one of them"
                .to_owned(),
        )),
    }
}

/// What the settings or the server's certificate must change for, if it is that.
pub(crate) fn denial(error: &sqlx::Error) -> Option<Denial> {
    match error {
        sqlx::Error::Tls(said) if said.to_string() == NO_TLS => {
            Some(Denial::NoTls(said.to_string()))
        }
        // The file of the CA was read at start: what is left is a host that no certificate can name.
        sqlx::Error::Tls(said) => Some(Denial::AnotherHost(said.to_string())),
        sqlx::Error::Io(error) => of_certificate(error),
        _ => None,
    }
}

fn of_certificate(error: &io::Error) -> Option<Denial> {
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    let TlsError::InvalidCertificate(why) = error else { return None };
    Some(match why {
        // A signature is bad where another CA bears the name of the one that is trusted.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            Denial::UnknownIssuer(error.to_string())
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Denial::AnotherHost(error.to_string())
        }
        _ => Denial::Certificate(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use crate::StoreSettings;

    fn refusal(query: &str) -> String {
        let url = format!("postgres://u:s3cr3t@db.example.com/d?{query}");
        let error = StoreSettings::new(url).check().expect_err("must be refused").to_string();
        assert!(!error.contains("s3cr3t"), "{error}");
        error
    }

    #[test]
    fn a_ca_that_cannot_be_asked_is_told_at_start() {
        let missing = refusal("sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
        assert!(missing.contains("sslrootcert") && missing.contains("/nowhere/ca.pem"));
        // A file without a certificate in it.
        let none = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for name in ["sslrootcert", "ssl-root-cert", "ssl-ca"] {
            let none = refusal(&format!("sslmode=verify-ca&{name}={none}"));
            assert!(none.contains("must be a file of certificates"), "{none}");
        }
    }
}
