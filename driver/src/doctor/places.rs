//! Checks `hook`, `hook-exec`, `hook-root`, `kubelet-directories` and `cdi-directory`: where the driver puts what others read.
use std::path::{Path, PathBuf};

use super::check::{Check, some};
use crate::hook::Lacking;

const HOOK: &str = "hook";
const EXEC: &str = "hook-exec";
const ROOT: &str = "hook-root";
const KUBELET: &str = "kubelet-directories";
const CDI: &str = "cdi-directory";

/// What a path is to a process that wants to write files there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A directory that can be written.
    Good,
    /// Nothing is there.
    Missing,
    /// What is there can't be written, for this reason.
    Bad(String),
}

/// The file system under a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The directory, or the nearest one above it that exists.
    pub(super) dir: PathBuf,
    /// Whether it refuses to execute.
    pub(super) noexec: bool,
}

pub(super) fn hook(shipped: &Result<PathBuf, Lacking>) -> Check {
    match shipped {
        Ok(path) => Check::ok(HOOK, format!("{} runs on any host", path.display())),
        Err(Lacking::Off) => Check::skipped(HOOK, "--hook is empty: containers start without one"),
        Err(lacking) => Check::warning(
            HOOK,
            crate::report(lacking),
            "put the static aliquot-hook of this release beside aliquot-driver, or name it with --hook; without one, \
             containers lack the loader's cache, CUDA forward compatibility and hard memory limits (--hook= if that is meant)",
        ),
    }
}

pub(super) fn exec(shipped: &Result<PathBuf, Lacking>, mount: Option<&Mount>) -> Check {
    if shipped.is_err() {
        return Check::skipped(EXEC, "there is no hook to start");
    }
    match mount {
        None => Check::skipped(EXEC, "the file system below the kubelet's root can't be asked"),
        Some(Mount { dir, noexec: true }) => Check::failed(
            EXEC,
            format!("{} is mounted noexec, so the container runtime can't start the hook there", dir.display()),
            format!("mount -o remount,exec the file system of {} (and in /etc/fstab), or set --hook=", dir.display()),
        ),
        Some(Mount { dir, .. }) => Check::ok(EXEC, format!("programs can be started below {}", dir.display())),
    }
}

/// `open_to_all` is where containers in user namespaces would find it.
pub(super) fn hook_root(shipped: &Result<PathBuf, Lacking>, open_to_all: &Result<PathBuf, Lacking>) -> Check {
    if shipped.is_err() {
        return Check::skipped(ROOT, "there is no hook to install");
    }
    match open_to_all {
        Ok(path) => Check::ok(ROOT, format!("{} is, or can be made, open to all and root's alone", path.display())),
        Err(lacking) => Check::warning(
            ROOT,
            format!("pods with user namespaces (hostUsers: false) can't start with a GPU: {}", crate::report(lacking)),
            "mend that directory, or set --hook-root to one that is root's alone from / on, passable for all (mode 0755), and \
             not mounted noexec; nothing else needs it",
        ),
    }
}

/// `places` are the kubelet's root and the directories in it that are written.
pub(super) fn kubelet(root: &Path, places: &[(PathBuf, Place)]) -> Check {
    let fault = places.iter().find_map(|(path, place)| match place {
        Place::Good => None,
        // Nothing is written into the root itself.
        Place::Bad(_) if path == root => None,
        Place::Missing if path == root => Some(Check::failed(
            KUBELET,
            format!("{} isn't there", path.display()),
            "set --kubelet-root to the kubelet's --root-dir (k0s: /var/lib/k0s/kubelet), and mount it into the driver's pod \
             at the same path",
        )),
        Place::Missing => Some(Check::failed(
            KUBELET,
            format!("{} isn't there, which the kubelet makes when it starts", path.display()),
            "start the kubelet, or set --kubelet-root to its --root-dir",
        )),
        Place::Bad(reason) => Some(Check::failed(
            KUBELET,
            format!("{} can't be written: {reason}", path.display()),
            "run the driver as root, with the kubelet's directories mounted for writing",
        )),
    });
    fault.unwrap_or_else(|| Check::ok(KUBELET, format!("{} with plugins and plugins_registry", root.display())))
}

/// `fatal` are specs with names of one letter, which end containerd at once and at each of its starts (seen on 2.1.9).
pub(super) fn cdi(dir: &Path, place: &Place, fatal: &[PathBuf]) -> Check {
    let shown = dir.display();
    if !fatal.is_empty() {
        let files: Vec<String> = fatal.iter().map(|path| path.display().to_string()).collect();
        return Check::failed(
            CDI,
            format!("the vendor or class is one letter in {}: containerd crashes on it", some(&files)),
            format!("remove {}, and have its maker use a longer name", some(&files)),
        );
    }
    match place {
        Place::Good => Check::ok(CDI, format!("{shown} can be written")),
        Place::Missing => Check::ok(CDI, format!("{shown} isn't there yet; the driver makes it")),
        Place::Bad(reason) => Check::failed(
            CDI,
            format!("{shown} can't be written: {reason}"),
            "run the driver as root, with the directory mounted for writing, or set --cdi-root to another of the runtime's \
             cdi_spec_dirs",
        ),
    }
}

/// Whether a CDI kind has a vendor or class of one letter.
pub(super) fn is_fatal(kind: &str) -> bool {
    kind.split_once('/').is_some_and(|(vendor, class)| vendor.len() == 1 || class.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    #[allow(clippy::unnecessary_wraps, reason = "it is judged as what may fail")]
    fn shipped() -> Result<PathBuf, Lacking> {
        Ok("/usr/bin/aliquot-hook".into())
    }

    #[test]
    fn no_hook_is_a_warning_unless_none_is_wanted() {
        let missing = Err(Lacking::Missing { path: "/x".into(), source: std::io::ErrorKind::NotFound.into() });
        assert_eq!(hook(&missing).verdict, Verdict::Warning);
        assert_eq!(hook(&Err(Lacking::Off)).verdict, Verdict::Skipped);
        assert_eq!(hook(&shipped()).verdict, Verdict::Ok);
    }

    #[test]
    fn a_hook_on_a_noexec_mount_fails_with_the_mount_named() {
        let mount = |noexec| Mount { dir: "/var/lib/kubelet".into(), noexec };
        let check = exec(&shipped(), Some(&mount(true)));
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.fix.unwrap().contains("remount,exec the file system of /var/lib/kubelet"));
        assert_eq!(exec(&shipped(), Some(&mount(false))).verdict, Verdict::Ok);
        assert_eq!(exec(&Err(Lacking::Off), Some(&mount(true))).verdict, Verdict::Skipped);
        assert_eq!(exec(&shipped(), None).verdict, Verdict::Skipped);
    }

    #[test]
    fn each_fault_of_the_kubelets_directories_has_its_own_fix() {
        let root = Path::new("/k");
        let with = |place: Place, registry: Place| {
            kubelet(root, &[("/k".into(), place), ("/k/plugins_registry".into(), registry)])
        };
        assert_eq!(with(Place::Good, Place::Good).verdict, Verdict::Ok);
        let in_a_pod = with(Place::Bad("read-only".into()), Place::Good);
        assert_eq!(in_a_pod.verdict, Verdict::Ok);
        assert!(
            with(Place::Missing, Place::Missing).fix.unwrap().contains("--kubelet-root to the kubelet's --root-dir")
        );
        assert!(with(Place::Good, Place::Missing).fix.unwrap().contains("start the kubelet"));
        let check = with(Place::Good, Place::Bad("read-only".into()));
        assert_eq!(
            (check.verdict, check.found.as_str()),
            (Verdict::Failed, "/k/plugins_registry can't be written: read-only")
        );
    }

    #[test]
    fn a_spec_that_crashes_containerd_is_found_before_all_else() {
        for (kind, fatal) in [("example.com/t", true), ("e/test", true), ("a.b/gpu", false), ("nonsense", false)] {
            assert_eq!(is_fatal(kind), fatal, "{kind}");
        }
        let check = cdi(Path::new("/cdi"), &Place::Good, &["/cdi/x.json".into()]);
        assert!(check.verdict == Verdict::Failed && check.fix.unwrap().starts_with("remove /cdi/x.json"));
        assert_eq!(cdi(Path::new("/cdi"), &Place::Missing, &[]).verdict, Verdict::Ok);
        assert_eq!(cdi(Path::new("/cdi"), &Place::Bad("no".into()), &[]).verdict, Verdict::Failed);
    }
}
