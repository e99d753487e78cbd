//! The opaque parameters in claims and classes.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    API_VERSION, Fault, Faults, NVIDIA_API_VERSION, TimeSlice,
    fields::Fields,
    form::{FORMS, Form},
};

/// Decoded parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    /// `GpuConfig`: of a whole GPU.
    Gpu(Option<Sharing>),
    /// `ShareConfig`: of a share.
    Share(Option<Sharing>),
    /// `GpuConfig` of NVIDIA's DRA driver, which has one kind for a GPU and for parts of one.
    Either(Option<Sharing>),
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
    /// As they are written, the default first.
    pub(crate) const NAMES: [&str; 2] = ["LegacyOnly", "PreferIommuFD"];
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
            Self::Gpu(_) | Self::Either(_) => "GpuConfig",
            Self::Share(_) => "ShareConfig",
            Self::Vfio(_) => "VfioConfig",
        }
    }

    /// Whether both can be meant for one device.
    pub fn fits(self, other: Self) -> bool {
        match (self, other) {
            (Self::Vfio(_), Self::Either(_)) | (Self::Either(_), Self::Vfio(_)) => false,
            (Self::Either(_), _) | (_, Self::Either(_)) => true,
            _ => self.kind() == other.kind(),
        }
    }

    /// How the GPU is shared, if it says so.
    pub fn sharing(self) -> Option<Sharing> {
        match self {
            Self::Gpu(sharing) | Self::Share(sharing) | Self::Either(sharing) => sharing,
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
    let fields = Fields::of(parameters, "", "apiVersion and kind", faults)?;
    let version = fields.one_of("apiVersion", &[API_VERSION, NVIDIA_API_VERSION], true, faults);
    let forms = || FORMS.iter().filter(|form| form.api_version == version.unwrap_or(API_VERSION));
    let kinds: Vec<&str> = forms().map(|form| form.kind).collect();
    let kind = fields.one_of("kind", &kinds, true, faults);
    let form = forms().find(|form| Some(form.kind) == kind);
    // Where the kind isn't known, most of the rest can still be judged.
    let (table, what) = form.or_else(|| forms().next()).map_or((&[][..], ""), |form| (form.fields, form.kind));
    let what = if form.is_some() { what.to_owned() } else { kinds.join(" or ") };
    let fields = fields.by(table, &["apiVersion", "kind"], &what, faults);
    let sharing = sharing(&fields, version == Some(NVIDIA_API_VERSION), faults);
    let iommu = iommu(&fields, faults);
    Some(match form? {
        Form { kind: "VfioConfig" | "VfioDeviceConfig", .. } => Config::Vfio(iommu),
        Form { kind: "ShareConfig", .. } => Config::Share(sharing),
        Form { api_version: NVIDIA_API_VERSION, .. } => Config::Either(sharing),
        Form { .. } => Config::Gpu(sharing),
    })
}

fn iommu(fields: &Fields<'_>, faults: &mut Vec<Fault>) -> Iommu {
    let Some(fields) = fields.object("iommu", faults) else { return Iommu::default() };
    let backend = match fields.text("backendPolicy", faults) {
        Some("PreferIommuFD") => IommuBackend::PreferIommuFD,
        _ => IommuBackend::LegacyOnly,
    };
    Iommu { backend, api_device: fields.flag("enableAPIDevice", faults) }
}

/// NVIDIA's driver takes a missing time slice for the default one; here that is nobody's wish.
fn sharing(fields: &Fields<'_>, defaults: bool, faults: &mut Vec<Fault>) -> Option<Sharing> {
    let fields = fields.object("sharing", faults)?;
    fields.text("strategy", faults);
    let unsaid = defaults.then_some(TimeSlicing { interval: TimeSlice::Default, required: false });
    let slicing = match fields.object("timeSlicingConfig", faults) {
        None => unsaid,
        Some(fields) => {
            let name = fields.text("interval", faults);
            let interval = TimeSlice::ALL.into_iter().find(|slice| Some(slice.as_str()) == name);
            let required = fields.flag("required", faults);
            interval.map(|interval| TimeSlicing { interval, required }).or(unsaid)
        }
    };
    slicing.map(Sharing::TimeSlicing)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::form::{Field, Takes};

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
            "sharing.strategy is \"MPS\", but must be \"TimeSlicing\": there is no MPS here",
            "sharing.timeSlicingConfig.interval is \"short\", but must be one of Default, Short, Medium, Long",
            "sharing.timeSlicingConfig.required is a number",
            "sharing.timeSlicingConfig.more is no field of timeSlicingConfig; it has interval, required",
        ] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }

    fn nvidias(kind: &str, field: &str, value: &Value) -> Value {
        json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, field: value})
    }

    #[test]
    fn what_was_written_for_nvidias_driver_is_taken_as_it_means_it() {
        let slicing = |interval| Some(Sharing::TimeSlicing(TimeSlicing { interval, required: false }));
        let gpu = |sharing: Value| decode(&nvidias("GpuConfig", "sharing", &sharing));
        let short = json!({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Short"}});
        assert_eq!(gpu(short), Ok(Config::Either(slicing(TimeSlice::Short))));
        for unsaid in [json!({"strategy": "TimeSlicing"}), json!({"strategy": "TimeSlicing", "timeSlicingConfig": {}})]
        {
            assert_eq!(gpu(unsaid), Ok(Config::Either(slicing(TimeSlice::Default))));
        }
        let plain = json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"});
        assert_eq!(decode(&plain), Ok(Config::Either(None)));
        let iommu = json!({"backendPolicy": "PreferIommuFD", "enableAPIDevice": true});
        let by_device = Iommu { backend: IommuBackend::PreferIommuFD, api_device: true };
        assert_eq!(decode(&nvidias("VfioDeviceConfig", "iommu", &iommu)), Ok(Config::Vfio(by_device)));
    }

    #[test]
    fn what_nvidias_driver_has_and_this_one_has_not_is_refused_with_what_there_is() {
        let mps = json!({"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 50}});
        let faults = told(&nvidias("GpuConfig", "sharing", &mps));
        for part in ["sharing.strategy is \"MPS\"", "there is no MPS here", "sharing.mpsConfig is for MPS"] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
        let faults = told(&nvidias("MigDeviceConfig", "sharing", &json!({"strategy": "MPS"})));
        assert!(faults.contains("must be one of GpuConfig, VfioDeviceConfig: there are no MIG devices"), "{faults}");
        let required = json!({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long", "required": true}});
        let faults = told(&nvidias("GpuConfig", "sharing", &required));
        assert!(faults.contains("required is no field of timeSlicingConfig; it has interval"), "{faults}");
    }

    #[test]
    fn nvidias_one_kind_goes_with_whole_gpus_and_with_shares_only() {
        let (either, vfio) = (Config::Either(None), Config::Vfio(Iommu::default()));
        for (a, b, fits) in [
            (either, Config::Gpu(None), true),
            (Config::Share(None), either, true),
            (either, vfio, false),
            (Config::Gpu(None), Config::Share(None), false),
            (vfio, vfio, true),
        ] {
            assert_eq!(a.fits(b), fits, "{a:?} {b:?}");
        }
    }

    /// A value that the field takes, if `wrong` isn't it or below it.
    fn filled(fields: &[Field], path: &str, wrong: &str) -> Value {
        let mut object = serde_json::Map::new();
        for field in fields {
            let path = format!("{path}{}", field.name);
            let value = match &field.takes {
                _ if path == wrong => json!(7),
                Takes::Flag => json!(true),
                Takes::OneOf(names) => json!(names[0]),
                Takes::Object(_, fields) => filled(fields, &format!("{path}."), wrong),
                Takes::Nothing(_) => continue,
            };
            object.insert(field.name.to_owned(), value);
        }
        object.into()
    }

    fn paths(fields: &[Field], path: &str) -> Vec<String> {
        let below = |field: &Field| match &field.takes {
            Takes::Object(_, fields) => paths(fields, &format!("{path}{}.", field.name)),
            _ => Vec::new(),
        };
        fields.iter().flat_map(|field| [vec![format!("{path}{}", field.name)], below(field)].concat()).collect()
    }

    #[test]
    fn every_field_of_every_form_is_read_and_no_other() {
        for form in &FORMS {
            let written = |wrong: &str| {
                let mut value = filled(form.fields, "", wrong);
                value["apiVersion"] = json!(form.api_version);
                value["kind"] = json!(form.kind);
                value
            };
            decode(&written("")).unwrap();
            for path in paths(form.fields, "") {
                let faults = told(&written(&path));
                assert!(faults.starts_with(&format!("{path} is ")), "{} {}: {faults}", form.kind, path);
            }
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
