//! The policy file: which GPUs of a node are offered, and how. Pure.
//!
//! ```yaml
//! apiVersion: gpu.aliquot.dev/v1alpha1
//! kind: Policy
//! rules:                                  # the first that matches a GPU decides
//! - match: {productName: "NVIDIA L40S"}
//!   offer: [shares]
//!   shares: {count: 4, memory: {default: 10Gi}}
//! - offer: [whole, shares]                # without match: every GPU
//! ```
//! [`Policy::parse`] finds what is wrong with the file by itself, [`Policy::for_gpu`] what is wrong with it for a GPU,
//! [`Policy::warnings`] and [`Policy::warning_for`] what can't be meant.
mod file;
mod parse;
mod place;
mod resolve;
mod room;
mod shadow;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use aliquot_model::Memory;
pub use parse::PolicyError;
pub use place::Place;
pub use resolve::{GpuFault, Offer};
pub use room::GpuWarning;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TimeSlice;

/// The largest policy file, which is also the largest `ConfigMap`.
pub const LARGEST: u64 = 1 << 20;

/// The most rules: more than a node has GPUs, and few enough that each is compared with each in a moment.
pub const MOST_RULES: usize = 1000;

/// The most shares of one GPU: what fits into one slice as devices of their own.
pub const MOST_SHARES: u32 = 128;

/// The shares of a GPU where a policy names no count.
pub const DEFAULT_SHARES: u32 = 10;

/// What a policy file says, checked. The default is the policy of a node without a file: every GPU whole and as shares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    rules: Vec<file::Rule>,
    warnings: Vec<String>,
}

/// As what a GPU can be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    /// For one claim at a time.
    Whole,
    /// In parts, for several.
    Shares,
    /// For a virtual machine, by a vfio driver of the kernel.
    Vfio,
}

/// Which GPU the next share is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// The first with room, so that others stay whole.
    #[default]
    Pack,
    /// The one with the fewest shares in use. The scheduler takes the first that fits, so this is the order in which GPUs
    /// are published; claims that are scheduled in one moment still land together.
    Spread,
}

/// Who gives a GPU to a vfio driver of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VfioBinding {
    /// The administrator.
    #[default]
    Static,
    /// Whoever prepares a claim.
    Dynamic,
}

/// The kernel driver that virtual machines' GPUs are with, unless a policy names a variant.
pub const VFIO_PCI: &str = "vfio-pci";

/// What is done about a claim that uses more memory than its share, the gentlest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GuardMode {
    /// Nobody looks.
    Off,
    /// An Event and a metric.
    #[default]
    Observe,
    /// An Event, and the pod is evicted.
    Evict,
    /// An Event, and the claim's largest process is killed.
    Kill,
}

impl GuardMode {
    /// As it is written in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Evict => "evict",
            Self::Kill => "kill",
        }
    }
}

impl fmt::Display for GuardMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the memory of shares is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// What is done.
    pub mode: GuardMode,
    /// For how long a claim may be over its share before that.
    pub grace: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self { mode: GuardMode::default(), grace: Duration::from_secs(10) }
    }
}

/// A GPU's shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// How many.
    pub count: u32,
    /// The memory that they divide, in whole mebibytes.
    pub memory: Memory,
    /// Of a share that doesn't say how much it needs.
    pub default: Memory,
    /// The least that a share can have.
    pub minimum: Memory,
    /// Which GPU comes first.
    pub order: Order,
    /// While only shares without a wish of their own are in use.
    pub time_slice: TimeSlice,
    /// What happens to those that use more.
    pub guard: Guard,
}

/// The JSON schema of the policy file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::File).to_value()
}
