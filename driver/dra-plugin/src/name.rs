//! The name of a DRA driver, checked once.
use std::fmt;

/// Longest driver name that Kubernetes accepts (`ResourceSlice.spec.driver`), in bytes.
const LONGEST: usize = 63;

/// A DRA driver's name: a DNS subdomain in lower case of at most 63 bytes, such as `gpu.example.com`.
///
/// It is part of file names and of API objects; both hold for every value of this type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DriverName(String);

/// Why a text is no driver name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a driver name: it must be a DNS subdomain in lower case (letters, digits, '-' and '.', each part \
     beginning and ending with a letter or digit) of at most {LONGEST} bytes, for example \"gpu.example.com\""
)]
pub struct InvalidDriverName {
    name: String,
}

impl DriverName {
    /// Checks `name` against the rules of `ResourceSlice.spec.driver`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidDriverName> {
        let name = name.into();
        if name.len() <= LONGEST && is_dns_subdomain(&name) { Ok(Self(name)) } else { Err(InvalidDriverName { name }) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 1123 subdomain without a length rule: parts of `[a-z0-9-]`, separated by dots, with no dash at either end.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.split('.').all(|part| {
        let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().next_back())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_takes_are_taken() {
        for name in ["gpu.example.com", "g", "a-b.c0", &"x".repeat(63)] {
            assert!(DriverName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_a_directory_or_that_kubernetes_refuses_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "GPU.example.com", "-a", "a-", "a..b", "a.", "a_b", &"x".repeat(64)]
        {
            assert!(DriverName::new(name).is_err(), "{name}");
        }
    }
}
