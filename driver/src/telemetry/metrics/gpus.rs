//! What GPUs measure: which question of NVML is which metric, by OpenTelemetry's names for hardware where they exist.
//!
//! Names: <https://opentelemetry.io/docs/specs/semconv/hardware/gpu/> and its neighbours, in their Prometheus form.
use std::fmt;

use aliquot_model::Gpu;
use aliquot_nvml::{Errors, Sample, Throttle, Traffic};
use prometheus_client::encoding::DescriptorEncoder;

use super::series::{Family, Labels};
use crate::telemetry::sampling::Samples;

/// Labels that only some series of a family have.
type Extra = &'static [(&'static str, &'static str)];
/// Each with its value in the family's unit; absent where the GPU doesn't say.
type Values = Vec<(Extra, Option<f64>)>;
/// What a family takes from a sample.
type Ask = fn(&Sample) -> Values;

const GPU: Extra = &[("hw_type", "gpu")];
const CORRECTED: Extra = &[("hw_type", "gpu"), ("error_type", "corrected")];
const UNCORRECTED: Extra = &[("hw_type", "gpu"), ("error_type", "uncorrected")];
const SENT: Extra = &[("network_io_direction", "transmit")];
const RECEIVED: Extra = &[("network_io_direction", "receive")];

const TABLE: [(Family, Ask); 19] = [
    (Family::gauge("hw_gpu_utilization", "Part of the time in which the GPU did a task").of("ratio"), |sample| {
        vec![
            (&[("hw_gpu_task", "general")], sample.busy.map(per_cent)),
            (&[("hw_gpu_task", "encoder")], sample.encoder_busy.map(per_cent)),
            (&[("hw_gpu_task", "decoder")], sample.decoder_busy.map(per_cent)),
        ]
    }),
    (
        Family::gauge("aliquot_gpu_memory_controller_utilization", "Part of the time in which GPU memory was accessed")
            .of("ratio"),
        |sample| vec![(&[], sample.memory_busy.map(per_cent))],
    ),
    (Family::gauge("hw_gpu_memory_usage", "GPU memory in use").of("bytes"), |sample| {
        vec![(&[], sample.memory.map(|memory| large(memory.used.bytes())))]
    }),
    (Family::gauge("hw_gpu_memory_limit", "GPU memory that there is").of("bytes"), |sample| {
        vec![(&[], sample.memory.map(|memory| large(memory.total.bytes())))]
    }),
    (Family::gauge("hw_gpu_memory_utilization", "Part of the GPU memory that is in use").of("ratio"), |sample| {
        let part = |memory: aliquot_nvml::MemoryUse| large(memory.used.bytes()) / large(memory.total.bytes());
        vec![(&[], sample.memory.filter(|memory| memory.total.bytes() > 0).map(part))]
    }),
    (Family::gauge("hw_temperature", "Temperature").of("celsius"), |sample| {
        vec![
            (&[("hw_type", "gpu"), ("hw_sensor_location", "gpu")], sample.temperature.map(f64::from)),
            (&[("hw_type", "gpu"), ("hw_sensor_location", "memory")], sample.memory_temperature.map(large)),
        ]
    }),
    (Family::gauge("hw_power", "Power that is drawn").of("watts"), |sample| {
        vec![(GPU, sample.power.map(|milliwatts| f64::from(milliwatts) / 1e3))]
    }),
    (Family::gauge("aliquot_gpu_power_limit", "Power that the GPU is held to").of("watts"), |sample| {
        vec![(&[], sample.power_limit.map(|milliwatts| f64::from(milliwatts) / 1e3))]
    }),
    (Family::counter("hw_energy", "Energy that was used since NVIDIA's driver was loaded").of("joules"), |sample| {
        vec![(GPU, sample.energy.map(|millijoules| large(millijoules) / 1e3))]
    }),
    (Family::gauge("aliquot_gpu_clock", "Clock at the moment").of("hertz"), |sample| {
        vec![
            (&[("clock", "sm")], sample.sm_clock.map(|megahertz| f64::from(megahertz) * 1e6)),
            (&[("clock", "memory")], sample.memory_clock.map(|megahertz| f64::from(megahertz) * 1e6)),
        ]
    }),
    (
        Family::gauge("aliquot_gpu_throttled", "1 for each reason that keeps the clocks down, and 0 for others"),
        |sample| {
            Throttle::ALL
                .map(|why| (reason(why), sample.throttled.as_ref().map(|all| flag(all.contains(&why)))))
                .to_vec()
        },
    ),
    (Family::counter("hw_gpu_io", "Data over PCIe").of("bytes"), |sample| ways(sample.pcie, 1.0)),
    (
        Family::gauge("aliquot_gpu_pcie_throughput", "Data over PCIe in 20 ms, where the GPU doesn't count it")
            .of("bytes_per_second"),
        |sample| ways(sample.pcie_rate, 1e3),
    ),
    (Family::counter("aliquot_gpu_pcie_replays", "Packets that were sent over PCIe again"), |sample| {
        vec![(&[], sample.pcie_replays.map(large))]
    }),
    (Family::counter("aliquot_gpu_nvlink_io", "Data over all NVLinks").of("bytes"), |sample| {
        ways(sample.nvlink, 1024.0)
    }),
    (Family::counter("aliquot_gpu_nvlink_errors", "Errors of all NVLinks, by their kind"), |sample| {
        let errors = sample.nvlink_errors;
        vec![
            (&[("error_type", "crc_flit")], errors.crc_flit.map(large)),
            (&[("error_type", "crc_data")], errors.crc_data.map(large)),
            (&[("error_type", "replay")], errors.replay.map(large)),
            (&[("error_type", "recovery")], errors.recovery.map(large)),
        ]
    }),
    (Family::counter("hw_errors", "ECC errors since NVIDIA's driver was loaded"), |sample| kinds(sample.ecc)),
    (Family::counter("aliquot_gpu_ecc_errors_ever", "ECC errors in the life of the GPU"), |sample| {
        kinds(sample.ecc_ever)
    }),
    (Family::counter("aliquot_gpu_remapped_rows", "Rows of GPU memory that were replaced for errors"), |sample| {
        kinds(sample.remapped)
    }),
];

const REMAP_PENDING: Family =
    Family::gauge("aliquot_gpu_row_remap_pending", "1 if a row of GPU memory is replaced at the next reset");
const SAMPLED: Family = Family::gauge(
    "aliquot_gpu_sampled",
    "1 if the GPU answered this scrape, 0 if not, so that it has no figures in it",
);
const INFO: Family = Family::gauge("aliquot_gpu_info", "1 for each GPU, with what it is");

/// Writes what all GPUs measure.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, samples: &Samples) -> fmt::Result {
    let gpus: Vec<Named<'_>> = samples.iter().map(|(gpu, sample)| Named::new(gpu, sample.as_ref().ok())).collect();
    for (family, values) in &TABLE {
        family.encode_found(encoder, gpus.iter().flat_map(|gpu| gpu.series(values)))?;
    }
    REMAP_PENDING.encode_found(
        encoder,
        gpus.iter().flat_map(|gpu| gpu.series(&|sample| vec![(&[], sample.remap_pending.map(|rows| flag(rows > 0)))])),
    )?;
    SAMPLED.encode_found(encoder, gpus.iter().map(|gpu| (gpu.labels(&[]), flag(gpu.sample.is_some()))))?;
    INFO.encode_found(encoder, gpus.iter().map(|gpu| (gpu.info(), 1.0)))
}

/// A GPU with the texts of its labels.
struct Named<'a> {
    gpu: &'a Gpu,
    pci: String,
    device: String,
    sample: Option<&'a Sample>,
}

impl<'a> Named<'a> {
    fn new(gpu: &'a Gpu, sample: Option<&'a Sample>) -> Self {
        let device = aliquot_model::DeviceName::whole(gpu.pci).to_string();
        Self { gpu, pci: gpu.pci.to_string(), device, sample }
    }

    /// `hw_id` is OpenTelemetry's; `uuid` is the same by the name that joins it with all other metrics of the driver.
    fn labels(&self, extra: Extra) -> Labels<'_> {
        let uuid = self.gpu.uuid.as_str();
        let mut labels = vec![
            ("hw_id", uuid),
            ("uuid", uuid),
            ("pci_bus_id", self.pci.as_str()),
            ("device", self.device.as_str()),
            ("hw_model", self.gpu.product_name.as_str()),
        ];
        labels.extend_from_slice(extra);
        labels
    }

    fn info(&self) -> Labels<'_> {
        let mut labels = self.labels(&[("hw_type", "gpu"), ("hw_vendor", "NVIDIA")]);
        labels.push(("hw_driver_version", &self.gpu.driver_version));
        labels.push(("cuda_driver_version", &self.gpu.cuda_driver_version));
        labels
    }

    fn series<'s>(&'s self, values: &dyn Fn(&Sample) -> Values) -> Vec<(Labels<'s>, f64)> {
        let values = self.sample.map(values).unwrap_or_default();
        values.into_iter().filter_map(|(extra, value)| Some((self.labels(extra), value?))).collect()
    }
}

fn ways(traffic: Traffic, scale: f64) -> Values {
    vec![
        (SENT, traffic.sent.map(|amount| large(amount) * scale)),
        (RECEIVED, traffic.received.map(|amount| large(amount) * scale)),
    ]
}

fn kinds(errors: Errors) -> Values {
    vec![(CORRECTED, errors.corrected.map(large)), (UNCORRECTED, errors.uncorrected.map(large))]
}

fn reason(why: Throttle) -> Extra {
    match why {
        Throttle::PowerCap => &[("reason", "power_cap")],
        Throttle::Hardware => &[("reason", "hardware")],
        Throttle::SyncBoost => &[("reason", "sync_boost")],
        Throttle::SoftwareHeat => &[("reason", "software_thermal")],
        Throttle::HardwareHeat => &[("reason", "hardware_thermal")],
        Throttle::PowerBrake => &[("reason", "power_brake")],
    }
}

fn per_cent(part: u32) -> f64 {
    f64::from(part) / 100.0
}

pub(super) fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus's numbers are no others: exact to 2^53")]
pub(super) fn large(number: u64) -> f64 {
    number as f64
}
