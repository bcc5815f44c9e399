//! Stand-in while the module is written elsewhere.
use secrecy::SecretString;
use std::path::Path;
#[derive(Debug, thiserror::Error)]
#[error("stand-in")]
pub(crate) struct DevError;
impl DevError {
    pub fn is_usage(&self) -> bool {
        false
    }
}
#[derive(Debug)]
pub(crate) struct Folder;
impl Folder {
    pub fn open(_: &Path) -> Result<Self, DevError> {
        Err(DevError)
    }
    pub fn secret(&self, _: &str) -> Result<SecretString, DevError> {
        Err(DevError)
    }
}
#[derive(Debug)]
pub(crate) struct Wants {
    pub redis: bool,
    pub postgres: bool,
}
#[derive(Debug)]
pub(crate) struct Services;
impl Services {
    pub async fn start(_: &Folder, _: Wants) -> Result<Self, DevError> {
        Err(DevError)
    }
    pub fn redis_url(&self) -> Option<&str> {
        None
    }
    pub fn redis_socket(&self) -> Option<&Path> {
        None
    }
    pub fn database_url(&self) -> Option<&str> {
        None
    }
    pub async fn stop(self) {}
    pub async fn failed(&mut self) -> String {
        String::new()
    }
}
