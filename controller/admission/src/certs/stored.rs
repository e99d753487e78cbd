//! What the Secret holds: the certificate in force, the next one, and whom the last one needs trusted. Pure.
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// A certificate that was made, with its authority's; all in PEM form.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    /// Whom to trust.
    pub(crate) ca: String,
    /// What to serve.
    pub(crate) certificate: String,
    /// Its key.
    pub(crate) key: String,
}

/// All that the Secret holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// What is served.
    pub(crate) current: Option<Issued>,
    /// What will be, once it is trusted everywhere.
    pub(crate) next: Option<Issued>,
    /// Whom to trust for what other replicas may serve still.
    pub(crate) previous: Option<String>,
}

type Data = BTreeMap<String, ByteString>;

impl Stored {
    /// From a Secret's data; what is incomplete isn't there.
    pub(crate) fn read(data: &Data) -> Self {
        let text = |name: &str| {
            data.get(name).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()).filter(|text| !text.is_empty())
        };
        let issued = |prefix: &str| {
            let field = |name: &str| text(&format!("{prefix}{name}"));
            Some(Issued { ca: field("ca.crt")?, certificate: field("tls.crt")?, key: field("tls.key")? })
        };
        Self { current: issued(""), next: issued("next-"), previous: text("previous-ca.crt") }
    }

    /// As a Secret's data.
    pub(crate) fn write(&self) -> Data {
        let mut data = Data::new();
        let mut put = |name: String, text: &str| data.insert(name, ByteString(text.as_bytes().to_vec()));
        for (prefix, issued) in [("", &self.current), ("next-", &self.next)] {
            if let Some(Issued { ca, certificate, key }) = issued {
                put(format!("{prefix}ca.crt"), ca);
                put(format!("{prefix}tls.crt"), certificate);
                put(format!("{prefix}tls.key"), key);
            }
        }
        if let Some(ca) = &self.previous {
            put("previous-ca.crt".to_owned(), ca);
        }
        data
    }

    /// Whom to trust: the same text for the same authorities, whichever of them is in force.
    pub(crate) fn bundle(&self) -> String {
        let issued = self.current.iter().chain(&self.next).map(|issued| issued.ca.as_str());
        let all: BTreeSet<&str> = issued.chain(self.previous.as_deref()).filter(|ca| is_certificate(ca)).collect();
        all.into_iter().collect()
    }
}

/// API servers refuse a bundle with anything else in it.
fn is_certificate(pem: &str) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.next().is_some_and(|first| first.is_ok()) && certificates.all(|more| more.is_ok())
}
