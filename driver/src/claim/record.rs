//! The record of one claim: what it holds on this node, and how far preparing it got.
//!
//! A record file is a line of JSON and a line with the CRC-32 of its bytes. The checksum is over the bytes and not over
//! a structure, so a field that another version added doesn't make a good record look broken.
use aliquot_model::{Away, DeviceName, GpuUuid, IommuGroup, Memory, PciAddress, Taken};
use aliquot_params::{Iommu, TimeSlice};
use dra_plugin::{ClaimRef, InvalidClaim, PodRef, PreparedDevice};
use serde::{Deserialize, Serialize};

use super::metadata::{self, Metadata};
use crate::edits::Base;

/// The schema of most records.
///
/// A version that only adds fields keeps the number: readers leave out what they don't know, and take what isn't there for
/// its default, so that upgrades and downgrades read each other's records. A higher number says that this isn't enough:
/// such a record is quarantined.
const PLAIN: u32 = 1;
/// That of records with something that is to be given back to the host: a version that knows nothing of that must not
/// unprepare them. It is the last one that this build reads.
pub(super) const SCHEMA: u32 = 2;

/// The schema of a record with these devices.
pub(super) fn schema(devices: &[Held]) -> u32 {
    let takes = |held: &Held| held.vfio.as_ref().is_some_and(|passed| passed.taken.is_some());
    if devices.iter().any(takes) { SCHEMA } else { PLAIN }
}

/// A larger file is none of ours: 32 devices and 256 pods, as many as a claim can have, stay below with the longest names.
pub(super) const LARGEST: u64 = 256 * 1024;

/// One claim on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// See [`schema`].
    pub schema: u32,
    /// The boot under which it was written; under another one all that it describes has ended.
    pub boot_id: String,
    /// Whose it is.
    #[serde(with = "claim_ref")]
    pub claim: ClaimRef,
    /// How far it got.
    pub state: State,
    /// What it holds, in the order of the allocation.
    pub devices: Vec<Held>,
    /// The pods that it was reserved for at that time; others may come later without another prepare.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "pods")]
    pub pods: Vec<PodRef>,
    /// What containers are told of its devices, where they are told anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
}

/// How far preparing a claim got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// The devices are spoken for; the side effects may be there or not.
    Preparing,
    /// All side effects are there.
    Prepared,
}

/// One device that a claim holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The request in the claim, without sub-request.
    pub request: String,
    /// The pool it was allocated from.
    pub pool: String,
    /// The device.
    pub device: DeviceName,
    /// The physical GPU behind it.
    pub gpu: GpuUuid,
    /// N in /dev/nvidiaN; none where a virtual machine has it. A version before those takes such a record for damaged and
    /// keeps off its devices, in place of handing out a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// Shared with whoever holds it, for administration (KEP-5018): neither excludes nor is excluded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub admin_access: bool,
    /// Which share of the device, where it allows several allocations (KEP-5075).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// How much of the GPU; none where it is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
    /// What the GPU's time slice is to be while this is held; none where it is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_slice: Option<Slice>,
    /// How a virtual machine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vfio: Option<Passed>,
    /// The name by which the container runtime injects it.
    pub cdi_id: String,
}

/// GPUs that a virtual machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// All that goes along.
    pub group: IommuGroup,
    /// The GPUs in it.
    pub gpus: Vec<PciAddress>,
    /// By which nodes.
    pub iommu: Iommu,
    /// What was taken from the host's kernel drivers for it; none where the administrator had done so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
}

impl Held {
    /// The part of the name after `=`.
    pub(crate) fn cdi_name(&self) -> &str {
        self.cdi_id.split_once('=').map_or(self.cdi_id.as_str(), |(_, name)| name)
    }

    /// Whether both are of one GPU, or of GPUs that go together.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let has = |one: &Self, other: &Self| {
            one.vfio.iter().flat_map(|passed| &passed.gpus).any(|pci| other.device.part_of(*pci).is_some())
        };
        self.gpu == other.gpu || has(self, other) || has(other, self)
    }

    /// What is limited, where something is.
    pub(crate) fn hard(&self) -> Option<Memory> {
        self.share.filter(|share| share.hard && !self.admin_access).map(|share| share.takes.memory)
    }
}

/// A part of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// What was allocated: the result's `consumedCapacity`.
    pub takes: Room,
    /// What the GPU offered when it was prepared.
    pub of: Room,
    /// Whether the device has one holder: it is one of a fixed number of shares.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Whether each container that uses it is limited to its memory before it starts, or else doesn't start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hard: bool,
}

/// Shares and memory, of a GPU or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// How many shares.
    pub shares: u32,
    /// How much memory, in bytes.
    pub memory: Memory,
}

impl Room {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { shares: self.shares.saturating_add(other.shares), memory: self.memory.plus(other.memory) }
    }

    /// The larger of each.
    pub(super) fn max(self, other: Self) -> Self {
        Self { shares: self.shares.max(other.shares), memory: self.memory.max(other.memory) }
    }

    /// Whether neither is more than there is.
    pub(super) fn fits_into(self, other: Self) -> bool {
        self.shares <= other.shares && self.memory <= other.memory
    }
}

/// What a GPU's time slice is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// How long.
    pub interval: TimeSlice,
    /// By the claim's parameters, and not only by the node's policy.
    pub asked: bool,
    /// Whether the claim is not to be prepared where the GPU can't set it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file ends early, or isn't text.
    #[error("it is cut short or no text")]
    Form,
    /// The bytes changed after they were written.
    #[error("its checksum is {found}, its bytes have {computed:08x}")]
    Checksum {
        /// In the file.
        found: String,
        /// Of the bytes.
        computed: u32,
    },
    /// A version wrote it that means something else by its fields.
    #[error("it has schema {found}, and this version reads up to {SCHEMA}: a newer version of the driver wrote it")]
    Schema {
        /// In the file.
        found: u64,
    },
    /// The JSON isn't a record's.
    #[error("it is no record")]
    Content(#[from] serde_json::Error),
}

impl Record {
    /// What it has taken from the host's kernel drivers.
    pub(crate) fn taken(&self) -> impl Iterator<Item = &Taken> {
        self.devices.iter().filter_map(|held| held.vfio.as_ref()?.taken.as_ref())
    }

    /// The same as those see it who look at the node's GPUs.
    pub(crate) fn away(&self) -> impl Iterator<Item = Away> {
        let passed = self.devices.iter().filter_map(|held| held.vfio.as_ref());
        passed.filter_map(|passed| {
            let taken = passed.taken.clone()?;
            Some(Away { group: passed.group, taken, is_settled: self.state == State::Prepared })
        })
    }

    /// The file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
        Ok(bytes)
    }

    /// Back from the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let json = checked(bytes)?;
        let Header { schema } = serde_json::from_str(json)?;
        if !(1..=u64::from(SCHEMA)).contains(&schema) {
            return Err(Unreadable::Schema { found: schema });
        }
        Ok(serde_json::from_str(json)?)
    }

    /// What the kubelet is told.
    pub fn answer(&self, base: &Base) -> Vec<PreparedDevice> {
        let answer = self
            .devices
            .iter()
            .map(|held| PreparedDevice {
                request_names: vec![held.request.clone()],
                pool: held.pool.clone(),
                device: held.device.to_string(),
                // NVIDIA's driver on the node is of no use in a virtual machine.
                cdi_ids: match held.vfio {
                    None => vec![base.cdi_id.clone(), held.cdi_id.clone()],
                    Some(_) => vec![held.cdi_id.clone()],
                },
                share_id: held.share_id.clone(),
            })
            .collect();
        metadata::announced(self, answer)
    }
}

/// What any schema begins with.
#[derive(Deserialize)]
struct Header {
    schema: u64,
}

/// The JSON of a file whose checksum is right.
fn checked(bytes: &[u8]) -> Result<&str, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Form)?;
    let mut lines = text.split('\n');
    let (Some(json), Some(found), Some("")) = (lines.next(), lines.next(), lines.next()) else {
        return Err(Unreadable::Form);
    };
    let computed = crc32fast::hash(json.as_bytes());
    if u32::from_str_radix(found, 16) != Ok(computed) {
        return Err(Unreadable::Checksum { found: found.chars().take(16).collect(), computed });
    }
    Ok(json)
}

/// What a file that can't be used as a record shows all the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Glimpse {
    /// The claim that it names.
    pub(super) whose: Option<ClaimRef>,
    /// Whether these are the bytes that a driver wrote.
    pub(super) is_intact: bool,
    /// The devices that it names.
    pub(super) devices: Vec<DeviceName>,
}

impl Glimpse {
    /// Of a file's bytes, whatever they are.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(first).unwrap_or_default();
        let devices = json["devices"].as_array().into_iter().flatten();
        Self {
            whose: json.get("claim").and_then(|claim| claim_ref::deserialize(claim).ok()),
            is_intact: checked(bytes).is_ok(),
            devices: devices.filter_map(|held| held["device"].as_str()?.parse().ok()).collect(),
        }
    }
}

/// Pods as name and UID.
mod pods {
    use serde::{Deserializer, Serializer};

    use super::{Deserialize, PodRef, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        name: String,
        uid: String,
    }

    pub(super) fn serialize<S: Serializer>(pods: &[PodRef], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(pods.iter().map(|pod| Fields { name: pod.name.clone(), uid: pod.uid.clone() }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PodRef>, D::Error> {
        let pods = Vec::<Fields>::deserialize(deserializer)?;
        Ok(pods.into_iter().map(|Fields { name, uid }| PodRef { name, uid }).collect())
    }
}

/// A claim's reference as three fields, checked again when read.
mod claim_ref {
    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{ClaimRef, Deserialize, InvalidClaim, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        namespace: String,
        name: String,
        uid: String,
    }

    pub(super) fn serialize<S: Serializer>(claim: &ClaimRef, serializer: S) -> Result<S::Ok, S::Error> {
        let (namespace, name) = (claim.namespace().to_owned(), claim.name().to_owned());
        Fields { namespace, name, uid: claim.uid().as_str().to_owned() }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClaimRef, D::Error> {
        let Fields { namespace, name, uid } = Fields::deserialize(deserializer)?;
        ClaimRef::new(namespace, name, uid).map_err(|error: InvalidClaim| D::Error::custom(error))
    }
}

#[cfg(test)]
pub(crate) mod tests;
