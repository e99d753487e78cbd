//! Ways in for the fuzzer to what reads foreign bytes and is nobody else's business.
use crate::{claim::Record, doctor, edits, sharing::guard};

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
