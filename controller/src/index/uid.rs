//! UIDs, small: tens of thousands of them are kept.
use std::fmt;

/// The UID of an object. Kubernetes makes UUIDs and doesn't promise it, so that any text is one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Uid {
    /// A UUID in its usual form.
    Uuid([u8; 16]),
    /// Anything else.
    Text(Box<str>),
}

/// Where the hyphens are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl Uid {
    pub(crate) fn new(text: &str) -> Self {
        uuid(text).map_or_else(|| Self::Text(text.into()), Self::Uuid)
    }
}

/// None where writing it again wouldn't give the same text.
fn uuid(text: &str) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let mut bytes = [0; 16];
    let mut digits = 0_usize;
    for (at, c) in text.bytes().enumerate() {
        if HYPHENS.contains(&at) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        let digit = match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => return None,
        };
        let byte = bytes.get_mut(digits / 2)?;
        *byte = (*byte << 4) | digit;
        digits += 1;
    }
    Some(bytes)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Self::Uuid(bytes) => bytes,
            Self::Text(text) => return f.write_str(text),
        };
        for (at, byte) in bytes.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_uuid_takes_no_memory_of_its_own() {
        assert!(matches!(Uid::new("0f8fad5b-d9cb-469f-a165-70867728950e"), Uid::Uuid(_)));
        assert!(matches!(Uid::new("0F8FAD5B-d9cb-469f-a165-70867728950e"), Uid::Text(_)));
        assert!(size_of::<Uid>() <= 24);
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_is_equal_only_to_itself(a in "[0-9a-fA-F-]{35,37}|.*", b in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}") {
            prop_assert_eq!(Uid::new(&a).to_string(), a.clone());
            prop_assert_eq!(Uid::new(&b).to_string(), b.clone());
            prop_assert_eq!(Uid::new(&a) == Uid::new(&b), a == b);
        }
    }
}
