//! A stand-in for `nvidia-smi` that asks the NVML library it finds: what it lists is what a container was given.
use std::process::ExitCode;

use nvml_wrapper::{Device, Nvml, error::NvmlError};

/// Exit codes of the real program.
const NO_DEVICES: u8 = 6;
const NO_DRIVER: u8 = 9;
const NO_LIBRARY: u8 = 12;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err((code, text)) => {
            println!("{text}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: &[&str]) -> Result<String, (u8, String)> {
    let nvml = Nvml::init().map_err(|error| {
        match error {
        NvmlError::LibloadingError(_) => (
            NO_LIBRARY,
            "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display \
             Driver is properly installed and present in your system."
                .to_owned(),
        ),
        _ => (
            NO_DRIVER,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest \
             NVIDIA driver is installed and running."
                .to_owned(),
        ),
    }
    })?;
    let failed = |error: NvmlError| (NO_DRIVER, format!("Failed to query the driver: {error}"));
    let count = nvml.device_count().map_err(failed)?;
    if count == 0 {
        return Err((NO_DEVICES, "No devices were found".to_owned()));
    }
    let mut text = String::new();
    for index in 0..count {
        let device = nvml.device_by_index(index).map_err(failed)?;
        let line = match arguments {
            ["-L" | "--list-gpus"] => list(index, &device),
            ["-q" | "--query"] => query(&device),
            _ => brief(index, &device),
        };
        text.push_str(
            &line.unwrap_or_else(|error| format!("Unable to determine the device handle for gpu {index}: {error}\n")),
        );
    }
    Ok(text)
}

fn list(index: u32, device: &Device<'_>) -> Result<String, NvmlError> {
    Ok(format!("GPU {index}: {} (UUID: {})\n", device.name()?, device.uuid()?))
}

fn query(device: &Device<'_>) -> Result<String, NvmlError> {
    Ok(format!(
        "GPU {}\n    Product Name                          : {}\n    GPU UUID                              : {}\n    \
         Minor Number                          : {}\n    FB Memory Usage\n        Total                             : {} MiB\n",
        device.pci_info()?.bus_id,
        device.name()?,
        device.uuid()?,
        device.minor_number()?,
        device.memory_info()?.total >> 20,
    ))
}

fn brief(index: u32, device: &Device<'_>) -> Result<String, NvmlError> {
    let memory = device.memory_info()?.total >> 20;
    Ok(format!("| {index:3}  {:30} {} | {memory:8} MiB |\n", device.name()?, device.pci_info()?.bus_id))
}
