//! What a simulated GPU measures: an idle one of a data centre, unless the control file says otherwise.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answers to NVML's questions, in NVML's units; a question without an answer is one that the GPU doesn't support.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Readings {
    /// Per cent of the time in which it computed, and in which its memory was used.
    pub busy: Option<[u32; 2]>,
    /// In bytes.
    pub memory_used: u64,
    /// In °C.
    pub temperature: Option<u32>,
    /// In mW.
    pub power: Option<u32>,
    /// In mW.
    pub power_limit: Option<u32>,
    /// By the number of a process: per cent of the time of the SMs.
    pub processes: Option<BTreeMap<u32, u32>>,
}

impl Default for Readings {
    fn default() -> Self {
        Self {
            busy: Some([0, 0]),
            memory_used: 0,
            temperature: Some(31),
            power: Some(70_000),
            power_limit: Some(700_000),
            processes: Some(BTreeMap::new()),
        }
    }
}
