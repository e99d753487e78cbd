//! An amount of memory, read and written as Kubernetes writes it.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An amount of memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Memory(u64);

/// The text is no amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no amount of memory: use a whole number with Ki, Mi, Gi, Ti, k, M, G, T or no unit (bytes), such as 8Gi"
)]
pub struct InvalidMemory(String);

/// The binary units, largest first.
const BINARY: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
/// The decimal units as powers of a thousand.
const DECIMAL: [(&str, u32); 6] = [("E", 6), ("P", 5), ("T", 4), ("G", 3), ("M", 2), ("k", 1)];

impl Memory {
    /// 1 MiB: what is offered and counted is a multiple of it.
    pub const MEBIBYTE: Self = Self(1 << 20);

    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Without what is over a whole number of mebibytes.
    pub const fn floor_to_mebibytes(self) -> Self {
        Self(self.0 - self.0 % Self::MEBIBYTE.0)
    }

    /// One of `count` equal parts, in whole mebibytes.
    pub fn part(self, count: u32) -> Self {
        Self(self.0 / u64::from(count.max(1))).floor_to_mebibytes()
    }

    /// The sum; more than there can be is all there can be.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self(0), Self::plus)
    }
}

/// As a Kubernetes quantity: the largest binary unit that divides it, as the API server itself writes it.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match BINARY.iter().find(|(_, bits)| self.0 != 0 && self.0.is_multiple_of(1 << bits)) {
            Some((name, bits)) => write!(f, "{}{name}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Memory {
    type Err = InvalidMemory;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(Self).ok_or_else(|| InvalidMemory(text.chars().take(40).collect()))
    }
}

fn parse(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let factor = if unit.is_empty() {
        1
    } else if let Some((_, bits)) = BINARY.iter().find(|(name, _)| *name == unit) {
        1 << bits
    } else {
        let (_, thousands) = DECIMAL.iter().find(|(name, _)| *name == unit)?;
        1000u64.pow(*thousands)
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_is_written_in_the_largest_unit_that_divides_it() {
        assert_eq!(Memory::from_bytes(80 << 30).to_string(), "80Gi");
        assert_eq!(Memory::from_bytes(81_559 << 20).to_string(), "81559Mi");
        assert_eq!(Memory::from_bytes(1_000_001).to_string(), "1000001");
        assert_eq!(Memory::from_bytes(0).to_string(), "0");
    }

    #[test]
    fn units_are_those_of_kubernetes() {
        assert_eq!("8Gi".parse(), Ok(Memory::from_bytes(8 << 30)));
        assert_eq!("8G".parse(), Ok(Memory::from_bytes(8_000_000_000)));
        assert_eq!("512".parse(), Ok(Memory::from_bytes(512)));
        for text in ["", "Gi", "-1Gi", "1.5Gi", "8GB", "8 Gi", "99999999999Ei"] {
            assert!(text.parse::<Memory>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn parts_are_whole_mebibytes_and_never_more_than_the_whole() {
        let whole = Memory::from_bytes(81_559 << 20);
        assert_eq!(whole.part(10), Memory::from_bytes(8_155 << 20));
        assert!(whole.part(10).bytes() * 10 <= whole.bytes());
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_itself(bytes: u64) {
            let memory = Memory::from_bytes(bytes);
            prop_assert_eq!(memory.to_string().parse(), Ok(memory));
        }
    }
}
