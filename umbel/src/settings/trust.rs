//! Whose certificates are trusted about `rediss://` and `https://` addresses: those of the system, or
//! what `SSL_CERT_FILE` and `SSL_CERT_DIR` name, as for most programs.
//!
//! The libraries below read these two by themselves, at each connection or once, and tell what is wrong
//! with them late or not at all. So it is told at start.

use std::{env, fs};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::settings::SettingsError;

/// Refuses a file without a certificate and a folder that is not there.
pub(crate) fn check() -> Result<(), SettingsError> {
    judge(env::var("SSL_CERT_FILE").ok().as_deref(), env::var("SSL_CERT_DIR").ok().as_deref())
}

fn judge(file: Option<&str>, folders: Option<&str>) -> Result<(), SettingsError> {
    if let Some(file) = file {
        let pem = fs::read(file).map_err(|error| {
            SettingsError(format!(
                "SSL_CERT_FILE ({file}) cannot be read: {error}; without it the CAs of the system are \
                 trusted"
            ))
        })?;
        if CertificateDer::pem_slice_iter(&pem).flatten().next().is_none() {
            return Err(SettingsError(format!(
                "SSL_CERT_FILE ({file}) must be a file of certificates in PEM"
            )));
        }
    }
    for folder in folders.unwrap_or_default().split(':').filter(|folder| !folder.is_empty()) {
        if let Err(error) = fs::read_dir(folder) {
            return Err(SettingsError(format!("SSL_CERT_DIR ({folder}) cannot be read: {error}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_certificate_is_refused_by_name() {
        let (here, manifest) =
            (env!("CARGO_MANIFEST_DIR"), concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        for (file, folders, named) in [
            (Some("/nowhere/ca.pem"), None, "SSL_CERT_FILE (/nowhere/ca.pem)"),
            (Some(""), None, "SSL_CERT_FILE"),
            (Some(manifest), None, "SSL_CERT_FILE"),
            (None, Some("/nowhere"), "SSL_CERT_DIR (/nowhere)"),
            (None, Some(manifest), "SSL_CERT_DIR"),
        ] {
            let refusal = judge(file, folders).unwrap_err().to_string();
            assert!(refusal.starts_with(named), "{refusal}");
        }
        assert_eq!(judge(None, None), Ok(()));
        assert_eq!(judge(None, Some("")), Ok(()));
        assert_eq!(judge(None, Some(&format!("{here}:{here}/src"))), Ok(()));
    }
}
