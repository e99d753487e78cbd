//! Ways in for the fuzzer to what reads foreign bytes and is nobody else's business.
use aliquot_model::Inventory;
use kubelet_api::podresources::v1::{ContainerDevices, PodResources};

use crate::{claim::Record, doctor, edits, hook, others, sharing::guard};

/// A record, whose checksum is made to fit: what is behind it is read all the same.
///
/// # Panics
/// Where what was read can't be written and read again.
pub fn record(json: &[u8]) {
    let Ok(json) = std::str::from_utf8(json) else { return };
    let file = format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes()));
    if let Ok(record) = Record::decode(file.as_bytes()) {
        let written = record.encode().unwrap_or_default();
        assert!(Record::decode(&written).is_ok_and(|again| again == record));
    }
}

/// `/proc/<pid>/cgroup`, `/proc/<pid>/stat` and `/proc/devices`.
///
/// # Panics
/// Where a cgroup is taken for a pod's though no component of it is the kubelet's.
pub fn procfs(text: &str) {
    let (own, text) = text.split_once('\0').unwrap_or(("", text));
    if let Some(pod) = guard::fuzzing::pod_of(own, text) {
        assert!(text.contains("pod") && pod.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    }
    guard::fuzzing::start_in(text);
    edits::fuzzing::major(text);
}

/// Configuration files of containerd and CRI-O, with zeros between them; the first line is what the Node tells of the
/// runtime.
///
/// # Panics
/// Where CDI that is wrong has no fix.
pub fn runtime_config(text: &str) {
    let (told, files) = text.split_once('\n').unwrap_or((text, ""));
    doctor::fuzzing::runtime_config(told, files);
}

/// A line of the hook's log.
///
/// # Panics
/// Where what isn't a name of Kubernetes' becomes a pod's, or an event has more than a line.
pub fn refusal(line: &[u8]) {
    hook::refusals::fuzzing::line(line);
}

/// A device plugin's device.
///
/// # Panics
/// Where a GPU is read out of a name that isn't in it.
pub fn device_id(resource: &str, id: &str) {
    others::fuzzing::device_id(resource, id);
}

/// What the kubelet's pod-resources socket answers, on a node with these GPUs.
///
/// # Panics
/// Where others hand out what the node doesn't have.
pub fn pod_resources(inventory: &Inventory, offered: &[ContainerDevices], pods: Vec<PodResources>) {
    others::fuzzing::answers(inventory, offered, pods);
}
