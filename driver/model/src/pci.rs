//! A PCI function's address in the form of sysfs.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a function sits on PCI: `domain:bus:device.function`, in lower-case hexadecimal as in
/// `/sys/bus/pci/devices`.
///
/// The domain has 32 bits, since NVML prints eight digits and some hosts (Hyper-V, VMD) use more than four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// The text is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no PCI address of the form 0000:65:00.0")]
pub struct InvalidPciAddress(String);

impl PciAddress {
    /// The PCI domain (segment).
    pub fn domain(self) -> u32 {
        self.domain
    }

    /// The bus number.
    pub fn bus(self) -> u8 {
        self.bus
    }

    /// The device number, 0 to 31.
    pub fn device(self) -> u8 {
        self.device
    }

    /// The function number, 0 to 7.
    pub fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciAddress {
    type Err = InvalidPciAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| InvalidPciAddress(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let address = PciAddress {
        domain: hex(domain, 8)?,
        bus: u8::try_from(hex(bus, 2)?).ok()?,
        device: u8::try_from(hex(device, 2)?).ok()?,
        function: u8::try_from(hex(function, 1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

fn hex(digits: &str, most: usize) -> Option<u32> {
    let plain = !digits.is_empty() && digits.len() <= most && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u32::from_str_radix(digits, 16).ok())?
}

impl TryFrom<String> for PciAddress {
    type Error = InvalidPciAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nvml_and_sysfs_spellings_are_the_same_address() {
        let nvml: PciAddress = "00000000:41:00.0".parse().unwrap();
        assert_eq!(nvml, "0000:41:00.0".parse().unwrap());
        assert_eq!(nvml.to_string(), "0000:41:00.0");
        assert_eq!("0001:AF:1F.7".parse::<PciAddress>().unwrap().to_string(), "0001:af:1f.7");
    }

    #[test]
    fn a_domain_of_more_than_four_digits_is_kept() {
        assert_eq!("10000:01:00.0".parse::<PciAddress>().unwrap().to_string(), "10000:01:00.0");
    }

    proptest! {
        #[test]
        fn whatever_is_printed_parses_to_itself(domain: u32, bus: u8, device in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, device, function };
            prop_assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
        }

        #[test]
        fn foreign_text_is_refused_without_a_panic(text in ".{0,24}") {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
            }
        }

        #[test]
        fn path_parts_never_pass_as_an_address(text in "[./0-9a-f:]{0,16}/[./0-9a-f:]{0,8}") {
            prop_assert!(text.parse::<PciAddress>().is_err());
        }
    }
}
