//! Which pod a process belongs to, from the text of its `/proc/<pid>/cgroup`.
//!
//! The kubelet names a pod's cgroup (`pkg/kubelet/cm`), below which the container's own runtime and then the container
//! itself name what they like; and beside the kubelet's, users of the host may name theirs (systemd delegates a cgroup to
//! each login). So a name counts only in the one place where the kubelet alone could have written it: names are read from
//! the root down, on whole components, and whatever follows a pod's has no say.
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::{Component, Path},
};

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

/// The pod that a text names on a node whose kubelet keeps its cgroups at the root, seen from the node's own cgroup
/// namespace.
#[cfg(test)]
pub fn pod_of(text: &str) -> Option<PodUid> {
    Kubepods::default().pod_of(text)
}

/// Where the kubelet's cgroups are in what this process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubepods {
    /// What is above the kubelet's uppermost cgroup, from the node's root.
    above: BTreeSet<Vec<String>>,
    /// By controllers: how many steps up it is from this process's root to the node's, if they differ.
    climb: HashMap<String, usize>,
}

impl Default for Kubepods {
    fn default() -> Self {
        Self { above: BTreeSet::from([Vec::new()]), climb: HashMap::new() }
    }
}

impl Kubepods {
    /// From the cgroups of this process and of the node's first one, and what the kubelet was given as `--cgroup-root`.
    ///
    /// A node may run in a container itself (kind, minikube): a driver that runs in a pod finds by its own cgroup what is
    /// above the kubelet's. In a cgroup namespace of its own it sees others by way of `..` (`cgroup_path_ns` in the
    /// kernel); how many of them lead to the node's root tells the first process, which no kubelet started.
    pub fn find(own: &str, first: &str, cgroup_root: Option<&Path>) -> Self {
        let climb = lines(first).map(|(controllers, path)| (controllers.to_owned(), parts(path).0));
        let climb = climb.filter(|(_, steps)| *steps > 0).collect();
        let above: BTreeSet<Vec<String>> = match cgroup_root {
            Some(root) => given(root),
            None => lines(own).filter_map(|(_, path)| above_kubepods(path)).collect(),
        };
        if above.is_empty() { Self { climb, ..Self::default() } } else { Self { above, climb } }
    }

    /// The pod that all lines agree on: one line under cgroup v2, one per controller under v1.
    ///
    /// Lines that name no pod don't count, as not every v1 controller is used for pods.
    pub fn pod_of(&self, text: &str) -> Option<PodUid> {
        let mut pods = lines(text).filter_map(|(controllers, path)| {
            let climb = self.climb.get(controllers).copied().unwrap_or_default();
            self.pod_in_path(path, climb)
        });
        let first = pods.next()?;
        pods.all(|pod| pod == first).then_some(first)
    }

    /// The pod that a path names, where the node's root is `climb` steps up.
    fn pod_in_path(&self, path: &str, climb: usize) -> Option<PodUid> {
        let (steps, parts) = parts(path);
        if steps == climb {
            let below = self.above.iter().find_map(|above| below(&parts, above))?;
            return pod_in_kubepods(below.0, below.1);
        }
        // Fewer steps end in a cgroup that this process's own is in: one of the kubelet's, or what is above them, where
        // only the node's administrator writes. One step is the driver's own pod, none its own container.
        if (2..climb).contains(&steps) { pod_within_kubepods(&parts) } else { None }
    }

    /// Whether the first process that this one sees is no node's, but of its own container or pod.
    pub(super) fn is_alone(&self, own: &str, first: &str) -> bool {
        let is_next = |path: &str| parts(path).0 == 1;
        own == first || self.pod_of(first).is_some() || lines(first).any(|(_, path)| is_next(path))
    }
}

const QOS: [&str; 2] = ["burstable", "besteffort"];
const KUBEPODS: &str = "kubepods";

/// Controllers and path of each line; the path may hold further colons.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (hierarchy, rest) = line.split_once(':')?;
        hierarchy.parse::<u32>().ok()?;
        rest.split_once(':').filter(|(_, path)| path.starts_with('/'))
    })
}

/// How many steps up a path goes at first, and the names that follow.
fn parts(path: &str) -> (usize, Vec<&str>) {
    let all: Vec<&str> = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty()).collect();
    let steps = all.iter().take_while(|part| **part == "..").count();
    (steps, all[steps..].to_vec())
}

/// What the kubelet makes of its `--cgroup-root`, under either of its cgroup drivers; or the path as it is.
fn given(root: &Path) -> BTreeSet<Vec<String>> {
    let plain = root.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str().map(ToOwned::to_owned),
        _ => None,
    });
    let plain: Vec<String> = plain.collect();
    let mut stem = String::new();
    let slices = plain.iter().map(|part| {
        // systemd reads '-' as nesting.
        let part = part.replace('-', "_");
        stem = if stem.is_empty() { part } else { format!("{stem}-{part}") };
        format!("{stem}.slice")
    });
    BTreeSet::from([slices.collect(), plain])
}

/// What is above the kubepods that a pod's path is in: of several, the kubelet's that started the innermost.
fn above_kubepods(path: &str) -> Option<Vec<String>> {
    let (0, parts) = parts(path) else { return None };
    let is_kubepods = |at: &usize| {
        let parent = at.checked_sub(1).map(|above| parts[above]);
        pod_in_kubepods(parent, &parts[*at..]).is_some()
    };
    let at = (0..parts.len()).rev().find(is_kubepods)?;
    Some(parts[..at].iter().map(|part| (*part).to_owned()).collect())
}

/// The last name above, and the names below it.
fn below<'a, 'b>(parts: &'a [&'b str], above: &[String]) -> Option<(Option<&'b str>, &'a [&'b str])> {
    let (head, rest) = parts.split_at_checked(above.len())?;
    (head == above).then(|| (head.last().copied(), rest))
}

/// The pod of a path that begins with the kubelet's uppermost cgroup, in `parent`.
fn pod_in_kubepods(parent: Option<&str>, parts: &[&str]) -> Option<PodUid> {
    let (first, rest) = parts.split_first()?;
    if *first == KUBEPODS {
        return plain_pod(rest);
    }
    // A slice has its parent's name before its own.
    let expected = match parent.and_then(|parent| parent.strip_suffix(".slice")) {
        Some(stem) => format!("{stem}-{KUBEPODS}.slice"),
        None => format!("{KUBEPODS}.slice"),
    };
    if *first == expected { pod_in_slices(first, rest) } else { None }
}

/// The pod of a path that begins within the kubelet's cgroups, whose names above aren't known.
fn pod_within_kubepods(parts: &[&str]) -> Option<PodUid> {
    if let Some(pod) = plain_pod(parts) {
        return Some(pod);
    }
    let (first, rest) = parts.split_first()?;
    match Slice::parse(first)? {
        Slice { pod: Some(pod), .. } => Some(pod),
        Slice { is_root: false, .. } => pod_in_slices(first, rest),
        // The kubelet's uppermost is above this process as well.
        Slice { is_root: true, .. } => None,
    }
}

/// The pod of the slices below one of the kubelet's.
fn pod_in_slices(above: &str, parts: &[&str]) -> Option<PodUid> {
    let (first, rest) = parts.split_first()?;
    let slice = Slice::parse(first).filter(|slice| slice.parent == above)?;
    slice.pod.or_else(|| pod_in_slices(first, rest))
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
        if root != KUBEPODS {
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
