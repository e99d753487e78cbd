//! Which pod a process belongs to, from the text of its `/proc/<pid>/cgroup`.
//!
//! The kubelet names a pod's cgroup (`pkg/kubelet/cm`), below which the container's own runtime and then the container
//! itself name what they like. So names are read from the root down, on whole components, and the first that the kubelet
//! could have written decides; whatever follows has no say.
use std::fmt;

/// The UID of a pod, as a cgroup's name holds it: a UUID, or the hash that stands for one in a static pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (plain && (1..=64).contains(&text.len())).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pod that all lines agree on: one line under cgroup v2, one per controller under v1.
///
/// Lines that name no pod don't count, as not every v1 controller is used for pods.
pub fn pod_of(text: &str) -> Option<PodUid> {
    let mut pods = text.lines().filter_map(|line| {
        // hierarchy:controllers:path; the path may hold further colons.
        let mut fields = line.splitn(3, ':');
        let _hierarchy: u32 = fields.next()?.parse().ok()?;
        pod_in_path(fields.nth(1)?)
    });
    let first = pods.next()?;
    pods.all(|pod| pod == first).then_some(first)
}

const QOS: [&str; 2] = ["burstable", "besteffort"];

/// The pod that a path names.
fn pod_in_path(path: &str) -> Option<PodUid> {
    let path = path.strip_prefix('/')?;
    let inner = path.trim_start_matches("../");
    // In a cgroup namespace of its own, a container sees others' cgroups by way of `..`: one step up is its own pod, so
    // whatever is another pod's begins at least two up, and the first name may be one that kubepods would precede.
    let cut = path.len() - inner.len() >= 2 * "../".len();
    let parts: Vec<&str> = inner.split('/').collect();
    if cut && let Some(pod) = plain_pod(&parts) {
        return Some(pod);
    }
    for (at, part) in parts.iter().enumerate() {
        if *part == "kubepods" {
            return plain_pod(&parts[at + 1..]);
        }
        if let Some(slice) = Slice::parse(part) {
            // A slice names its ancestors, so that what comes before it, or its own name, must fit.
            let placed = if at == 0 { cut || slice.is_root } else { slice.is_root || parts[at - 1] == slice.parent };
            if !placed {
                return None;
            }
            if let Some(pod) = slice.pod {
                return Some(pod);
            }
            // Down the kubelet's own slices only.
            Slice::parse(parts.get(at + 1)?)?;
        }
    }
    None
}

/// `[<qos>/]pod<uid>`, the cgroupfs form below kubepods.
fn plain_pod(parts: &[&str]) -> Option<PodUid> {
    let name = match parts {
        [qos, name, ..] if QOS.contains(qos) => name,
        [name, ..] => name,
        [] => return None,
    };
    PodUid::parse(name.strip_prefix("pod")?)
}

/// One of the kubelet's systemd slices: `[<prefix>-]kubepods[-<qos>][-pod<uid>].slice`.
struct Slice {
    /// The slice that contains it.
    parent: String,
    /// It is the kubelet's uppermost.
    is_root: bool,
    pod: Option<PodUid>,
}

impl Slice {
    fn parse(component: &str) -> Option<Self> {
        let stem = component.strip_suffix(".slice")?;
        // systemd reads '-' as nesting, so the kubelet writes UIDs with '_'.
        let pod_and_parent = stem.rsplit_once('-').and_then(|(parent, last)| {
            let uid = last.strip_prefix("pod").filter(|uid| !uid.contains('-'))?;
            Some((parent, PodUid::parse(&uid.replace('_', "-"))?))
        });
        let (stem_above, pod) = match pod_and_parent {
            Some((parent, pod)) => (parent, Some(pod)),
            None => (stem, None),
        };
        let mut names = stem_above.rsplit('-');
        let last = names.next()?;
        let has_qos = QOS.contains(&last);
        let root = if has_qos { names.next()? } else { last };
        if root != "kubepods" {
            return None;
        }
        let parent = if pod.is_some() {
            stem_above
        } else if has_qos {
            stem_above.rsplit_once('-')?.0
        } else {
            ""
        };
        Some(Self { parent: format!("{parent}.slice"), is_root: pod.is_none() && !has_qos, pod })
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
