//! Makes a certificate, and an authority for it alone, whose key is forgotten at once. Pure, but for chance.
//!
//! An authority that signs nothing more needs no key that could be stolen: whoever reads the Secret can serve as the
//! webhook until the certificate ends, and can't make another one.
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::{pair::Host, stored::Issued};

/// By how much clocks of API servers may be behind.
const SKEW: Duration = Duration::from_hours(1);

/// A certificate for `hosts` from now for `life`.
pub(crate) fn issue(hosts: &[Host], now: SystemTime, life: Duration) -> Result<Issued, rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = params(Vec::new(), now, life)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Of two with one name a verifier might try the wrong one only.
    let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    authority.distinguished_name.push(DnType::CommonName, format!("aliquot webhook authority {number}"));
    let ca = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate()?;
    let mut leaf = params(hosts.iter().map(Host::as_str).collect(), now, life)?;
    leaf.distinguished_name.push(DnType::CommonName, "aliquot webhook");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    Ok(Issued { ca, certificate: leaf.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn params(names: Vec<String>, now: SystemTime, life: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + life).into();
    Ok(params)
}
