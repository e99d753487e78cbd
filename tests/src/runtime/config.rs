//! containerd's configuration: CDI from one directory, crun and runc, and nothing of the machine's own.
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::kinds::Runtime;
use crate::image::{REFERENCE, architecture};

/// The configuration file's text, in containerd's version 3 of it.
pub(super) fn text(runtimes: &[(Runtime, PathBuf)], dir: &Path, cdi_dir: &Path, socket: &Path) -> String {
    let quote = |path: &Path| toml_string(&path.to_string_lossy());
    let (root, state, cni) = (quote(&dir.join("root")), quote(&dir.join("state")), quote(&dir.join("cni")));
    let (socket, cdi) = (quote(socket), quote(cdi_dir));
    let platform = toml_string(&format!("linux/{}", architecture()));
    let image = toml_string(REFERENCE);
    // The native snapshotter copies files and so works on every file system, that of a container included. The plugins
    // left out write to or look into places of the machine's own.
    let mut text = format!(
        "version = 3
root = {root}
state = {state}
oom_score = 0
disabled_plugins = [
  'io.containerd.internal.v1.opt',
  'io.containerd.internal.v1.tracing',
  'io.containerd.nri.v1.nri',
  'io.containerd.snapshotter.v1.blockfile',
  'io.containerd.snapshotter.v1.btrfs',
  'io.containerd.snapshotter.v1.devmapper',
  'io.containerd.snapshotter.v1.erofs',
  'io.containerd.snapshotter.v1.overlayfs',
  'io.containerd.snapshotter.v1.zfs',
  'io.containerd.tracing.processor.v1.otlp',
]

[grpc]
address = {socket}

[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
platform = {platform}
snapshotter = 'native'

[plugins.'io.containerd.cri.v1.images']
snapshotter = 'native'
pinned_images = {{ sandbox = {image} }}

[plugins.'io.containerd.cri.v1.runtime']
enable_cdi = true
cdi_spec_dirs = [{cdi}]
restrict_oom_score_adj = true
disable_apparmor = true
cni = {{ bin_dirs = [{cni}], conf_dir = {cni}, use_internal_loopback = true }}

[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'crun'
"
    );
    for (runtime, program) in runtimes {
        let _ = write!(
            text,
            "
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{}]
runtime_type = 'io.containerd.runc.v2'
options = {{ BinaryName = {} }}
",
            runtime.name(),
            quote(program)
        );
    }
    text
}

/// A TOML basic string.
fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_as_toml_wants_them() {
        assert_eq!(toml_string("/a \"b\"\\\n"), r#""/a \"b\"\\\u000A""#);
    }
}
