//! The names by which a container runtime finds a device: `vendor/class=device`.
use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that the CDI specification refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no CDI {what}: {rule}")]
pub struct InvalidName {
    name: String,
    what: &'static str,
    rule: &'static str,
}

/// `vendor/class` of a spec's devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kind {
    text: String,
    slash: usize,
}

impl Kind {
    /// From its two parts, such as `gpu.example.com` and `claim`.
    pub fn new(vendor: &str, class: &str) -> Result<Self, InvalidName> {
        let body = |extra: &'static [u8]| move |b: u8| b.is_ascii_alphanumeric() || extra.contains(&b);
        // The specification allows one letter, but containerd 2.1 panics on it, at every start while the file is there.
        let letter = |text: &str| text.len() > 1 && text.starts_with(|c: char| c.is_ascii_alphabetic());
        if !letter(vendor) || !framed(vendor, body(b"_-.")) {
            let rule = "letters, digits, '_', '-' and '.', at least two, beginning with a letter and ending with a letter or digit";
            return Err(InvalidName { name: vendor.to_owned(), what: "vendor", rule });
        }
        if !letter(class) || !framed(class, body(b"_-")) {
            let rule =
                "letters, digits, '_' and '-', at least two, beginning with a letter and ending with a letter or digit";
            return Err(InvalidName { name: class.to_owned(), what: "class", rule });
        }
        Ok(Self { text: format!("{vendor}/{class}"), slash: vendor.len() })
    }

    /// The part before the slash.
    pub fn vendor(&self) -> &str {
        self.text.get(..self.slash).unwrap_or_default()
    }

    /// The part after the slash.
    pub fn class(&self) -> &str {
        self.text.get(self.slash + 1..).unwrap_or_default()
    }

    /// `vendor/class=device`.
    pub fn qualified(&self, device: &DeviceName) -> String {
        format!("{self}={device}")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Kind {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (vendor, class) = text.split_once('/').unwrap_or((&text, ""));
        Self::new(vendor, class)
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.text
    }
}

/// A device's name within its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

impl DeviceName {
    /// Checks the characters; a leading digit is allowed, and raises the spec's version to 0.5.0.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        if framed(&name, |b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b)) {
            Ok(Self(name))
        } else {
            let rule = "letters, digits, '_', '-', '.' and ':', beginning and ending with a letter or digit";
            Err(InvalidName { name, what: "device name", rule })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DeviceName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

/// Whether all bytes are of the body, and the outer ones are letters or digits.
fn framed(text: &str, body: impl Fn(u8) -> bool) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(text.bytes().next()) && edge(text.bytes().last()) && text.bytes().all(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claims_device_is_named_in_full() {
        let kind = Kind::new("gpu.example.com", "claim").unwrap();
        let device = DeviceName::new("4f0e0000-gpu-0000-41-00").unwrap();
        assert_eq!(kind.qualified(&device), "gpu.example.com/claim=4f0e0000-gpu-0000-41-00");
        assert_eq!((kind.vendor(), kind.class()), ("gpu.example.com", "claim"));
    }

    #[test]
    fn names_that_would_leave_a_directory_or_split_otherwise_are_refused() {
        assert!(Kind::new("example.com", "t").is_err(), "containerd panics on one letter");
        for name in ["", ".", "..", "a/b", "a=b", "-a", "a-", "ä", "a b"] {
            assert!(DeviceName::new(name).is_err(), "{name:?}");
            assert!(Kind::new(name, "claim").is_err(), "{name:?}");
            assert!(Kind::new("example.com", name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic_and_what_is_taken_reads_back(text in ".{0,24}") {
            if let Ok(kind) = Kind::try_from(text.clone()) {
                prop_assert_eq!(kind.to_string(), text);
            }
        }
    }
}
