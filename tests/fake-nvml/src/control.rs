//! Trouble on demand: what a test writes into the control file takes effect with the next call.
use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::Readings;

/// The content of a control file; a missing or empty file is no trouble.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Control {
    /// What `nvmlInit_v2` answers.
    pub init: Option<u32>,
    /// UUIDs of GPUs that are no longer there.
    pub removed: Vec<String>,
    /// By UUID, then by function or `*`: what is answered instead.
    pub errors: BTreeMap<String, BTreeMap<String, u32>>,
    /// By function: how long a call takes, in milliseconds.
    pub hang: BTreeMap<String, u64>,
    /// By UUID: the processes on a GPU. One that computes and draws has an entry for each.
    pub processes: BTreeMap<String, Vec<Process>>,
    /// What has happened so far: each set of events gives what came after it was made, once.
    pub events: Vec<Happening>,
    /// By UUID: what a GPU needs before it is used (`nvmlDeviceGpuRecoveryAction_t`), and 0 for nothing.
    pub recovery: BTreeMap<String, u32>,
    /// By UUID, then by function: how long a call about that GPU takes, in milliseconds.
    pub hangs: BTreeMap<String, BTreeMap<String, u64>>,
    /// By UUID: what a GPU measures.
    pub readings: BTreeMap<String, Readings>,
}

/// Something that a GPU reports by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Happening {
    /// The GPU's UUID.
    pub gpu: String,
    /// `nvmlEventType…`.
    pub kind: u64,
    /// The number of an Xid.
    pub data: u64,
}

/// What one process has on one GPU; it is told of for as long as the process lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Process {
    /// As the reader of the list sees it in /proc.
    pub pid: u32,
    /// Bytes of the GPU's memory; none is NVML's "not available".
    pub used: Option<u64>,
    /// Whether it draws and doesn't compute.
    pub graphics: bool,
}

impl Control {
    pub(crate) fn read(path: &Path) -> Self {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}
