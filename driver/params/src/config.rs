//! The opaque parameters in claims and classes.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{API_VERSION, Fault, Faults, TimeSlice, fields::Fields};

const KINDS: [&str; 3] = ["GpuConfig", "ShareConfig", "VfioConfig"];

/// Decoded parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// `GpuConfig`: of a whole GPU.
    Gpu(Option<Sharing>),
    /// `ShareConfig`: of a share.
    Share(Option<Sharing>),
    /// `VfioConfig`: of a GPU for a virtual machine.
    Vfio(Iommu),
}

/// How a virtual machine's monitor reaches the IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Iommu {
    /// Through which interface of the kernel.
    pub backend: IommuBackend,
    /// Whether the container also gets the node by which the interface itself is used: `/dev/vfio/vfio` or `/dev/iommu`.
    pub api_device: bool,
}

/// The kernel's interfaces to the IOMMU (Documentation/driver-api/vfio.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IommuBackend {
    /// By group, `/dev/vfio/<group>`: what every monitor knows.
    #[default]
    LegacyOnly,
    /// By device, `/dev/vfio/devices/vfioN`, where the kernel has iommufd; by group elsewhere.
    PreferIommuFD,
}

impl IommuBackend {
    const NAMES: [(&str, Self); 2] = [("LegacyOnly", Self::LegacyOnly), ("PreferIommuFD", Self::PreferIommuFD)];
}

/// How those that use one GPU share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// One after the other, each with all of the GPU's cores for a time slice.
    TimeSlicing(TimeSlicing),
}

/// The length of the time slice.
///
/// It is a setting of the GPU, hence the same for all that share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSlicing {
    /// How long.
    pub interval: TimeSlice,
    /// Whether the pod is not to start where the GPU can't set it.
    pub required: bool,
}

impl Config {
    /// The `kind`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Gpu(_) => "GpuConfig",
            Self::Share(_) => "ShareConfig",
            Self::Vfio(_) => "VfioConfig",
        }
    }

    /// How the GPU is shared, if it says so.
    pub fn sharing(self) -> Option<Sharing> {
        match self {
            Self::Gpu(sharing) | Self::Share(sharing) => sharing,
            Self::Vfio(_) => None,
        }
    }
}

/// Decodes one opaque configuration.
pub fn decode(parameters: &Value) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let config = config(parameters, &mut faults);
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(Faults::from(faults)),
    }
}

fn config(parameters: &Value, faults: &mut Vec<Fault>) -> Option<Config> {
    let mut fields = Fields::of(parameters, "", " with apiVersion and kind", faults)?;
    fields.one_of("apiVersion", &[API_VERSION], true, faults);
    let kind = fields.one_of("kind", &KINDS, true, faults);
    if kind == Some("VfioConfig") {
        let path = fields.path("iommu");
        let iommu = fields.get("iommu").map_or(Some(Iommu::default()), |value| iommu(value, &path, faults));
        fields.end("VfioConfig", faults);
        return iommu.map(Config::Vfio);
    }
    let path = fields.path("sharing");
    let sharing = fields.get("sharing").and_then(|value| sharing(value, &path, faults));
    fields.end(kind.unwrap_or("GpuConfig or ShareConfig"), faults);
    Some(if kind? == "GpuConfig" { Config::Gpu(sharing) } else { Config::Share(sharing) })
}

fn iommu(value: &Value, path: &str, faults: &mut Vec<Fault>) -> Option<Iommu> {
    let mut fields = Fields::of(value, path, " with a backendPolicy", faults)?;
    let names = IommuBackend::NAMES.map(|(name, _)| name);
    let name = fields.one_of("backendPolicy", &names, false, faults);
    let api_device = fields.flag("enableAPIDevice", faults);
    fields.end("iommu", faults);
    let backend = IommuBackend::NAMES.into_iter().find(|(known, _)| Some(*known) == name);
    Some(Iommu { backend: backend.map_or_else(IommuBackend::default, |(_, backend)| backend), api_device })
}

fn sharing(value: &Value, path: &str, faults: &mut Vec<Fault>) -> Option<Sharing> {
    let mut fields = Fields::of(value, path, " with a strategy", faults)?;
    fields.one_of("strategy", &["TimeSlicing"], true, faults);
    let path = fields.path("timeSlicingConfig");
    let slicing = fields.get("timeSlicingConfig").and_then(|value| {
        let mut fields = Fields::of(value, &path, " with an interval", faults)?;
        let names = TimeSlice::ALL.map(TimeSlice::as_str);
        let name = fields.one_of("interval", &names, true, faults);
        let required = fields.flag("required", faults);
        fields.end("timeSlicingConfig", faults);
        let interval = TimeSlice::ALL.into_iter().find(|slice| Some(slice.as_str()) == name)?;
        Some(Sharing::TimeSlicing(TimeSlicing { interval, required }))
    });
    fields.end("sharing", faults);
    slicing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn told(config: &Value) -> String {
        decode(config).unwrap_err().to_string()
    }

    #[test]
    fn the_plain_configs_are_taken() {
        let config = |kind| json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": kind});
        assert_eq!(decode(&config("GpuConfig")), Ok(Config::Gpu(None)));
        assert_eq!(decode(&config("ShareConfig")), Ok(Config::Share(None)));
    }

    #[test]
    fn a_time_slice_is_taken() {
        let slicing = json!({"interval": "Short", "required": true});
        let config = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "ShareConfig",
            "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": slicing}});
        let slicing = TimeSlicing { interval: TimeSlice::Short, required: true };
        assert_eq!(decode(&config), Ok(Config::Share(Some(Sharing::TimeSlicing(slicing)))));
    }

    #[test]
    fn the_way_to_the_iommu_is_taken_in_the_words_of_nvidias_driver() {
        let config = |iommu: Value| {
            decode(&json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "VfioConfig", "iommu": iommu}))
        };
        let by_device = Iommu { backend: IommuBackend::PreferIommuFD, api_device: true };
        let asked = config(json!({"backendPolicy": "PreferIommuFD", "enableAPIDevice": true}));
        assert_eq!(asked, Ok(Config::Vfio(by_device)));
        assert_eq!(config(json!({})), Ok(Config::Vfio(Iommu::default())));
        let faults = config(json!({"backendPolicy": "iommufd", "x": 1})).unwrap_err().to_string();
        for part in
            ["iommu.backendPolicy is \"iommufd\", but must be one of LegacyOnly, PreferIommuFD", "iommu.x is no field"]
        {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }

    #[test]
    fn parameters_of_a_gpu_in_two_ways_are_refused() {
        let sharing = json!({"strategy": "TimeSlicing"});
        let config = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "VfioConfig", "sharing": sharing});
        assert!(told(&config).contains("sharing is no field of VfioConfig"));
        let config = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig", "iommu": {}});
        assert!(told(&config).contains("iommu is no field of GpuConfig"));
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_paths() {
        let faults = told(&json!({"apiVersion": "v1", "kind": 3, "sharring": {}, "mode": "x", "sharing":
            {"strategy": "MPS", "timeSlicingConfig": {"interval": "short", "required": 1, "more": 0}}}));
        for part in [
            "apiVersion is \"v1\"",
            "kind is a number",
            "sharring is no field",
            "mode is no field",
            "sharing.strategy is \"MPS\", but must be \"TimeSlicing\"",
            "sharing.timeSlicingConfig.interval is \"short\", but must be one of Default, Short, Medium, Long",
            "sharing.timeSlicingConfig.required is a number",
            "sharing.timeSlicingConfig.more is no field of timeSlicingConfig; it has interval, required",
        ] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }

    #[test]
    fn what_is_no_object_or_empty_says_what_it_should_be() {
        assert!(told(&json!([])).contains("is a list"));
        assert!(told(&json!({})).contains("kind is missing"));
    }

    proptest! {
        #[test]
        fn foreign_json_is_refused_without_a_panic(text in "[\\[\\]{}\":,a-z0-9 ]{0,40}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert!(decode(&value).is_err());
            }
        }
    }
}
