//! What procfs says of a process: its pod, and when it was started.
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::{
    process::getpid,
    time::{ClockId, clock_gettime},
};

use super::{
    cgroup::{Kubepods, PodUid},
    types::Pid,
};

/// `USER_HZ`: what procfs counts in, on all that Linux and NVIDIA's driver share.
const TICKS_PER_SECOND: u64 = 100;

/// A moment since the boot, suspension included, in procfs's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticks(pub u64);

impl Ticks {
    /// This moment, by the clock that start times are in.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let whole = u64::try_from(now.tv_sec).unwrap_or_default() * TICKS_PER_SECOND;
        Self(whole + u64::try_from(now.tv_nsec).unwrap_or_default() / (1_000_000_000 / TICKS_PER_SECOND))
    }
}

/// Why no process can be traced to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blind {
    /// procfs is of another PID namespace.
    #[error(
        "the process numbers below --proc-root are not the driver's own: its pod needs hostPID: true, and --proc-root the \
         procfs that such a pod has"
    )]
    ForeignNumbers,
    /// The driver's PID namespace is not the node's.
    #[error("the driver sees the processes of its own pod only: its pod needs hostPID: true")]
    OwnNamespace,
    /// NVML lists processes for some time, and none is in procfs.
    #[error("none of the processes that NVML lists is in procfs: the driver's pod needs hostPID: true")]
    Strangers,
}

/// The kernel's first PID namespace: `PROC_PID_INIT_INO` (`linux/proc_ns.h`), which is the same on every Linux.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// A process that is there, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// With the number, this tells a process from one that got its number later.
    pub start: Ticks,
    /// Its pod; `None` for a process of the host.
    pub pod: Option<PodUid>,
}

/// procfs.
#[derive(Debug, Clone)]
pub struct Procfs {
    root: PathBuf,
    kubepods: Kubepods,
}

impl Procfs {
    /// procfs at `root`, on a node whose kubelet was given `cgroup_root`, where that is known.
    pub fn open(root: &Path, cgroup_root: Option<&Path>) -> Self {
        // What can't be read says nothing of a special place.
        let cgroup = |process: &str| read(&root.join(process).join("cgroup")).unwrap_or_default();
        let kubepods = Kubepods::find(&cgroup("self"), &cgroup("1"), cgroup_root);
        Self { root: root.to_owned(), kubepods }
    }

    /// Where the kubelet's cgroups are.
    pub fn kubepods(&self) -> &Kubepods {
        &self.kubepods
    }

    /// When the process was started.
    pub fn start(&self, pid: Pid) -> io::Result<Ticks> {
        let text = self.read(pid, "stat")?;
        start_in(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its stat has no start time"))
    }

    /// The pod whose cgroup the process is in.
    pub fn pod(&self, pid: Pid) -> io::Result<Option<PodUid>> {
        Ok(self.kubepods.pod_of(&self.read(pid, "cgroup")?))
    }

    /// Whether the node's processes are in it, as far as that shows before one has to be traced.
    pub fn sight(&self) -> Result<(), Blind> {
        if !self.shares_our_pids() {
            return Err(Blind::ForeignNumbers);
        }
        let own = self.root.join("self");
        if std::fs::read_link(own.join("ns/pid")).is_ok_and(|name| name == Path::new(FIRST_NAMESPACE)) {
            return Ok(());
        }
        // In a node that is a container itself, the namespace is a later one all the same.
        let is_alone = match (read(&own.join("cgroup")), read(&self.root.join("1/cgroup"))) {
            (Ok(own), Ok(first)) => self.kubepods.is_alone(&own, &first),
            _ => false,
        };
        if getpid().is_init() || is_alone { Err(Blind::OwnNamespace) } else { Ok(()) }
    }

    /// Whether the numbers in it are those by which this process can send signals.
    pub fn shares_our_pids(&self) -> bool {
        let own = getpid().as_raw_nonzero().to_string();
        std::fs::canonicalize(self.root.join("self")).is_ok_and(|dir| dir.ends_with(&own))
    }

    fn read(&self, pid: Pid, name: &str) -> io::Result<String> {
        read(&self.root.join(format!("{pid}/{name}")))
    }
}

/// A process may call itself anything, so that text is what can be read of it.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(512);
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Field 22 of `proc_pid_stat(5)`. Field 2 is the process's name for itself, in which anything may stand, so that counting
/// begins behind its last `)`.
pub(super) fn start_in(stat: &str) -> Option<Ticks> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok().map(Ticks)
}

/// Processes that were seen before, so that at rest each costs one small read.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: HashMap<Pid, Origin>,
}

impl Origins {
    /// Whose process it is; `None` if the process of which `pid` was read at `begun` is gone.
    pub(super) fn find(&mut self, procfs: &Procfs, pid: Pid, begun: Ticks) -> Option<Origin> {
        let start = procfs.start(pid).ok()?;
        if start >= begun {
            // The number is another's by now.
            return None;
        }
        if let Some(known) = self.known.get(&pid)
            && known.start == start
        {
            return Some(known.clone());
        }
        let pod = procfs.pod(pid).ok()?;
        // Both files must be of one process.
        if procfs.start(pid).ok()? != start {
            return None;
        }
        let origin = Origin { start, pod };
        self.known.insert(pid, origin.clone());
        Some(origin)
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, keep: impl Fn(Pid) -> bool) {
        self.known.retain(|pid, _| keep(*pid));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, process::Command};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_hides_no_start_time() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["sh", "a b", ") S 1 2 3 (", "x) R 0 0"] {
            assert_eq!(start_in(&format!("42 ({name}) {rest}")), Some(Ticks(4711)), "{name}");
        }
        assert_eq!(start_in("42 (sh) S 1"), None);
    }

    #[test]
    fn a_child_started_now_has_the_start_time_of_now() {
        let before = Ticks::now();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let start = Procfs::open(Path::new("/proc"), None).start(Pid(child.id())).unwrap();
        let after = Ticks::now();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(before <= start && start <= after, "{before:?} {start:?} {after:?}");
    }

    #[test]
    fn the_real_procfs_has_our_numbers_and_another_tree_has_not() {
        assert!(Procfs::open(Path::new("/proc"), None).shares_our_pids());
        let other = tempfile::tempdir().unwrap();
        let procfs = Procfs::open(other.path(), None);
        assert!(!procfs.shares_our_pids());
        assert_eq!(procfs.sight(), Err(Blind::ForeignNumbers));
    }

    #[test]
    fn a_pid_namespace_of_the_drivers_own_is_noticed_before_any_process_has_to_be_traced() {
        let sight = |namespace: &str, own: &str, first: &str| {
            let dir = tempfile::tempdir().unwrap();
            let of = |process: &str| dir.path().join(process);
            let pid = std::process::id().to_string();
            fs::create_dir_all(of(&pid).join("ns")).unwrap();
            fs::create_dir_all(of("1")).unwrap();
            symlink(&pid, of("self")).unwrap();
            symlink(namespace, of("self/ns/pid")).unwrap();
            fs::write(of("self/cgroup"), format!("0::{own}\n")).unwrap();
            fs::write(of("1/cgroup"), format!("0::{first}\n")).unwrap();
            Procfs::open(dir.path(), None).sight()
        };
        assert_eq!(sight(FIRST_NAMESPACE, "/", "/"), Ok(()));
        assert_eq!(sight("pid:[4026532201]", "/kubelet/kubepods/podp/c", "/init.scope"), Ok(()));
        assert_eq!(sight("pid:[4026532201]", "/", "/"), Err(Blind::OwnNamespace));
        assert_eq!(sight("pid:[4026532201]", "/kubepods/podp/c", "/kubepods/podp/pause"), Err(Blind::OwnNamespace));
    }

    #[test]
    fn a_known_process_is_not_asked_again_and_a_reused_number_is() {
        let dir = tempfile::tempdir().unwrap();
        let write = |start: u64, pod: &str| {
            fs::create_dir_all(dir.path().join("7")).unwrap();
            let stat = format!("7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 {start} 0");
            fs::write(dir.path().join("7/stat"), stat).unwrap();
            fs::write(dir.path().join("7/cgroup"), format!("0::/kubepods/pod{pod}/c\n")).unwrap();
        };
        let (mut origins, procfs) = (Origins::default(), Procfs::open(dir.path(), None));
        let mut pod = |begun| origins.find(&procfs, Pid(7), Ticks(begun)).map(|o| o.pod.unwrap().to_string());
        write(100, "a");
        assert_eq!(pod(200).as_deref(), Some("a"));
        write(100, "b");
        assert_eq!(pod(200).as_deref(), Some("a"), "it is known");
        write(150, "c");
        assert_eq!(pod(200).as_deref(), Some("c"), "it is another process");
        write(200, "d");
        assert_eq!(pod(200), None, "it was not there when the GPU was read");
    }

    #[test]
    fn a_user_of_the_host_is_in_no_pod_whatever_he_names_his_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let write = |process: &str, cgroup: &str| {
            fs::create_dir_all(dir.path().join(process)).unwrap();
            fs::write(dir.path().join(process).join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        };
        let pod = |cgroup: &str, root: Option<&Path>| {
            write("7", cgroup);
            Procfs::open(dir.path(), root).pod(Pid(7)).unwrap().map(|pod| pod.to_string())
        };
        // The driver is in a cgroup namespace of its own; then it sees the node's, which is in a container.
        write("1", "/../../../../init.scope");
        write("self", "/");
        assert_eq!(pod("/../../../../user.slice/user-1000.slice/user@1000.service/kubepods/podu/x", None), None);
        assert_eq!(pod("/../../kubepods-burstable-podu.slice/c.scope", None).as_deref(), Some("u"));
        write("1", "/init.scope");
        write("self", "/kubelet/kubepods/podme/c");
        assert_eq!(pod("/user.slice/user@1000.service/kubepods/podu/x", None), None);
        assert_eq!(pod("/kubelet/kubepods/podu/c", None).as_deref(), Some("u"));
        write("self", "/");
        assert_eq!(pod("/kubelet/kubepods/podu/c", None), None);
        assert_eq!(pod("/kubelet/kubepods/podu/c", Some(Path::new("/kubelet"))).as_deref(), Some("u"));
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in "\\PC{0,200}") {
            let _ = start_in(&text);
        }
    }
}
