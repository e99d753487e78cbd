//! A certificate with its key: read from PEM, and what it is good for. Pure.
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _, verify_server_cert_signed_by_trust_anchor},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

/// The year 10000, later than any certificate can end (RFC 5280, 4.1.2.5).
const END_OF_TIME: Duration = Duration::from_hours(2_932_897 * 24);

/// What a certificate is for: a DNS name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host(ServerName<'static>);

impl Host {
    /// None if it is neither.
    pub(crate) fn new(text: &str) -> Option<Self> {
        ServerName::try_from(text.to_owned()).ok().map(Self)
    }

    /// As text.
    pub(crate) fn as_str(&self) -> String {
        self.0.to_str().into_owned()
    }
}

/// Why a certificate and a key can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPair {
    /// No certificate in it.
    #[error("tls.crt has no certificate in PEM form")]
    Certificate(#[source] Option<rustls::pki_types::pem::Error>),
    /// No key in it.
    #[error("tls.key has no private key in PEM form")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// They don't belong together, or TLS can't use them.
    #[error("tls.crt and tls.key can't be served together")]
    Pair(#[source] rustls::Error),
}

/// What TLS serves.
pub(crate) fn certified(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, BadPair> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|error| BadPair::Certificate(Some(error)))?;
    if chain.is_empty() {
        return Err(BadPair::Certificate(None));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(BadPair::Key)?;
    // With a key that isn't the certificate's this fails.
    CertifiedKey::from_der(chain, key, &provider()).map_err(BadPair::Pair)
}

/// Whether whoever trusts `ca` takes the certificate for all hosts at that time.
pub(crate) fn is_good(certified: &CertifiedKey, ca: &str, hosts: &[Host], at: SystemTime) -> bool {
    let Ok(since) = at.duration_since(SystemTime::UNIX_EPOCH) else { return false };
    let Some((leaf, between)) = certified.cert.split_first() else { return false };
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        if ca.map_err(drop).and_then(|ca| roots.add(ca).map_err(drop)).is_err() {
            return false;
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider())).build();
    verifier.is_ok_and(|verifier| {
        let at = UnixTime::since_unix_epoch(since);
        hosts.iter().all(|host| verifier.verify_server_cert(leaf, between, &host.0, &[], at).is_ok())
    })
}

/// When a certificate ends. Whoever verifies it later than that says when that was; nothing else in the library tells.
pub(crate) fn end(certified: &CertifiedKey) -> Option<SystemTime> {
    let leaf = ParsedCertificate::try_from(certified.cert.first()?).ok()?;
    let later = UnixTime::since_unix_epoch(END_OF_TIME);
    let algorithms = provider().signature_verification_algorithms.all;
    // A time that is over is found before anybody is needed who is trusted.
    match verify_server_cert_signed_by_trust_anchor(&leaf, &RootCertStore::empty(), &[], later, algorithms) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}
