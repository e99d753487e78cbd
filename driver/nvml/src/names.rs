//! NVML's numbers as words, spelled as NVIDIA's DRA driver spells them in device attributes.
use nvml_wrapper::{enum_wrappers::device::Brand, enums::device::DeviceArchitecture, error::NvmlError};

/// For what this build doesn't know: a new GPU is offered nevertheless.
const UNKNOWN: &str = "Unknown";

/// The word for a brand; NVML's header has more brands than any build knows.
pub(crate) fn brand(answer: Result<Brand, NvmlError>) -> Result<String, NvmlError> {
    let word = match answer {
        Ok(Brand::Quadro) => "Quadro",
        Ok(Brand::Tesla) => "Tesla",
        Ok(Brand::NVS) => "NVS",
        Ok(Brand::GRID) => "Grid",
        Ok(Brand::GeForce) => "GeForce",
        Ok(Brand::Titan) => "Titan",
        Ok(Brand::VApps) => "NvidiaVApps",
        Ok(Brand::VPC) => "NvidiaVPC",
        Ok(Brand::VCS) => "NvidiaVCS",
        Ok(Brand::VWS) => "NvidiaVWS",
        Ok(Brand::CloudGaming | Brand::VGaming) => "NvidiaCloudGaming",
        Ok(Brand::QuadroRTX) => "QuadroRTX",
        Ok(Brand::NvidiaRTX) => "NvidiaRTX",
        Ok(Brand::Nvidia) => "Nvidia",
        Ok(Brand::GeForceRTX) => "GeForceRTX",
        Ok(Brand::TitanRTX) => "TitanRTX",
        Ok(Brand::Unknown) => UNKNOWN,
        Err(error) => return unless_new(error),
    };
    Ok(word.to_owned())
}

/// The word for an architecture.
pub(crate) fn architecture(answer: Result<DeviceArchitecture, NvmlError>) -> Result<String, NvmlError> {
    let word = match answer {
        Ok(DeviceArchitecture::Kepler) => "Kepler",
        Ok(DeviceArchitecture::Maxwell) => "Maxwell",
        Ok(DeviceArchitecture::Pascal) => "Pascal",
        Ok(DeviceArchitecture::Volta) => "Volta",
        Ok(DeviceArchitecture::Turing) => "Turing",
        Ok(DeviceArchitecture::Ampere) => "Ampere",
        Ok(DeviceArchitecture::Ada) => "Ada Lovelace",
        Ok(DeviceArchitecture::Hopper) => "Hopper",
        Ok(DeviceArchitecture::Blackwell) => "Blackwell",
        Ok(DeviceArchitecture::Unknown) => UNKNOWN,
        Err(error) => return unless_new(error),
    };
    Ok(word.to_owned())
}

fn unless_new(error: NvmlError) -> Result<String, NvmlError> {
    match error {
        NvmlError::UnexpectedVariant(_) | NvmlError::NotSupported => Ok(UNKNOWN.to_owned()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brand_or_architecture_of_the_future_is_unknown_and_no_error() {
        assert_eq!(brand(Err(NvmlError::UnexpectedVariant(40))).unwrap(), "Unknown");
        assert_eq!(architecture(Err(NvmlError::UnexpectedVariant(12))).unwrap(), "Unknown");
        assert!(architecture(Err(NvmlError::GpuLost)).is_err());
    }

    #[test]
    fn words_are_those_that_claims_already_select_by() {
        assert_eq!(architecture(Ok(DeviceArchitecture::Ada)).unwrap(), "Ada Lovelace");
        assert_eq!(brand(Ok(Brand::GRID)).unwrap(), "Grid");
    }
}
