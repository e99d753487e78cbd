//! What a GPU measures of itself: one sample of everything that metrics show of it, in NVML's own units.
//!
//! NVML's wrapper can't ask for all links of a GPU together, so fields are asked for here.
//!
//! Every question may be one that the GPU, its driver or the library doesn't know; its answer is absent then, and never zero.
#![allow(unsafe_code, reason = "one C function, called as its wrapper does, but with the scope of its fields")]
use std::time::{SystemTime, UNIX_EPOCH};

use aliquot_model::{GpuUuid, Memory};
use nvml_wrapper::{
    Device, Nvml as Library,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, PcieUtilCounter, TemperatureSensor},
    enums::device::SampleValue,
    error::{NvmlError, nvml_try},
    struct_wrappers::device::FieldValueSample,
};
use nvml_wrapper_sys::bindings::{field_id as id, nvmlFieldValue_t, nvmlValue_t};

/// How far back NVML is asked for what processes did, in microseconds: longer than its own sampling takes (1 s at most).
const RECENT: u64 = 2_000_000;

/// What became of asking one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampled {
    /// The GPU that was asked.
    pub gpu: GpuUuid,
    /// What it measures, or why it didn't tell.
    pub sample: Result<Sample, NoSample>,
}

/// Why there is no sample of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSample {
    /// It wasn't there any more, or failed as a whole.
    #[error("it failed to answer: {0}")]
    Failed(String),
    /// It didn't answer in time, or still owes an earlier answer.
    #[error("it doesn't answer: it or the kernel driver hangs (see the kernel's log for NVRM and Xid)")]
    Hangs,
}

/// What one GPU measures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Per cent of the last sample period in which a kernel ran (`nvmlDeviceGetUtilizationRates`).
    pub busy: Option<u32>,
    /// Per cent of it in which memory was read or written (the same).
    pub memory_busy: Option<u32>,
    /// Per cent in which the video encoder ran (`nvmlDeviceGetEncoderUtilization`).
    pub encoder_busy: Option<u32>,
    /// Per cent in which the video decoder ran (`nvmlDeviceGetDecoderUtilization`).
    pub decoder_busy: Option<u32>,
    /// Memory in use, and all (`nvmlDeviceGetMemoryInfo_v2`).
    pub memory: Option<MemoryUse>,
    /// Of the GPU, in °C (`nvmlDeviceGetTemperature`).
    pub temperature: Option<u32>,
    /// Of its memory, in °C (`NVML_FI_DEV_MEMORY_TEMP`).
    pub memory_temperature: Option<u64>,
    /// In mW (`nvmlDeviceGetPowerUsage`).
    pub power: Option<u32>,
    /// What it is held to, in mW (`nvmlDeviceGetEnforcedPowerLimit`).
    pub power_limit: Option<u32>,
    /// Since the driver was loaded, in mJ (`NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION`).
    pub energy: Option<u64>,
    /// In MHz (`nvmlDeviceGetClockInfo`, SM).
    pub sm_clock: Option<u32>,
    /// In MHz (the same, memory).
    pub memory_clock: Option<u32>,
    /// What keeps the clocks down (`nvmlDeviceGetCurrentClocksThrottleReasons`).
    pub throttled: Option<Vec<Throttle>>,
    /// Over PCIe since the driver was loaded, in bytes (`NVML_FI_DEV_PCIE_COUNT_TX_BYTES`, `…_RX_BYTES`).
    pub pcie: Traffic,
    /// Over PCIe in 20 ms, in KB/s (`nvmlDeviceGetPcieThroughput`), where it has no such counters.
    pub pcie_rate: Traffic,
    /// PCIe packets sent again (`NVML_FI_DEV_PCIE_REPLAY_COUNTER`).
    pub pcie_replays: Option<u64>,
    /// Data over all `NVLinks` in KiB (`NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX`, `…_RX`).
    pub nvlink: Traffic,
    /// Faulty packets, and what became of them, over all `NVLinks`.
    pub nvlink_errors: NvlinkErrors,
    /// ECC errors since the driver was loaded (`NVML_FI_DEV_ECC_SBE_VOL_TOTAL`, `…_DBE_VOL_TOTAL`).
    pub ecc: Errors,
    /// ECC errors in the GPU's life (`NVML_FI_DEV_ECC_SBE_AGG_TOTAL`, `…_DBE_AGG_TOTAL`).
    pub ecc_ever: Errors,
    /// Rows of memory replaced for errors (`NVML_FI_DEV_REMAPPED_COR`, `…_UNC`).
    pub remapped: Errors,
    /// Whether a row is replaced at the next reset (`NVML_FI_DEV_REMAPPED_PENDING`).
    pub remap_pending: Option<u64>,
    /// Processes and the per cent of the GPU's time that each took (`nvmlDeviceGetProcessUtilization`); none did where
    /// the list is empty.
    pub processes: Option<Vec<ProcessShare>>,
}

/// Of a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// In use.
    pub used: Memory,
    /// All of it.
    pub total: Memory,
}

/// Both ways, in the unit that the field with it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// From the GPU.
    pub sent: Option<u64>,
    /// To the GPU.
    pub received: Option<u64>,
}

/// How many of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Errors {
    /// Put right by the hardware.
    pub corrected: Option<u64>,
    /// Not put right.
    pub uncorrected: Option<u64>,
}

/// Counters of all `NVLinks` together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NvlinkErrors {
    /// `NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL`.
    pub crc_flit: Option<u64>,
    /// `NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL`.
    pub crc_data: Option<u64>,
    /// `NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL`.
    pub replay: Option<u64>,
    /// `NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL`.
    pub recovery: Option<u64>,
}

/// One process's part of a GPU's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessShare {
    /// In the pid namespace of the driver.
    pub pid: u32,
    /// Per cent of the time of its SMs.
    pub sm: u32,
}

/// What keeps clocks down (`nvmlClocksThrottleReason…`). An idle GPU and clocks that somebody set count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Throttle {
    /// The power limit.
    PowerCap,
    /// Any of the hardware's own: heat, a power brake or the supply's.
    Hardware,
    /// Clocks that are kept equal among GPUs.
    SyncBoost,
    /// Heat, by the driver.
    SoftwareHeat,
    /// Heat, by the hardware.
    HardwareHeat,
    /// The power supply's brake signal.
    PowerBrake,
}

impl Throttle {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::PowerCap, Self::Hardware, Self::SyncBoost, Self::SoftwareHeat, Self::HardwareHeat, Self::PowerBrake];

    fn bit(self) -> ThrottleReasons {
        match self {
            Self::PowerCap => ThrottleReasons::SW_POWER_CAP,
            Self::Hardware => ThrottleReasons::HW_SLOWDOWN,
            Self::SyncBoost => ThrottleReasons::SYNC_BOOST,
            Self::SoftwareHeat => ThrottleReasons::SW_THERMAL_SLOWDOWN,
            Self::HardwareHeat => ThrottleReasons::HW_THERMAL_SLOWDOWN,
            Self::PowerBrake => ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
        }
    }
}

/// Asks one GPU for everything. Only the loss of the GPU is an error.
pub(crate) fn take(library: &Library, device: &Device<'_>) -> Result<Sample, NvmlError> {
    let rates = match device.utilization_rates() {
        Err(error @ (NvmlError::GpuLost | NvmlError::Uninitialized)) => return Err(error),
        rates => rates.ok(),
    };
    let memory = device.memory_info().ok();
    let memory = memory
        .map(|memory| MemoryUse { used: Memory::from_bytes(memory.used), total: Memory::from_bytes(memory.total) });
    let throttled = device.current_throttle_reasons().ok();
    let sample = Sample {
        busy: rates.as_ref().map(|rates| rates.gpu),
        memory_busy: rates.map(|rates| rates.memory),
        encoder_busy: device.encoder_utilization().ok().map(|encoder| encoder.utilization),
        decoder_busy: device.decoder_utilization().ok().map(|decoder| decoder.utilization),
        memory,
        temperature: device.temperature(TemperatureSensor::Gpu).ok(),
        power: device.power_usage().ok(),
        power_limit: device.enforced_power_limit().ok(),
        sm_clock: device.clock_info(Clock::SM).ok(),
        memory_clock: device.clock_info(Clock::Memory).ok(),
        throttled: throttled.map(|bits| Throttle::ALL.into_iter().filter(|why| bits.contains(why.bit())).collect()),
        processes: processes(device),
        ..fields(library, device)
    };
    let rate = |counter| device.pcie_throughput(counter).ok().map(u64::from);
    let counts = sample.pcie.sent.is_some() || sample.pcie.received.is_some();
    // Each of these takes the 20 ms that it measures.
    let pcie_rate = if counts {
        Traffic::default()
    } else {
        Traffic { sent: rate(PcieUtilCounter::Send), received: rate(PcieUtilCounter::Receive) }
    };
    Ok(Sample { pcie_rate, ..sample })
}

/// What is asked for as fields. Their numbers are the same in all releases of NVML; those above 250 are not.
const FIELDS: [u32; 19] = [
    id::NVML_FI_DEV_MEMORY_TEMP,
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
    id::NVML_FI_DEV_ECC_CURRENT,
    id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL,
    id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
    id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL,
    id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL,
    id::NVML_FI_DEV_REMAPPED_COR,
    id::NVML_FI_DEV_REMAPPED_UNC,
    id::NVML_FI_DEV_REMAPPED_PENDING,
];

/// All links together, for fields that have links; others have no scope.
fn scope(field: u32) -> u32 {
    match field {
        id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX | id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX => u32::MAX,
        _ => 0,
    }
}

/// `nvmlDeviceGetFieldValues`, for [`FIELDS`].
fn values(library: &Library, device: &Device<'_>) -> Option<[nvmlFieldValue_t; FIELDS.len()]> {
    let mut values = FIELDS.map(|field| nvmlFieldValue_t {
        fieldId: field,
        scopeId: scope(field),
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        nvmlReturn: 0,
        value: nvmlValue_t { ullVal: 0 },
    });
    let ask = library.lib().nvmlDeviceGetFieldValues.as_ref().ok()?;
    let count = i32::try_from(values.len()).ok()?;
    // SAFETY: the handle is of the session that is open, and the values, as many as is said, live through the call.
    nvml_try(unsafe { ask(device.handle(), count, values.as_mut_ptr()) }).ok()?;
    Some(values)
}

/// What NVML gives as fields: all in one call.
fn fields(library: &Library, device: &Device<'_>) -> Sample {
    let answers = values(library, device);
    let value = |field: u32| {
        let at = FIELDS.iter().position(|asked| *asked == field)?;
        number(&FieldValueSample::try_from(*answers.as_ref()?.get(at)?).ok()?.value.ok()?)
    };
    // Counters of ECC that is off are zero for another reason than that there was no error.
    let ecc = |field: u32| value(id::NVML_FI_DEV_ECC_CURRENT).filter(|on| *on != 0).and_then(|_| value(field));
    Sample {
        memory_temperature: value(id::NVML_FI_DEV_MEMORY_TEMP),
        energy: value(id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION),
        pcie: Traffic {
            sent: value(id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES),
            received: value(id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES),
        },
        pcie_replays: value(id::NVML_FI_DEV_PCIE_REPLAY_COUNTER),
        nvlink: Traffic {
            sent: value(id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX),
            received: value(id::NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX),
        },
        nvlink_errors: NvlinkErrors {
            crc_flit: value(id::NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL),
            crc_data: value(id::NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL),
            replay: value(id::NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL),
            recovery: value(id::NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL),
        },
        ecc: Errors {
            corrected: ecc(id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL),
            uncorrected: ecc(id::NVML_FI_DEV_ECC_DBE_VOL_TOTAL),
        },
        ecc_ever: Errors {
            corrected: ecc(id::NVML_FI_DEV_ECC_SBE_AGG_TOTAL),
            uncorrected: ecc(id::NVML_FI_DEV_ECC_DBE_AGG_TOTAL),
        },
        remapped: Errors {
            corrected: value(id::NVML_FI_DEV_REMAPPED_COR),
            uncorrected: value(id::NVML_FI_DEV_REMAPPED_UNC),
        },
        remap_pending: value(id::NVML_FI_DEV_REMAPPED_PENDING),
        ..Sample::default()
    }
}

fn number(value: &SampleValue) -> Option<u64> {
    match *value {
        SampleValue::U32(number) => Some(number.into()),
        SampleValue::U64(number) => Some(number),
        SampleValue::I64(number) => u64::try_from(number).ok(),
        SampleValue::F64(_) => None,
    }
}

fn processes(device: &Device<'_>) -> Option<Vec<ProcessShare>> {
    #[allow(
        clippy::disallowed_methods,
        reason = "NVML's samples are of the clock of the day, and nothing is decided by it"
    )]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let since = u64::try_from(now.as_micros()).ok()?.saturating_sub(RECENT);
    match device.process_utilization_stats(since) {
        Ok(stats) => Some(stats.iter().map(|stat| ProcessShare { pid: stat.pid, sm: stat.sm_util }).collect()),
        // No process did anything.
        Err(NvmlError::NotFound) => Some(Vec::new()),
        Err(_) => None,
    }
}
