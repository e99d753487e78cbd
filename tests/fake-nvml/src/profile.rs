//! The GPUs of a simulated node, as a file describes them.
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::settings;

/// At the very end of a library that carries its profile.
const MAGIC: &[u8; 8] = b"FAKENVML";

/// A node's GPUs and driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// As the driver writes it, such as `580.95.05`.
    pub driver_version: String,
    /// `1000 * major + 10 * minor`.
    pub cuda_driver_version: i32,
    /// In the order of NVML's index.
    pub gpus: Vec<GpuProfile>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GpuProfile {
    /// With its prefix `GPU-`.
    pub uuid: String,
    /// The product's name.
    pub name: String,
    /// In sysfs's form, `0000:65:00.0`.
    pub pci: String,
    /// N in /dev/nvidiaN.
    pub minor: u32,
    /// In bytes.
    pub memory: u64,
    /// `nvmlBrandType_t`.
    pub brand: u32,
    /// `nvmlDeviceArchitecture_t`.
    pub architecture: u32,
    /// Major and minor.
    pub compute_capability: [i32; 2],
    /// The board's serial number.
    pub serial: String,
    /// For sysfs: `pci0000:64`.
    pub pcie_root: String,
    /// For sysfs: -1 where the firmware names none.
    pub numa_node: i32,
    /// Whether the driver holds a cgroup's memory to a limit, as it does from release 615 on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memory_limits: bool,
    /// Whether the length of its time slice can be set.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub time_slice: bool,
    /// What functions answer instead, by name or `*` for all about this GPU.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u32>,
}

fn yes() -> bool {
    true
}

impl Profile {
    /// Names of the profiles that come with the library.
    pub const NAMES: [&'static str; 7] = ["h100x8", "a100x4", "l40sx2", "t4x1", "mixed", "limits", "failing"];

    /// One of the profiles that come with the library.
    pub fn named(name: &str) -> Option<Self> {
        let text = match name {
            "h100x8" => include_str!("../profiles/h100x8.json"),
            "a100x4" => include_str!("../profiles/a100x4.json"),
            "l40sx2" => include_str!("../profiles/l40sx2.json"),
            "t4x1" => include_str!("../profiles/t4x1.json"),
            "mixed" => include_str!("../profiles/mixed.json"),
            "limits" => include_str!("../profiles/limits.json"),
            "failing" => include_str!("../profiles/failing.json"),
            _ => return None,
        };
        serde_json::from_str(text).ok()
    }

    /// The library with this profile appended; a container that has only this one file sees these GPUs.
    pub fn append_to(&self, library: &[u8]) -> Vec<u8> {
        let mut bytes = library.to_vec();
        let json = serde_json::to_vec(self).unwrap_or_default();
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(&(json.len() as u64).to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    /// The profile that goes with the library in a file: `FAKE_NVML_PROFILE`, or what is appended to the file.
    pub fn in_force(library: &Path) -> Option<Self> {
        match settings::value("FAKE_NVML_PROFILE", library) {
            Some(path) => serde_json::from_slice(&std::fs::read(path).ok()?).ok(),
            None => Self::of_library(&mut File::open(library).ok()?),
        }
    }

    /// The profile at the end of a library, if there is one. Only that is read: a large buffer, once freed, has the
    /// allocator of the program that is measured keep what it would return.
    pub(crate) fn of_library(library: &mut (impl Read + Seek)) -> Option<Self> {
        let mut end = [0; 16];
        let at = library.seek(SeekFrom::End(-16)).ok()?;
        library.read_exact(&mut end).ok()?;
        let (length, magic) = end.split_first_chunk::<8>()?;
        let length = u64::from_le_bytes(*length);
        if magic != MAGIC {
            return None;
        }
        library.seek(SeekFrom::Start(at.checked_sub(length)?)).ok()?;
        let mut json = Vec::new();
        library.take(length).read_to_end(&mut json).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn every_profile_can_be_read_and_has_gpus_with_places_of_their_own() {
        for name in Profile::NAMES {
            let profile = Profile::named(name).unwrap();
            let mut places: Vec<_> = profile.gpus.iter().map(|gpu| (&gpu.pci, gpu.minor)).collect();
            places.sort();
            places.dedup();
            assert!(!places.is_empty() && places.len() == profile.gpus.len(), "{name}");
        }
    }

    #[test]
    fn a_gpu_of_which_nothing_is_said_has_time_slices_and_no_memory_limits() {
        for gpu in Profile::named("mixed").unwrap().gpus {
            assert_eq!((gpu.time_slice, gpu.memory_limits), (true, false));
        }
    }

    #[test]
    fn an_appended_profile_is_found_again() {
        let profile = Profile::named("mixed").unwrap();
        let found = |library: &[u8]| Profile::of_library(&mut Cursor::new(library));
        assert_eq!(found(&profile.append_to(b"\x7fELF...")), Some(profile));
        assert_eq!(
            (found(b"\x7fELF..."), found(&[0; 64]), found(b"\xff\xff\xff\xff\xff\xff\xff\xffFAKENVML")),
            (None, None, None)
        );
    }
}
