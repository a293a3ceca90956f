//! TLS as a client speaks it: whose word on certificates is taken, and nothing else about it is
//! ever decided by a caller.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, TrustAnchor};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::HostError;
use crate::fs::read_bounded;

/// Where distributions keep the certificates that they trust; the first that is there is taken.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Most bytes of a file of certificates: those of Debian have 230 KiB.
const MAX_ROOTS: u64 = 8 * 1024 * 1024;

/// Why certificates to trust cannot be had.
#[derive(Debug, Error)]
pub enum RootsError {
    /// A file of certificates.
    #[error("cannot read the certificates to trust")]
    Read(#[from] HostError),
    /// One without any.
    #[error("{path} has no certificate in it: it should be in PEM", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Certificates whose word is taken.
#[derive(Clone, Debug)]
pub struct Roots(RootCertStore);

impl Roots {
    /// Those of the system; none if it has none.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn of_system() -> Result<Self, RootsError> {
        let known = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
        let mut roots = Self(RootCertStore::empty());
        known.map_or(Ok(0), |path| roots.add_usable(path))?;
        Ok(roots)
    }

    /// Those in a file, and no others.
    ///
    /// # Errors
    /// When it cannot be read, or has none.
    pub fn of_file(path: &Path) -> Result<Self, RootsError> {
        Self(RootCertStore::empty()).and_file(path)
    }

    /// Those that a program has in it.
    pub fn embedded(anchors: &[TrustAnchor<'static>]) -> Self {
        Self(RootCertStore { roots: anchors.to_vec() })
    }

    /// These, and those in a file.
    ///
    /// # Errors
    /// When it cannot be read, or has none.
    pub fn and_file(mut self, path: &Path) -> Result<Self, RootsError> {
        match self.add_usable(path)? {
            0 => Err(RootsError::Empty { path: path.to_owned() }),
            _ => Ok(self),
        }
    }

    /// Whether there are none: nobody can be trusted then.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What makes TLS of a connection, for HTTP/1.1; `None` when there are no certificates to trust.
    pub fn connector(self) -> Option<TlsConnector> {
        if self.is_empty() {
            return None;
        }
        let provider = Arc::new(ring::default_provider());
        // The versions that the provider has are always there.
        let versions =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = versions.ok()?.with_root_certificates(self.0).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(TlsConnector::from(Arc::new(config)))
    }

    /// Adds what can be used of a file, and tells how many that are.
    fn add_usable(&mut self, path: &Path) -> Result<usize, RootsError> {
        let pem = read_bounded(path, MAX_ROOTS)?;
        let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
        // One strange certificate among many must not keep the others from being trusted.
        Ok(self.0.add_parsable_certificates(certificates).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_an_error_and_no_certificates_are_no_tls() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roots.pem");
        assert!(matches!(Roots::of_file(&path), Err(RootsError::Read(_))), "none is there");
        for text in
            ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            crate::fs::write_atomic(&path, text.as_bytes()).unwrap();
            assert!(matches!(Roots::of_file(&path), Err(RootsError::Empty { .. })), "{text}");
        }
        let none = Roots::embedded(&[]);
        assert!(none.is_empty() && none.connector().is_none());
    }
}
