//! What the container runtime runs when a container is made: the hook that makes its files ready, and the one that asks for
//! the limit of a share's memory.
use aliquot_model::Gpu;
use cdi_spec::{DeviceName, Hook, HookEnv, HookName};

use super::{LIBRARY_DIR, OTHER_LIBRARY_DIR};
use crate::{
    claim::Record,
    discovery::installation::Installation,
    hook::{self, Hook as Installed},
    roots::Roots,
    sharing::limits,
};

/// Longer than the hook takes to say why it gives up.
const SECONDS: i64 = 15;

/// Names and links for the driver's files, once for each container.
pub(super) fn prepare(installed: &Installed, installation: &Installation) -> Hook {
    let mut words = Vec::new();
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some(params) = &installed.params {
        flag("--params", params.to_string_lossy().into_owned());
    }
    flag("--driver-version", installation.version.clone());
    for dir in [LIBRARY_DIR, OTHER_LIBRARY_DIR] {
        flag("--library-dir", dir.to_owned());
    }
    for (path, target) in links(installation) {
        flag("--link", format!("{target}::{path}"));
    }
    for library in installation.libraries.iter().filter(|library| library.below.is_none()) {
        let file = library.file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        for name in &library.names {
            flag("--library", format!("{name}={file}"));
        }
    }
    run(installed, "prepare-container", words)
}

/// Where what is loaded as a module, or by a name that no library says, is expected.
fn links(installation: &Installation) -> Vec<(String, String)> {
    let mut links = Vec::new();
    for library in &installation.libraries {
        let Some(file) = library.file.file_name().map(|name| name.to_string_lossy()) else { continue };
        // In each directory, to the one in which the library is mounted.
        let mut link = |path: &str, below: &str| {
            for dir in [LIBRARY_DIR, OTHER_LIBRARY_DIR] {
                links.push((format!("{dir}/{path}"), format!("{LIBRARY_DIR}/{below}{file}")));
            }
        };
        if let Some(below) = library.below {
            for name in library.names.iter().filter(|name| **name != file) {
                link(&format!("{below}/{name}"), &format!("{below}/"));
            }
        }
        // GLVND's fallback where no vendor is named; Mesa ships one as well.
        if library.names.contains("libGLX_nvidia.so.0") {
            link("libGLX_indirect.so.0", "");
        }
        // Mesa's GBM loads a backend by the kernel driver's name.
        if library.names.contains("libnvidia-allocator.so.1") {
            link("gbm/nvidia-drm_gbm.so", "");
        }
    }
    links
}

/// The links by which a GPU's nodes are found by its place, which udev makes on hosts.
pub(super) fn by_path(installed: &Installed, gpu: &Gpu) -> Option<Hook> {
    let link = |name: &String| {
        let kind = if name.starts_with("card") { "card" } else { "render" };
        format!("../{name}::/dev/dri/by-path/pci-{}-{kind}", gpu.pci)
    };
    let words: Vec<String> = gpu.drm.iter().flat_map(|node| ["--link".to_owned(), link(&node.name)]).collect();
    (!words.is_empty()).then(|| run(installed, "prepare-container", words))
}

/// The question for a device's limit, where its memory is limited.
pub(super) fn limit(roots: &Roots, record: &Record, device: &DeviceName) -> Option<Hook> {
    if !record.devices.iter().any(|held| held.cdi_name() == device.as_str() && held.hard().is_some()) {
        return None;
    }
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let socket = text(roots.plugin.join(limits::SOCKET));
    let flags =
        [("--socket", socket.as_str()), ("--claim", record.claim.uid().as_str()), ("--device", device.as_str())];
    let words = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect();
    // Also where no hook could be installed this time: what a claim was promised fails rather than being forgotten.
    let installed = Installed::of_plugin(roots);
    // The container's first process is in its cgroup then, and nothing of the container runs yet.
    Some(Hook { hook_name: HookName::CreateRuntime, ..run(&installed, "limit-memory", words) })
}

/// In the container's namespaces, before its root is its own.
fn run(installed: &Installed, command: &str, words: Vec<String>) -> Hook {
    Hook {
        hook_name: HookName::CreateContainer,
        path: installed.path.to_string_lossy().into_owned(),
        args: [hook::NAME, command, "--log", &installed.log.to_string_lossy()]
            .map(str::to_owned)
            .into_iter()
            .chain(words)
            .collect(),
        env: HookEnv::one("PATH", "/nowhere"),
        timeout: Some(SECONDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{claim::testing::share, roots::tests::roots};

    #[test]
    fn a_device_that_is_limited_asks_for_it_by_its_own_name_and_others_ask_for_nothing() {
        let mut record = share("u1", "gpu-0", 1, 8);
        let name = DeviceName::new("u1-gpu-0").unwrap();
        assert_eq!(limit(&roots("/d", "/d"), &record, &name), None);
        record.devices[0].share.as_mut().unwrap().hard = true;
        let hook = limit(&roots("/d", "/d"), &record, &name).unwrap();
        assert_eq!(hook.path, "/var/lib/kubelet/plugins/gpu.example.com/aliquot-hook");
        let args = "aliquot-hook limit-memory --log /var/lib/kubelet/plugins/gpu.example.com/hook.log --socket /var/lib/kubelet/plugins/gpu.example.com/limits.sock --claim u1 \
                    --device u1-gpu-0";
        assert_eq!(hook.args.join(" "), args);
        record.devices[0].admin_access = true;
        assert_eq!(limit(&roots("/d", "/d"), &record, &name), None);
    }
}
