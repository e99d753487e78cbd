//! A spec file's content and the lowest version of the specification that has all of it.
use serde::{Deserialize, Serialize};

use crate::{ContainerEdits, DeviceName, Kind};

/// A version of the CDI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// The oldest that runtimes still read.
    #[serde(rename = "0.3.0")]
    V0_3,
    /// Device names may begin with a digit; device nodes have a host path, and mounts a type (from 0.4.0 on).
    #[serde(rename = "0.5.0")]
    V0_5,
}

/// One device of a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Unique in the spec, and with all other specs of its kind.
    pub name: DeviceName,
    /// For containers that use it. The specification wants them not to be empty.
    pub container_edits: ContainerEdits,
}

/// A spec file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    cdi_version: Version,
    /// Of all its devices.
    pub kind: Kind,
    /// In a fixed order, so that the same devices give the same file.
    pub devices: Vec<Device>,
    /// Applied once to each container that uses any of the devices.
    #[serde(default, skip_serializing_if = "ContainerEdits::is_empty")]
    pub container_edits: ContainerEdits,
}

impl Spec {
    /// A spec of the lowest version that can say it.
    pub fn new(kind: Kind, devices: Vec<Device>, common: ContainerEdits) -> Self {
        let digit = |device: &Device| device.name.as_str().starts_with(|c: char| c.is_ascii_digit());
        let needs = |edits: &ContainerEdits| {
            edits.device_nodes.iter().any(|node| node.host_path.is_some())
                || edits.mounts.iter().any(|mount| mount.kind.is_some())
        };
        let newer = needs(&common) || devices.iter().any(|device| digit(device) || needs(&device.container_edits));
        let cdi_version = if newer { Version::V0_5 } else { Version::V0_3 };
        Self { cdi_version, kind, devices, container_edits: common }
    }

    /// With more devices.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = Device>) -> Self {
        self.devices.extend(more);
        Self::new(self.kind, self.devices, self.container_edits)
    }

    /// The version that the file carries.
    pub fn version(&self) -> Version {
        self.cdi_version
    }
}

#[cfg(test)]
mod tests {
    use crate::{DeviceNode, NodeType};

    use super::*;

    fn spec(name: &str, host_path: Option<&str>) -> Spec {
        let node = DeviceNode {
            path: "/dev/nvidia0".into(),
            host_path: host_path.map(Into::into),
            kind: Some(NodeType::Character),
            major: Some(195),
            minor: Some(0),
            file_mode: Some(0o666),
            permissions: Some("rw".into()),
        };
        let device = Device {
            name: DeviceName::new(name).unwrap(),
            container_edits: ContainerEdits { device_nodes: vec![node], ..ContainerEdits::default() },
        };
        Spec::new(Kind::new("gpu.example.com", "claim").unwrap(), vec![device], ContainerEdits::default())
    }

    #[test]
    fn the_version_is_the_lowest_that_can_say_it() {
        assert_eq!(spec("a", None).version(), Version::V0_3);
        assert_eq!(spec("4f", None).version(), Version::V0_5);
        assert_eq!(spec("a", Some("/x/nvidia0")).version(), Version::V0_5);
        assert_eq!(spec("a", None).with(spec("4f", None).devices).version(), Version::V0_5);
    }

    #[test]
    fn fields_are_spelled_as_the_specification_spells_them() {
        let json = serde_json::to_value(spec("4f", Some("/host/nvidia0"))).unwrap();
        let node = serde_json::json!({"path": "/dev/nvidia0", "hostPath": "/host/nvidia0", "type": "c", "major": 195, "minor": 0,
            "fileMode": 438, "permissions": "rw"});
        let expected = serde_json::json!({"cdiVersion": "0.5.0", "kind": "gpu.example.com/claim",
            "devices": [{"name": "4f", "containerEdits": {"deviceNodes": [node]}}]});
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let json = serde_json::to_value(spec("a", None)).unwrap();
        assert!(json.get("containerEdits").is_none());
        assert!(json["devices"][0]["containerEdits"].get("mounts").is_none());
    }
}
