//! What is printed of the GPUs, in the real program's layouts.
use std::fmt::Write as _;

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use crate::failure::{Failure, device_line};

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Report {
    /// No argument.
    Table,
    /// `-L`.
    List,
    /// `-q`.
    Query,
    /// `--query-gpu=`.
    Csv(Vec<Field>, Format),
}

/// The options of `--format=csv`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    header: bool,
    units: bool,
}

impl Default for Format {
    fn default() -> Self {
        Self { header: true, units: true }
    }
}

impl Format {
    pub(crate) fn parse(options: &str) -> Result<Self, Failure> {
        let mut format = Self::default();
        let mut is_csv = false;
        for option in options.split(',') {
            match option.trim() {
                "csv" => is_csv = true,
                "noheader" => format.header = false,
                "nounits" => format.units = false,
                other => return Err(Failure::UnknownFormat(other.to_owned())),
            }
        }
        if is_csv { Ok(format) } else { Err(Failure::UnknownFormat(options.to_owned())) }
    }
}

/// A column of `--query-gpu=`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    Index,
    Name,
    Uuid,
    MemoryTotal,
    DriverVersion,
    PciBusId,
}

impl Field {
    fn parse(name: &str) -> Result<Self, Failure> {
        match name.trim() {
            "index" => Ok(Self::Index),
            "name" | "gpu_name" => Ok(Self::Name),
            "uuid" | "gpu_uuid" => Ok(Self::Uuid),
            "memory.total" => Ok(Self::MemoryTotal),
            "driver_version" => Ok(Self::DriverVersion),
            "pci.bus_id" | "gpu_bus_id" => Ok(Self::PciBusId),
            other => Err(Failure::UnknownField(other.to_owned())),
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Name => "name",
            Self::Uuid => "uuid",
            Self::MemoryTotal => "memory.total [MiB]",
            Self::DriverVersion => "driver_version",
            Self::PciBusId => "pci.bus_id",
        }
    }

    fn value(self, nvml: &Nvml, index: u32, device: &Device<'_>, format: Format) -> Result<String, NvmlError> {
        Ok(match self {
            Self::Index => index.to_string(),
            Self::Name => device.name()?,
            Self::Uuid => device.uuid()?,
            Self::MemoryTotal if format.units => format!("{} MiB", total_mib(device)?),
            Self::MemoryTotal => total_mib(device)?.to_string(),
            Self::DriverVersion => nvml.sys_driver_version()?,
            Self::PciBusId => device.pci_info()?.bus_id,
        })
    }
}

impl Report {
    pub(crate) fn csv(fields: &str) -> Result<Self, Failure> {
        let fields = fields.split(',').map(Field::parse).collect::<Result<_, _>>()?;
        Ok(Self::Csv(fields, Format::default()))
    }

    /// The whole text. A GPU that does not answer has its failure in its place, and the others follow.
    pub(crate) fn of(&self, nvml: &Nvml, count: u32) -> Result<String, Failure> {
        let mut text = self.before(nvml).map_err(Failure::Start)?;
        for index in 0..count {
            let gpu = nvml.device_by_index(index).and_then(|device| self.gpu(nvml, index, &device));
            match gpu {
                Ok(gpu) => text.push_str(&gpu),
                Err(error) => text.push_str(&device_line(index, &error)),
            }
        }
        Ok(text)
    }

    fn before(&self, nvml: &Nvml) -> Result<String, NvmlError> {
        match self {
            Self::Table => {
                let cuda = nvml.sys_cuda_driver_version()?;
                let (major, minor) = (cuda / 1000, cuda % 1000 / 10);
                Ok(format!(
                    "| NVIDIA-SMI    Driver Version: {}    CUDA Version: {major}.{minor} |\n",
                    nvml.sys_driver_version()?
                ))
            }
            Self::Csv(fields, Format { header: true, .. }) => {
                let headings: Vec<_> = fields.iter().map(|field| field.heading()).collect();
                Ok(headings.join(", ") + "\n")
            }
            Self::List | Self::Query | Self::Csv(..) => Ok(String::new()),
        }
    }

    fn gpu(&self, nvml: &Nvml, index: u32, device: &Device<'_>) -> Result<String, NvmlError> {
        match self {
            Self::Table => {
                let (name, bus_id, memory) = (device.name()?, device.pci_info()?.bus_id, total_mib(device)?);
                Ok(format!("| {index:3}  {name:30} {bus_id} | {memory:8} MiB |\n"))
            }
            Self::List => Ok(format!("GPU {index}: {} (UUID: {})\n", device.name()?, device.uuid()?)),
            Self::Query => query(device),
            Self::Csv(fields, format) => {
                let values = fields.iter().map(|field| field.value(nvml, index, device, *format));
                Ok(values.collect::<Result<Vec<_>, _>>()?.join(", ") + "\n")
            }
        }
    }
}

fn query(device: &Device<'_>) -> Result<String, NvmlError> {
    let bus_id = device.pci_info()?.bus_id;
    let mut text = format!("GPU {bus_id}\n");
    let lines = [
        ("    Product Name", device.name()?),
        ("    GPU UUID", device.uuid()?),
        ("    Minor Number", device.minor_number()?.to_string()),
        ("        Bus Id", bus_id),
        ("        Total", format!("{} MiB", total_mib(device)?)),
    ];
    for (name, value) in lines {
        match name.trim() {
            "Bus Id" => text.push_str("    PCI\n"),
            "Total" => text.push_str("    FB Memory Usage\n"),
            _ => {}
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<50}: {value}");
    }
    Ok(text)
}

fn total_mib(device: &Device<'_>) -> Result<u64, NvmlError> {
    Ok(device.memory_info()?.total >> 20)
}
