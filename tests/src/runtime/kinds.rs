//! What containers are made by, and held in.
use std::path::Path;

/// What makes containers for containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runtime {
    /// The one for pods that ask for none.
    #[default]
    Crun,
    /// The reference implementation of the OCI's specification.
    Runc,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Crun, Self::Runc];

    /// Its program's name, and its handler's in containerd's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

/// A version of the kernel's control groups, which have one filter of devices each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cgroups {
    /// A hierarchy for each controller, `devices` among them.
    V1,
    /// One hierarchy, with an eBPF program that judges what is opened.
    #[default]
    V2,
}

impl Cgroups {
    /// Those in which containers can be run on this machine: version 2 in a namespace of its own, and version 1 where the
    /// machine itself has mounted the hierarchy of devices.
    pub fn available() -> Vec<Self> {
        let has_v1 = Path::new("/sys/fs/cgroup/devices/devices.list").is_file();
        has_v1.then_some(Self::V1).into_iter().chain([Self::V2]).collect()
    }

    /// `1` or `2`.
    pub fn version(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
        }
    }
}
