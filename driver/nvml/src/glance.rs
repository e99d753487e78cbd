//! What a look at one GPU shows: how busy, full, warm and hungry it is, and which processes keep it busy.
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use aliquot_model::{GpuUuid, Memory};
use nvml_wrapper::{Device, enum_wrappers::device::TemperatureSensor, error::NvmlError};

/// How far back NVML is asked for what processes did, in microseconds: longer than its own sampling takes (1 s at most).
const RECENT: u64 = 2_000_000;

/// What became of looking at one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glanced {
    /// The GPU that was asked.
    pub gpu: GpuUuid,
    /// What it shows, or why it didn't.
    pub glance: Result<Glance, String>,
}

/// What one GPU shows. A question that the GPU, its driver or the library doesn't know has no answer, and never zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Glance {
    /// Per cent of the last sample period in which a kernel ran (`nvmlDeviceGetUtilizationRates`).
    pub busy: Option<u32>,
    /// Memory in use (`nvmlDeviceGetMemoryInfo_v2`).
    pub memory_used: Option<Memory>,
    /// In °C (`nvmlDeviceGetTemperature`).
    pub temperature: Option<u32>,
    /// In mW (`nvmlDeviceGetPowerUsage`).
    pub power: Option<u32>,
    /// What it is held to, in mW (`nvmlDeviceGetEnforcedPowerLimit`).
    pub power_limit: Option<u32>,
    /// By the number of each process in the pid namespace of this one: per cent of the SMs' time
    /// (`nvmlDeviceGetProcessUtilization`).
    pub processes: Option<BTreeMap<u32, u32>>,
}

/// Looks at one GPU. Only the loss of the GPU is an error.
pub(crate) fn take(device: &Device<'_>) -> Result<Glance, NvmlError> {
    let busy = match device.utilization_rates() {
        Err(error @ (NvmlError::GpuLost | NvmlError::Uninitialized)) => return Err(error),
        rates => rates.ok().map(|rates| rates.gpu),
    };
    Ok(Glance {
        busy,
        memory_used: device.memory_info().ok().map(|memory| Memory::from_bytes(memory.used)),
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        power: device.power_usage().ok(),
        power_limit: device.enforced_power_limit().ok(),
        processes: processes(device),
    })
}

fn processes(device: &Device<'_>) -> Option<BTreeMap<u32, u32>> {
    #[allow(clippy::disallowed_methods, reason = "NVML's samples have the time of day")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = u64::try_from(now.as_micros()).unwrap_or_default().saturating_sub(RECENT);
    match device.process_utilization_stats(since) {
        Ok(samples) => {
            let mut latest = BTreeMap::new();
            for sample in samples {
                let known = latest.entry(sample.pid).or_insert((sample.timestamp, sample.sm_util));
                if sample.timestamp >= known.0 {
                    *known = (sample.timestamp, sample.sm_util);
                }
            }
            Some(latest.into_iter().map(|(pid, (_, sm))| (pid, sm)).collect())
        }
        // Nobody did anything.
        Err(NvmlError::NotFound) => Some(BTreeMap::new()),
        Err(_) => None,
    }
}
