//! The record of one claim: what it holds on this node, and how far preparing it got.
//!
//! A record file is a line of JSON and a line with the CRC-32 of its bytes. The checksum is over the bytes and not over
//! a structure, so a field that another version added doesn't make a good record look broken.
use aliquot_model::{DeviceName, GpuUuid, Memory};
use aliquot_params::TimeSlice;
use dra_plugin::{ClaimRef, InvalidClaim, PodRef, PreparedDevice};
use serde::{Deserialize, Serialize};

use crate::edits::Base;

/// The schema that this build writes. Readers take any schema whose fields they find, so that a downgrade works.
pub(super) const SCHEMA: u32 = 1;

/// A larger file is none of ours: 32 devices and 256 pods, as many as a claim can have, stay below with the longest names.
pub(super) const LARGEST: u64 = 256 * 1024;

/// One claim on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// See [`SCHEMA`].
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
    /// N in /dev/nvidiaN.
    pub minor: u32,
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
    /// The name by which the container runtime injects it.
    pub cdi_id: String,
}

impl Held {
    /// The part of the name after `=`.
    pub(crate) fn cdi_name(&self) -> &str {
        self.cdi_id.split_once('=').map_or(self.cdi_id.as_str(), |(_, name)| name)
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
    /// The JSON isn't a record's.
    #[error("it is no record")]
    Content(#[from] serde_json::Error),
}

impl Record {
    /// The file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec(self)?;
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
        Ok(bytes)
    }

    /// Back from the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Form)?;
        let mut lines = text.split('\n');
        let (Some(json), Some(found), Some("")) = (lines.next(), lines.next(), lines.next()) else {
            return Err(Unreadable::Form);
        };
        let computed = crc32fast::hash(json.as_bytes());
        if u32::from_str_radix(found, 16) != Ok(computed) {
            return Err(Unreadable::Checksum { found: found.chars().take(16).collect(), computed });
        }
        Ok(serde_json::from_str(json)?)
    }

    /// What the kubelet is told.
    pub fn answer(&self, base: &Base) -> Vec<PreparedDevice> {
        self.devices
            .iter()
            .map(|held| PreparedDevice {
                request_names: vec![held.request.clone()],
                pool: held.pool.clone(),
                device: held.device.to_string(),
                cdi_ids: vec![base.cdi_id.clone(), held.cdi_id.clone()],
                share_id: held.share_id.clone(),
            })
            .collect()
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
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A share of 80 GiB in ten parts.
    pub(crate) fn share(uid: &str, gpu: &str, shares: u32, gibibytes: u64) -> Record {
        let mut record = record(uid, &[gpu]);
        let room = |shares, gibibytes: u64| Room { shares, memory: Memory::from_bytes(gibibytes << 30) };
        let held = &mut record.devices[0];
        held.device = format!("{gpu}-shared").parse().unwrap();
        held.share_id = Some(format!("share-{uid}"));
        held.share = Some(Share { takes: room(shares, gibibytes), of: room(10, 80), alone: false, hard: false });
        record
    }

    /// Whole GPUs, each of a UUID of its own.
    pub(crate) fn record(uid: &str, devices: &[&str]) -> Record {
        let held = |device: &&str| Held {
            request: "gpu".into(),
            pool: "gpu.example.com/node1".into(),
            device: device.parse().unwrap(),
            gpu: format!("GPU-{device}").parse().unwrap(),
            minor: 0,
            admin_access: false,
            share_id: None,
            share: None,
            time_slice: None,
            cdi_id: format!("gpu.example.com/claim={uid}-{device}"),
        };
        Record {
            schema: SCHEMA,
            boot_id: "boot-1".into(),
            claim: ClaimRef::new("default", "claim", uid).unwrap(),
            state: State::Preparing,
            devices: devices.iter().map(held).collect(),
            pods: vec![],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut shared = share("u2", "gpu-0000-41-00", 2, 16);
        shared.devices[0].time_slice = Some(Slice { interval: TimeSlice::Short, asked: true, required: true });
        shared.devices[0].share.as_mut().unwrap().hard = true;
        shared.pods = vec![PodRef { name: "a".into(), uid: "b".into() }];
        for record in [record("u1", &["gpu-0000-41-00", "gpu-0000-42-00"]), shared] {
            assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
        }
    }

    #[test]
    fn a_field_of_a_later_version_is_no_damage() {
        let mut json = serde_json::to_value(record("u1", &["gpu-0000-41-00"])).unwrap();
        json["later"] = serde_json::json!({"a": 1});
        json["schema"] = serde_json::json!(2);
        let mut bytes = serde_json::to_vec(&json).unwrap();
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
        assert_eq!(Record::decode(&bytes).unwrap().schema, 2);
    }

    proptest! {
        #[test]
        fn a_changed_or_missing_byte_is_noticed(at in 0usize..400, with: u8) {
            let good = record("u1", &["gpu-0000-41-00"]).encode().unwrap();
            let at = at % good.len();
            prop_assert!(Record::decode(&good[..at]).is_err());
            let mut bad = good.clone();
            bad[at] = with;
            // The checksum's own hexadecimal digits may change in case and still say the same.
            prop_assert!(bad.eq_ignore_ascii_case(&good) || Record::decode(&bad).is_err());
        }
    }
}
