//! The names that outlive a reboot: a published device's name and a GPU's UUID.
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::PciAddress;

/// A device's name in a ResourceSlice: a DNS label, unique in its pool (KEP-4381).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

/// What of a GPU a published device stands for. The mode is in the name, so that a scheduler which knows a name as
/// exclusive never meets it as shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All of it, for one claim.
    Whole,
    /// All of it, for several claims with a part of the capacity each (KEP-5075).
    Shared,
    /// One of a fixed number of shares, each a device of its own, for API servers that don't know the above.
    Slot(u16),
    /// All of it, only for claims with admin access (KEP-5018), whatever others hold.
    Admin,
    /// All of it with the rest of its IOMMU group, for a virtual machine.
    Vfio,
}

/// What a shared device's name ends in.
pub const SHARED: &str = "-shared";
const ADMIN: &str = "-admin";
const VFIO: &str = "-vfio";
const SLOT: &str = "-share-";

/// The text is no DNS label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device name: a name has 1 to 63 of a-z, 0-9 and '-', and begins and ends with a letter or digit")]
pub struct InvalidDeviceName(String);

impl DeviceName {
    /// The whole GPU at an address.
    ///
    /// It comes from the place and not from NVML's index, so that it survives reboots and reordering. A display
    /// controller is function 0 of its slot, hence the function is left out unless it is another one.
    pub fn whole(pci: PciAddress) -> Self {
        let (domain, bus, device) = (pci.domain(), pci.bus(), pci.device());
        match pci.function() {
            0 => Self(format!("gpu-{domain:04x}-{bus:02x}-{device:02x}")),
            function => Self(format!("gpu-{domain:04x}-{bus:02x}-{device:02x}-{function:x}")),
        }
    }

    /// A part of the GPU at an address; it begins with the whole GPU's name.
    pub fn of(pci: PciAddress, part: Part) -> Self {
        let Self(whole) = Self::whole(pci);
        Self(match part {
            Part::Whole => whole,
            Part::Shared => whole + SHARED,
            Part::Admin => whole + ADMIN,
            Part::Vfio => whole + VFIO,
            Part::Slot(number) => format!("{whole}{SLOT}{number}"),
        })
    }

    /// Which part this is of the GPU at an address; none where it is another GPU's, or no name that [`DeviceName::of`]
    /// gives.
    pub fn part_of(&self, pci: PciAddress) -> Option<Part> {
        let rest = self.0.strip_prefix(Self::whole(pci).as_str())?;
        let part = match rest {
            "" => Part::Whole,
            SHARED => Part::Shared,
            ADMIN => Part::Admin,
            VFIO => Part::Vfio,
            _ => Part::Slot(rest.strip_prefix(SLOT)?.parse().ok()?),
        };
        // Numbers have one spelling: "-share-07" is nobody's name.
        (Self::of(pci, part) == *self).then_some(part)
    }

    /// Whether several claims may have it at once.
    pub fn is_shared(&self) -> bool {
        self.0.ends_with(SHARED)
    }

    /// Whether it is for a virtual machine.
    pub fn is_vfio(&self) -> bool {
        self.0.ends_with(VFIO)
    }

    /// Whether it is only for claims with admin access.
    pub fn is_admin(&self) -> bool {
        self.0.ends_with(ADMIN)
    }

    /// The name of the whole GPU that this is a part of.
    pub fn gpu(&self) -> &str {
        let slot = self.0.rsplit_once(SLOT).filter(|(_, number)| number.bytes().all(|b| b.is_ascii_digit()));
        let part = [SHARED, ADMIN, VFIO].iter().find_map(|end| self.0.strip_suffix(end));
        part.or(slot.map(|(gpu, _)| gpu)).unwrap_or(&self.0)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = InvalidDeviceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let body = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if text.len() <= 63 && body && edge(text.bytes().next()) && edge(text.bytes().last()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDeviceName(text.to_owned()))
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DeviceName {
    type Error = InvalidDeviceName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

/// A GPU's UUID as NVML gives it: `GPU-` and 36 characters (nvmlDeviceGetUUID).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuUuid(String);

/// The text is no GPU UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no GPU UUID: it begins with \"GPU-\" and has up to 64 letters, digits and '-'")]
pub struct InvalidGpuUuid(String);

impl GpuUuid {
    /// What stands for the GPUs of an IOMMU group in place of a UUID, which only NVIDIA's driver could tell: the address
    /// of the first. It is the same whichever kernel driver has them.
    pub fn of_place(pci: PciAddress) -> Self {
        let (domain, bus, device, function) = (pci.domain(), pci.bus(), pci.device(), pci.function());
        Self(format!("GPU-pci-{domain:04x}-{bus:02x}-{device:02x}-{function:x}"))
    }

    /// The UUID as text, with its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GpuUuid {
    type Err = InvalidGpuUuid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("GPU-").unwrap_or_default();
        let plain = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !rest.is_empty() && plain && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidGpuUuid(text.to_owned()))
        }
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for GpuUuid {
    type Error = InvalidGpuUuid;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GpuUuid> for String {
    fn from(uuid: GpuUuid) -> Self {
        uuid.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_gpu_is_named_after_its_place() {
        assert_eq!(DeviceName::whole("0000:41:00.0".parse().unwrap()).as_str(), "gpu-0000-41-00");
        assert_eq!(DeviceName::whole("10000:0a:1f.1".parse().unwrap()).as_str(), "gpu-10000-0a-1f-1");
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for text in ["", "..", "a/b", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            assert!(text.parse::<DeviceName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_uuid_keeps_its_prefix_and_nothing_strange() {
        assert!("GPU-a669635e-6dfb-38a3-2f06-448166423d32".parse::<GpuUuid>().is_ok());
        for text in ["GPU-", "a669635e", "MIG-a669635e", "GPU-a/../b", "GPU-a\n"] {
            assert!(text.parse::<GpuUuid>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_part_is_read_back_from_the_name() {
        let pci: PciAddress = "0000:41:00.0".parse().unwrap();
        assert_eq!(DeviceName::of(pci, Part::Shared).as_str(), "gpu-0000-41-00-shared");
        for part in [Part::Whole, Part::Shared, Part::Admin, Part::Vfio, Part::Slot(0), Part::Slot(127)] {
            assert_eq!(DeviceName::of(pci, part).part_of(pci), Some(part));
            assert_eq!(DeviceName::of(pci, part).gpu(), DeviceName::whole(pci).as_str());
            assert_eq!(DeviceName::of(pci, part).part_of("0000:42:00.0".parse().unwrap()), None);
        }
        for name in ["gpu-0000-41-00-share-07", "gpu-0000-41-00-share", "gpu-0000-41-00-1", "gpu-0000-41-000"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().part_of(pci), None, "{name}");
        }
    }

    #[test]
    fn a_place_in_place_of_a_uuid_is_one_that_can_be_read_back() {
        let uuid = GpuUuid::of_place("10000:0a:1f.1".parse().unwrap());
        assert_eq!(uuid.as_str(), "GPU-pci-10000-0a-1f-1");
        assert_eq!(uuid.as_str().parse(), Ok(uuid));
    }

    proptest! {
        #[test]
        fn every_address_gives_a_valid_name_of_its_own(a in "[0-9a-f]{4}:[0-9a-f]{2}:0[0-9a-f]\\.[0-7]",
                                                       b in "[0-9a-f]{4}:[0-9a-f]{2}:0[0-9a-f]\\.[0-7]") {
            let (a, b): (PciAddress, PciAddress) = (a.parse().unwrap(), b.parse().unwrap());
            let (name_a, name_b) = (DeviceName::whole(a), DeviceName::whole(b));
            prop_assert!(name_a.as_str().parse::<DeviceName>().is_ok());
            prop_assert_eq!(name_a == name_b, a == b);
        }
    }
}
