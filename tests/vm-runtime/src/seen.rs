//! A container as its bundle describes it, and what was seen of it.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Error, told::is_vfio};

/// How annotations begin that name CDI devices.
const CDI: &str = "cdi.k8s.io/";
const TYPE: &str = "io.kubernetes.cri.container-type";
const NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
const POD: &str = "io.kubernetes.cri.sandbox-name";
const NAME: &str = "io.kubernetes.cri.container-name";

/// What is read of a bundle's `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Container {
    annotations: BTreeMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
struct Device {
    path: PathBuf,
    #[serde(rename = "type")]
    kind: String,
}

/// What a virtual machine would have been given.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Seen {
    /// CDI devices in the pod's annotations.
    pub(crate) annotated: Vec<String>,
    /// Those that the kubelet told of.
    pub(crate) told: Vec<String>,
    /// Nodes of VFIO: of these devices, or in the container's configuration.
    pub(crate) nodes: Vec<PathBuf>,
}

impl Container {
    /// The one of a bundle.
    pub(crate) fn read(bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join("config.json");
        let read = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
        serde_json::from_slice(&read).map_err(|source| Error::Json { path, source })
    }

    /// Whether it is the pod's sandbox, for which the virtual machine is started.
    pub(crate) fn is_sandbox(&self) -> bool {
        self.annotation(TYPE) == "sandbox"
    }

    pub(crate) fn namespace(&self) -> &str {
        self.annotation(NAMESPACE)
    }

    pub(crate) fn pod(&self) -> &str {
        self.annotation(POD)
    }

    /// The devices that the pod's annotations name.
    pub(crate) fn annotated(&self) -> Vec<String> {
        let named = self.annotations.iter().filter(|(name, _)| name.starts_with(CDI));
        named.flat_map(|(_, value)| value.split(',')).map(|device| device.trim().to_owned()).collect()
    }

    /// Its nodes: those of VFIO, and what of NVIDIA's driver has no place in a virtual machine.
    pub(crate) fn nodes(&self) -> Vec<PathBuf> {
        let is_told = |device: &&Device| {
            device.kind == "c" && (is_vfio(&device.path) || device.path.to_string_lossy().contains("nvidia"))
        };
        self.linux.devices.iter().filter(is_told).map(|device| device.path.clone()).collect()
    }

    fn annotation(&self, name: &str) -> &str {
        self.annotations.get(name).map_or("", String::as_str)
    }
}

impl Seen {
    /// Writes it for whoever asks: `<namespace>.<pod>.<container>.json`, without a container for the sandbox.
    pub(crate) fn write(&self, dir: &Path, container: &Container) -> Result<(), Error> {
        let path =
            dir.join(format!("{}.{}.{}.json", container.namespace(), container.pod(), container.annotation(NAME)));
        let told = || Error::io(format!("write {}", path.display()));
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(self).map_err(|source| Error::Json { path: path.clone(), source })?;
        fs::create_dir_all(dir).map_err(told())?;
        fs::write(&fresh, text).map_err(told())?;
        fs::rename(fresh, &path).map_err(told())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_says_whose_it_is_and_which_nodes_it_has() {
        let bundle = tempfile::tempdir().unwrap();
        let config = r#"{"annotations": {"io.kubernetes.cri.container-type": "container", "cdi.k8s.io/gpu": "v/c=0,v/c=1",
            "io.kubernetes.cri.sandbox-name": "p", "io.kubernetes.cri.sandbox-namespace": "n"}, "linux": {"devices": [
            {"path": "/dev/vfio/12", "type": "c"}, {"path": "/dev/null", "type": "c"}, {"path": "/dev/nvidia0", "type": "c"}]}}"#;
        fs::write(bundle.path().join("config.json"), config).unwrap();
        let container = Container::read(bundle.path()).unwrap();
        assert!(!container.is_sandbox() && container.namespace() == "n" && container.pod() == "p");
        assert_eq!(container.annotated(), ["v/c=0", "v/c=1"]);
        assert_eq!(container.nodes(), [PathBuf::from("/dev/vfio/12"), PathBuf::from("/dev/nvidia0")]);
    }
}
