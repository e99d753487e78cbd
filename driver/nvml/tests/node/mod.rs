//! A node with a library of its own: it is told by a file beside it.
#![allow(unreachable_pub, dead_code, reason = "each suite is a crate of its own, and needs a part of it")]
use std::path::PathBuf;

use aliquot_model::GpuUuid;
use fake_nvml::{Control, Profile, built_library};

/// Its files.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub profile: Profile,
}

impl Node {
    pub fn new() -> Self {
        let mut profile = Profile::named("mixed").unwrap();
        profile.gpus[0].memory_limits = true;
        let node = Self { dir: tempfile::tempdir().unwrap(), profile };
        std::fs::write(node.library(), node.profile.append_to(&std::fs::read(built_library().unwrap()).unwrap()))
            .unwrap();
        for name in ["nvidiactl", "nvidia0", "nvidia1", "nvidia2"] {
            std::fs::write(node.dir.path().join(name), "").unwrap();
        }
        let (dev, control) = (node.dir.path().display(), node.control_file());
        let settings = format!("FAKE_NVML_DEV={dev}\nFAKE_NVML_CONTROL={}\n", control.display());
        std::fs::write(node.dir.path().join(fake_nvml::SETTINGS), settings).unwrap();
        node
    }

    pub fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    pub fn control_file(&self) -> PathBuf {
        self.dir.path().join("control.json")
    }

    pub fn control(&self, control: &Control) {
        let fresh = self.dir.path().join("control.new");
        std::fs::write(&fresh, serde_json::to_vec(control).unwrap()).unwrap();
        std::fs::rename(fresh, self.control_file()).unwrap();
    }

    pub fn uuid(&self, index: usize) -> GpuUuid {
        self.profile.gpus[index].uuid.parse().unwrap()
    }
}
