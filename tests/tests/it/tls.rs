//! TLS to everybody whom we ask: who is trusted, who is not, and what is said then.

mod postgres;
mod published;
mod redis;

use std::{env, fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use umbel_tests::services::Identity;

/// Where all servers of these tests are.
const HERE: &str = "127.0.0.1";

/// A CA of a test, with the folder of its certificate, which goes with it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new() -> Self {
        Self::named(&format!("a CA of tests, {}", uuid::Uuid::new_v4().simple()))
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = env::temp_dir().join(format!("umbel-ca-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// With its certificate, and nothing else.
    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate for this host.
    fn identity(&self, host: &str) -> Identity {
        self.sign(CertificateParams::new(vec![host.to_owned()]).unwrap())
    }

    /// A certificate for this host that was good once.
    fn expired(&self, host: &str) -> Identity {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Identity {
        params.distinguished_name.push(DnType::CommonName, "a server of tests");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}
