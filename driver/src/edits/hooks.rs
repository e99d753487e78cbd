//! What the container runtime runs when a container is made: the question for the limit of a share's memory.
use cdi_spec::{DeviceName, Hook, HookEnv, HookName};

use crate::{claim::Record, roots::Roots, sharing::limits};

/// Longer than the hook takes to say why it gives up.
const SECONDS: i64 = 15;

/// The hooks of one device: one, where its memory is limited.
pub(super) fn of(roots: &Roots, record: &Record, device: &DeviceName) -> Vec<Hook> {
    let is_hard = record.devices.iter().any(|held| held.cdi_name() == device.as_str() && held.hard().is_some());
    if !is_hard {
        return Vec::new();
    }
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let socket = text(roots.plugin.join(limits::SOCKET));
    let flags =
        [("--socket", socket.as_str()), ("--claim", record.claim.uid().as_str()), ("--device", device.as_str())];
    let words = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
    vec![Hook {
        // The container's first process is in its cgroup then, and nothing of the container runs yet.
        hook_name: HookName::CreateRuntime,
        path: text(roots.plugin.join(limits::HOOK)),
        args: [limits::HOOK, "limit-memory"].into_iter().chain(words).map(str::to_owned).collect(),
        env: HookEnv::one("PATH", "/nowhere"),
        timeout: Some(SECONDS),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{claim::testing::share, roots::tests::roots};

    #[test]
    fn a_device_that_is_limited_asks_for_it_by_its_own_name_and_others_ask_for_nothing() {
        let mut record = share("u1", "gpu-0", 1, 8);
        let name = DeviceName::new("u1-gpu-0").unwrap();
        assert!(of(&roots("/d", "/d"), &record, &name).is_empty());
        record.devices[0].share.as_mut().unwrap().hard = true;
        let hooks = of(&roots("/d", "/d"), &record, &name);
        assert_eq!((hooks.len(), hooks[0].path.as_str()), (1, "/var/lib/kubelet/plugins/gpu.example.com/aliquot-hook"));
        let args = "aliquot-hook limit-memory --socket /var/lib/kubelet/plugins/gpu.example.com/limits.sock --claim u1 \
                    --device u1-gpu-0";
        assert_eq!(hooks[0].args.join(" "), args);
        record.devices[0].admin_access = true;
        assert!(of(&roots("/d", "/d"), &record, &name).is_empty());
    }
}
