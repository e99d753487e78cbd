//! What a simulated GPU measures: an idle one of a data centre, unless the control file says otherwise.
use std::collections::BTreeMap;

use nvml_wrapper_sys::bindings::field_id as id;
use serde::{Deserialize, Serialize};

/// The answers to NVML's questions, in NVML's units; a question without an answer is one that the GPU doesn't support.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Readings {
    /// Per cent of the time in which it computed, and in which its memory was used.
    pub busy: Option<[u32; 2]>,
    /// Per cent of the time of its video encoder.
    pub encoder: Option<u32>,
    /// Per cent of the time of its video decoder.
    pub decoder: Option<u32>,
    /// In bytes.
    pub memory_used: u64,
    /// In °C.
    pub temperature: Option<u32>,
    /// In mW.
    pub power: Option<u32>,
    /// In mW.
    pub power_limit: Option<u32>,
    /// Of its SMs and of its memory, in MHz.
    pub clocks: Option<[u32; 2]>,
    /// Bits of `nvmlClocksThrottleReason…`.
    pub throttled: Option<u64>,
    /// Sent and received over PCIe, in KB/s.
    pub pcie_rate: Option<[u32; 2]>,
    /// By number (`NVML_FI_DEV_…`).
    pub fields: BTreeMap<u32, u64>,
    /// By the number of a process: per cent of the time of the SMs.
    pub processes: Option<BTreeMap<u32, u32>>,
}

impl Default for Readings {
    fn default() -> Self {
        let zero = [
            id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
            id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
            id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
            id::NVML_FI_DEV_PCIE_REPLAY_COUNTER,
            id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX,
            id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
            id::NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
            id::NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
            id::NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
            id::NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
            id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
            id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
            id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
            id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
            id::NVML_FI_DEV_REMAPPED_COR,
            id::NVML_FI_DEV_REMAPPED_UNC,
            id::NVML_FI_DEV_REMAPPED_PENDING,
        ];
        let mut fields: BTreeMap<u32, u64> = zero.map(|field| (field, 0)).into();
        fields.extend([(id::NVML_FI_DEV_ECC_CURRENT, 1), (id::NVML_FI_DEV_MEMORY_TEMP, 36)]);
        Self {
            busy: Some([0, 0]),
            encoder: Some(0),
            decoder: Some(0),
            memory_used: 0,
            temperature: Some(31),
            power: Some(70_000),
            power_limit: Some(700_000),
            clocks: Some([345, 2619]),
            // Idle.
            throttled: Some(1),
            pcie_rate: Some([0, 0]),
            fields,
            processes: Some(BTreeMap::new()),
        }
    }
}

impl Readings {
    /// A GPU that supports none of the questions.
    pub fn silent() -> Self {
        Self {
            busy: None,
            encoder: None,
            decoder: None,
            memory_used: 0,
            temperature: None,
            power: None,
            power_limit: None,
            clocks: None,
            throttled: None,
            pcie_rate: None,
            fields: BTreeMap::new(),
            processes: None,
        }
    }
}
