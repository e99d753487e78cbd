//! The policy in force: reads the file, judges it against the node's GPUs, and follows its changes.
//!
//! A file that is wrong changes nothing: the last good policy stays, over restarts too (a copy is kept until the next
//! boot). Where there never was a good one, nothing new is offered; claims are prepared all the same.
pub(crate) mod check;
pub(crate) mod file;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aliquot_model::{Binding, Gpu, Inventory};
use aliquot_params::policy::{GpuFault, GpuWarning, LARGEST, Policy};
use owned_dir::{Access, Dir};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::discovery::View;

const COPY: &str = "policy.yaml";
/// An editor or the kubelet changes several names; they are taken as one change.
const SETTLE: Duration = Duration::from_millis(100);

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InForce {
    policy: Option<Arc<Policy>>,
    /// What is wrong with the file as it is now.
    trouble: Option<String>,
    /// How often a file was refused since the start.
    refused: u64,
}

impl InForce {
    /// The last good policy; none before there is one.
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.clone()
    }

    /// What claims are prepared by once the file was judged: the defaults where there is no good policy.
    pub(crate) fn judged(&self) -> Option<Arc<Policy>> {
        self.policy().or_else(|| self.trouble().map(|_| Arc::default()))
    }

    /// Why the file isn't in force.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// How often a file was refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// As it would be, for those who are told of it.
    #[cfg(test)]
    pub(crate) fn of(policy: Option<Policy>, trouble: Option<&str>) -> Self {
        Self { policy: policy.map(Arc::new), trouble: trouble.map(ToOwned::to_owned), refused: 0 }
    }
}

/// Where the policy comes from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The file; none for the policy that needs none.
    pub(crate) file: Option<PathBuf>,
    /// Where the copy of the last good one is kept.
    pub(crate) run: PathBuf,
}

/// Why a file isn't taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It can't be read.
    #[error(transparent)]
    File(#[from] file::Error),
    /// It is wrong by itself.
    #[error(transparent)]
    Policy(#[from] aliquot_params::policy::PolicyError),
    /// It is wrong for this node's GPUs.
    #[error("{}", .0.join("; "))]
    Node(Vec<String>),
}

/// Keeps `sender` at the policy in force until `stop`.
pub(crate) async fn follow(
    settings: Settings,
    mut view: watch::Receiver<View>,
    sender: watch::Sender<InForce>,
    stop: CancellationToken,
) {
    let Some(path) = settings.file else {
        sender.send_modify(|now| now.policy = Some(Arc::default()));
        return;
    };
    let mut changes = file::Changes::of(&path);
    let mut last: Option<Result<Vec<u8>, String>> = None;
    // What of this node's GPUs the file doesn't fit.
    let mut unfit: Option<String> = None;
    loop {
        let read = file::read(&path, LARGEST);
        let seen = read.as_ref().map_err(ToString::to_string).cloned();
        let is_new = last.as_ref() != Some(&seen);
        // A node whose GPUs can't be read just now says nothing new of them.
        let is_known = matches!(*view.borrow(), View::Ready(_));
        if is_new || (unfit.is_some() && is_known) {
            // What a policy may say of a GPU depends on the GPU.
            let known = view.wait_for(|view| *view != View::Searching);
            // Without an answer there is nothing to judge by: those who read the GPUs have ended.
            let Some(Ok(known)) = stop.run_until_cancelled(known).await.map(|view| view.map(|view| view.clone()))
            else {
                return;
            };
            let judged = judge(read, known.inventory());
            let now = match &judged {
                Err(refusal @ Refusal::Node(_)) => Some(refusal.to_string()),
                _ => None,
            };
            if is_new || now != unfit {
                take(judged, &settings.run, seen.as_deref().ok(), &sender);
            }
            (last, unfit) = (Some(seen), now);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changes.next(SETTLE) => {}
            // The GPU that was in its way may have gone.
            told = view.changed(), if unfit.is_some() => if told.is_err() { return },
        }
    }
}

/// The policy, and what is allowed in it but can't be meant.
fn judge(read: Result<Vec<u8>, file::Error>, inventory: Option<&Inventory>) -> Result<(Policy, Vec<String>), Refusal> {
    let policy = Policy::parse(&read?)?;
    let mut warnings = policy.warnings().to_vec();
    if let Some(inventory) = inventory {
        fits(&policy, inventory)?;
        warnings.extend(doubts(&policy, inventory));
    }
    Ok((policy, warnings))
}

/// Reads a file and judges it as the running driver would, against GPUs as far as they are known.
pub(crate) fn read(path: &Path, inventory: Option<&Inventory>) -> Result<(Policy, Vec<String>), Refusal> {
    judge(file::read(path, LARGEST), inventory)
}

/// Whether the policy can be had on every GPU that is here.
pub(crate) fn fits(policy: &Policy, inventory: &Inventory) -> Result<(), Refusal> {
    let faults = inventory.gpus().iter().filter_map(|gpu| policy.for_gpu(gpu).err());
    let faults = told(faults, |one: &GpuFault, other| one.rule == other.rule && one.reason == other.reason);
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Node(faults)) }
}

/// What the policy says of the GPUs that are here and can't be meant.
pub(crate) fn doubts(policy: &Policy, inventory: &Inventory) -> Vec<String> {
    let warnings = inventory.gpus().iter().filter_map(|gpu| policy.warning_for(gpu));
    let mut doubts = told(warnings, |one: &GpuWarning, other| one.rule == other.rule && one.reason == other.reason);
    doubts.extend(inventory.gpus().iter().filter_map(|gpu| unbound(policy, gpu)));
    doubts.extend(inventory.gpus().iter().filter_map(|gpu| untakable(policy, gpu, inventory)));
    doubts
}

/// Nothing is offered of a GPU that is for virtual machines only, as long as NVIDIA's driver has it.
fn unbound(policy: &Policy, gpu: &Gpu) -> Option<String> {
    let offer = policy.for_gpu(gpu).ok()?;
    let is_only = offer.vfio && !offer.whole && offer.shares.is_none();
    let (rule, is_waiting) = (offer.rule?, is_only && policy.takes(gpu).is_none());
    is_waiting.then(|| {
        format!(
            "rules[{rule}] offers GPU {} at {} ({}) to virtual machines only, but NVIDIA's driver has it: nothing is \
             offered of it until it is bound to vfio-pci",
            gpu.uuid, gpu.pci, gpu.product_name
        )
    })
}

/// A GPU that is to be taken from NVIDIA's driver, and can't be.
fn untakable(policy: &Policy, gpu: &Gpu, inventory: &Inventory) -> Option<String> {
    policy.takes(gpu)?;
    let group = inventory.vfio().iter().find(|vfio| vfio.has(gpu.pci));
    let reason = match group {
        None => "it has no IOMMU group: is the IOMMU on (firmware; kernel parameters intel_iommu=on, amd_iommu=on)?",
        Some(vfio) => match &vfio.binding {
            Binding::Unusable(reason) => reason,
            Binding::Bound | Binding::Switchable => return None,
        },
    };
    let rule = policy.for_gpu(gpu).ok()?.rule?;
    Some(format!(
        "rules[{rule}] lets GPU {} at {} ({}) be taken for virtual machines, but that can't be done: {reason}",
        gpu.uuid, gpu.pci, gpu.product_name
    ))
}

/// What is the same for several GPUs is told once: a node's GPUs are mostly of one kind.
fn told<T: std::fmt::Display>(all: impl Iterator<Item = T>, is_same: impl Fn(&T, &T) -> bool) -> Vec<String> {
    let mut groups: Vec<(T, usize)> = Vec::new();
    for one in all {
        match groups.iter_mut().find(|(known, _)| is_same(known, &one)) {
            Some((_, more)) => *more += 1,
            None => groups.push((one, 0)),
        }
    }
    let text = |(one, more): (T, usize)| match more {
        0 => one.to_string(),
        more => format!("{one} (and on {more} more GPUs)"),
    };
    groups.into_iter().map(text).collect()
}

fn take(
    judged: Result<(Policy, Vec<String>), Refusal>,
    run: &Path,
    bytes: Option<&[u8]>,
    sender: &watch::Sender<InForce>,
) {
    match judged {
        Ok((policy, warnings)) => {
            for warning in warnings {
                tracing::warn!(warning, "the policy is in force, but may not mean what it says");
            }
            tracing::info!(rules = policy.rules(), "the policy is in force");
            keep(run, bytes.unwrap_or_default());
            sender.send_modify(|now| {
                now.policy = Some(Arc::new(policy));
                now.trouble = None;
            });
        }
        Err(refusal) => {
            let reason = crate::report(&refusal);
            let kept = sender.borrow().policy.clone().or_else(|| kept(run).map(Arc::new));
            let stays = if kept.is_some() { "the last good one stays in force" } else { "nothing new is offered" };
            tracing::error!(reason, "the policy is refused; {stays}");
            sender.send_modify(|now| {
                now.policy = kept;
                now.trouble = Some(format!("{reason}; {stays}"));
                now.refused += 1;
            });
        }
    }
}

/// Without the copy a restart would lose the last good policy, no more; so a copy that can't be kept is only logged.
fn keep(run: &Path, bytes: &[u8]) {
    let written = Dir::open(run).and_then(|dir| dir.write(COPY, bytes, Access::Private));
    if let Err(error) = written {
        tracing::warn!(error = crate::report(&error), "no copy of the policy can be kept");
    }
}

fn kept(run: &Path) -> Option<Policy> {
    let bytes = Dir::open(run).and_then(|dir| dir.read(COPY, LARGEST)).ok()??;
    Policy::parse(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use aliquot_model::{ComputeCapability, Memory, testing};

    use super::*;
    use crate::discovery::Found;

    const GOOD: &str = "apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules:\n- offer: [whole]\n";

    struct Bed {
        dir: tempfile::TempDir,
        now: watch::Receiver<InForce>,
        view: watch::Sender<View>,
        _stop: tokio_util::sync::DropGuard,
    }

    impl Bed {
        fn start(dir: tempfile::TempDir) -> Self {
            Self::beside(dir, View::Unavailable("no driver".into()))
        }

        fn beside(dir: tempfile::TempDir, view: View) -> Self {
            let (view, views) = watch::channel(view);
            let (sender, now) = watch::channel(InForce::default());
            let stop = CancellationToken::new();
            let settings = Settings { file: Some(dir.path().join("etc/policy.yaml")), run: dir.path().join("run") };
            tokio::spawn(follow(settings, views, sender, stop.clone()));
            Self { dir, now, view, _stop: stop.drop_guard() }
        }

        async fn until(&mut self, holds: impl Fn(&InForce) -> bool) -> InForce {
            let wait = self.now.wait_for(|now| holds(now));
            tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap().clone()
        }
    }

    fn dir(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/policy.yaml"), text).unwrap();
        dir
    }

    fn bed(text: &str) -> Bed {
        Bed::start(dir(text))
    }

    fn ready(gpus: Vec<Gpu>) -> View {
        View::Ready(Arc::new(Found { inventory: Inventory::new(gpus, vec![]), ..Found::default() }))
    }

    fn gpu(bus: u8, gibibytes: u64) -> Gpu {
        Gpu {
            uuid: format!("GPU-{bus}").parse().unwrap(),
            product_name: "NVIDIA L40S".into(),
            architecture: "Ada".into(),
            compute_capability: ComputeCapability { major: 8, minor: 9 },
            memory: Memory::from_bytes(gibibytes << 30),
            ..testing::gpu(bus)
        }
    }

    #[test]
    fn a_gpu_for_virtual_machines_only_that_none_can_have_is_a_doubt() {
        let doubts = |rules: &str| {
            let text = format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules: {rules}\n");
            doubts(&Policy::parse(text.as_bytes()).unwrap(), &Inventory::new(vec![gpu(1, 48)], vec![]))
        };
        let told = doubts("[{offer: [vfio]}]");
        assert!(
            told.len() == 1 && told[0].contains("GPU-1 at 0000:01:00.0") && told[0].contains("vfio-pci"),
            "{told:?}"
        );
        for rules in ["[{offer: []}]", "[{offer: [whole, vfio]}]", "[]"] {
            assert!(doubts(rules).is_empty(), "{rules}");
        }
    }

    #[tokio::test]
    async fn a_policy_that_a_gpu_is_in_the_way_of_is_taken_when_that_gpu_has_gone() {
        let text = GOOD.replace("offer: [whole]", "shares: {memory: {default: 40Gi}}");
        let mut bed = Bed::beside(dir(&text), ready(vec![gpu(1, 48), gpu(2, 16)]));
        let now = bed.until(|now| now.trouble.is_some()).await;
        assert!(now.policy.is_none() && now.trouble().unwrap().contains("GPU-2"), "{now:?}");
        // What says nothing new of it is not told again.
        bed.view.send_replace(View::Unavailable("the library is replaced".into()));
        bed.view.send_replace(ready(vec![gpu(2, 16)]));
        tokio::time::sleep(SETTLE * 2).await;
        assert_eq!(*bed.now.borrow(), now);
        bed.view.send_replace(ready(vec![gpu(1, 48)]));
        let now = bed.until(|now| now.trouble.is_none()).await;
        assert!(now.policy.is_some() && now.refused == 1, "{now:?}");
    }

    #[tokio::test]
    async fn a_driver_that_ends_before_it_has_seen_its_gpus_leaves_the_last_good_policy_alone() {
        let first = {
            let mut bed = bed(GOOD);
            bed.until(|now| now.policy.is_some()).await;
            bed.dir
        };
        let copy = fs::read(first.path().join("run").join(COPY)).unwrap();
        fs::write(first.path().join("etc/policy.yaml"), "rules: [\n").unwrap();
        let Bed { dir, mut now, view, _stop } = Bed::beside(first, View::Searching);
        drop(view);
        // It ends, and has said nothing.
        let over = async { while now.changed().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(10), over).await.unwrap();
        assert_eq!(*now.borrow(), InForce::default());
        assert_eq!(fs::read(dir.path().join("run").join(COPY)).unwrap(), copy);
    }

    #[tokio::test]
    async fn a_bad_file_changes_nothing_and_a_good_one_is_taken_without_a_restart() {
        let mut bed = bed(GOOD);
        let first = bed.until(|now| now.policy.is_some()).await.policy();
        let file = bed.dir.path().join("etc/policy.yaml");
        let large = vec![b' '; 2 << 20];
        for bad in [&b"rules: [x"[..], b"\xff\xfe", &large] {
            let refused = bed.now.borrow().refused;
            fs::write(&file, bad).unwrap();
            let now = bed.until(|now| now.refused > refused && now.trouble.is_some()).await;
            assert_eq!(now.policy, first);
            assert!(now.trouble().unwrap().contains("the last good one stays"), "{now:?}");
        }
        fs::write(&file, GOOD.replace("whole", "shares")).unwrap();
        let now = bed.until(|now| now.trouble.is_none()).await;
        assert_ne!(now.policy, first);
    }

    #[tokio::test]
    async fn a_restart_with_a_bad_file_keeps_the_last_good_policy() {
        let mut first = bed(GOOD);
        let good = first.until(|now| now.policy.is_some()).await.policy();
        let Bed { dir, .. } = first;
        fs::write(dir.path().join("etc/policy.yaml"), "rules: {}\n").unwrap();
        let mut second = Bed::start(dir);
        let now = second.until(|now| now.trouble.is_some()).await;
        assert_eq!(now.policy, good);
    }

    #[tokio::test]
    async fn a_node_that_never_had_a_good_policy_has_none() {
        let mut bed = bed("kind: Policy\n");
        let now = bed.until(|now| now.trouble.is_some()).await;
        assert!(now.policy.is_none() && now.trouble().unwrap().contains("nothing new is offered"));
    }

    /// As the kubelet changes a `ConfigMap`'s volume: a link to a directory is replaced.
    #[tokio::test]
    async fn a_config_map_is_followed_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        let version = |name: &str, text: &str| {
            fs::create_dir_all(etc.join(name)).unwrap();
            fs::write(etc.join(name).join("policy.yaml"), text).unwrap();
        };
        let point = |name: &str| {
            symlink(name, etc.join("..data_tmp")).unwrap();
            fs::rename(etc.join("..data_tmp"), etc.join("..data")).unwrap();
        };
        version("..1", GOOD);
        point("..1");
        symlink(Path::new("..data/policy.yaml"), etc.join("policy.yaml")).unwrap();
        let mut bed = Bed::start(dir);
        let first = bed.until(|now| now.policy.is_some()).await.policy();
        version("..2", &GOOD.replace("whole", "shares"));
        point("..2");
        bed.until(|now| now.policy != first).await;
        // Gone, half-way through a change: the last good one stays.
        fs::remove_file(etc.join("..data")).unwrap();
        let now = bed.until(|now| now.trouble.is_some()).await;
        assert!(now.policy.is_some() && now.policy != first);
    }
}
