//! What can be written in parameters, as one table: it is decoded by, and the reference is made of it.
use crate::{API_VERSION, IommuBackend, NVIDIA_API_VERSION, TimeSlice};

/// One kind of parameters.
#[derive(Debug)]
pub struct Form {
    /// Its `apiVersion`.
    pub api_version: &'static str,
    /// Its `kind`.
    pub kind: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// All fields besides these two.
    pub fields: &'static [Field],
}

/// One field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What can be written there.
    pub takes: Takes,
    /// Whether it must be there.
    pub needed: bool,
    /// What counts where it isn't.
    pub default: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// The values of a field.
#[derive(Debug)]
pub enum Takes {
    /// True or false.
    Flag,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// An object with these fields, in words, and as a table.
    Object(&'static str, &'static [Field]),
    /// None: it is known from elsewhere, and has no effect here.
    Nothing(&'static str),
}

/// Everything that can be written.
pub const FORMS: [Form; 5] = [
    Form {
        api_version: API_VERSION,
        kind: "GpuConfig",
        about: "Of a whole GPU, and of a GPU that is looked after (adminAccess).",
        fields: &[SHARING],
    },
    Form { api_version: API_VERSION, kind: "ShareConfig", about: "Of a share of a GPU.", fields: &[SHARING] },
    Form { api_version: API_VERSION, kind: "VfioConfig", about: "Of a GPU for a virtual machine.", fields: &[IOMMU] },
    Form {
        api_version: NVIDIA_API_VERSION,
        kind: "GpuConfig",
        about: "As NVIDIA's DRA driver has it: of a GPU, be it whole or a share.",
        fields: &[NVIDIA_SHARING],
    },
    Form {
        api_version: NVIDIA_API_VERSION,
        kind: "VfioDeviceConfig",
        about: "As NVIDIA's DRA driver has it: of a GPU for a virtual machine.",
        fields: &[IOMMU],
    },
];

const STRATEGY: Field = Field {
    name: "strategy",
    takes: Takes::OneOf(&["TimeSlicing"]),
    needed: true,
    default: "",
    about: "One after the other, each with all of the GPU's cores for a time slice.",
};

const INTERVAL: Field = Field {
    name: "interval",
    takes: Takes::OneOf(&TimeSlice::NAMES),
    needed: true,
    default: "",
    about: "The length of the time slice. It is a setting of the GPU, hence the same for all that share it.",
};

const SHARING: Field = Field {
    name: "sharing",
    takes: Takes::Object(
        "a strategy",
        &[
            STRATEGY,
            Field {
                name: "timeSlicingConfig",
                takes: Takes::Object(
                    "an interval",
                    &[
                        INTERVAL,
                        Field {
                            name: "required",
                            takes: Takes::Flag,
                            needed: false,
                            default: "false",
                            about: "Whether the pod is not to start where the GPU can't set it.",
                        },
                    ],
                ),
                needed: false,
                default: "",
                about: "The time slice; without it, the policy's counts.",
            },
        ],
    ),
    needed: false,
    default: "",
    about: "How those that use one GPU share it.",
};

const NVIDIA_SHARING: Field = Field {
    name: "sharing",
    takes: Takes::Object(
        "a strategy",
        &[
            STRATEGY,
            Field {
                name: "timeSlicingConfig",
                takes: Takes::Object(
                    "an interval",
                    &[Field { needed: false, default: TimeSlice::NAMES[0], ..INTERVAL }],
                ),
                needed: false,
                default: "",
                about: "The time slice; a GPU that can't set it is given all the same, with an Event.",
            },
            Field {
                name: "mpsConfig",
                takes: Takes::Nothing("is for MPS, which this driver doesn't have; shares take its place"),
                needed: false,
                default: "",
                about: "Refused: there is no MPS.",
            },
        ],
    ),
    needed: false,
    default: "",
    about: "How those that use one GPU share it.",
};

const IOMMU: Field = Field {
    name: "iommu",
    takes: Takes::Object(
        "a backendPolicy",
        &[
            Field {
                name: "backendPolicy",
                takes: Takes::OneOf(&IommuBackend::NAMES),
                needed: false,
                default: IommuBackend::NAMES[0],
                about: "Through which interface of the kernel the virtual machine's monitor reaches the IOMMU: by group, \
                        /dev/vfio/GROUP, which every monitor knows; or by device, /dev/vfio/devices/vfioN, where the kernel \
                        has iommufd, and by group elsewhere.",
            },
            Field {
                name: "enableAPIDevice",
                takes: Takes::Flag,
                needed: false,
                default: "false",
                about: "Whether the container also gets the node by which the interface itself is used: /dev/vfio/vfio or \
                        /dev/iommu.",
            },
        ],
    ),
    needed: false,
    default: "",
    about: "How a virtual machine's monitor reaches the IOMMU.",
};

/// What to do in place of what NVIDIA's drivers have and this one has not.
pub(crate) fn instead(value: &str) -> Option<&'static str> {
    match value {
        "MPS" => Some("there is no MPS here, and shares of GPUs take its place"),
        "MigDeviceConfig" => Some("there are no MIG devices here"),
        "ComputeDomainChannelConfig" | "ComputeDomainDaemonConfig" => {
            Some("that is for NVIDIA's compute-domain driver")
        }
        _ => None,
    }
}
