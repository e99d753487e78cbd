//! `aliquot-driver uninstall`: takes away what the driver leaves on a node, once nobody needs it any more.
//!
//! Nothing is removed while a claim is prepared or a driver serves. The records go last, so that whatever fails on the way
//! can be done again.
mod clear;

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use aliquot_daemon::stop_on_signals;
use owned_dir::Dir;

use crate::{
    args::UninstallArgs,
    claim::{self, LookAt},
    instance,
    roots::Roots,
    streams,
};

/// How many claims an error names.
const NAMED: usize = 5;
/// Where the kubelet looks for plugins, below its root.
const REGISTRY: &str = "plugins_registry";

/// Why something stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Pods need it.
    #[error(
        "pods on this node have claims prepared ({count}): {named}. Delete them first, while the driver still runs; \"aliquot-driver status\" shows all of them"
    )]
    Claims {
        /// How many there are.
        count: usize,
        /// Some of them.
        named: String,
    },
    /// A driver does.
    #[error("a driver serves at {}: end it first (kubectl delete -k deploy/base)", socket.display())]
    Serves {
        /// Somebody listens there.
        socket: PathBuf,
    },
    /// Another driver.
    #[error(transparent)]
    Instance(#[from] instance::Error),
    /// The boot id can't be read.
    #[error("the boot id can't be read below {}: is --proc-root right?", proc.display())]
    BootId {
        /// procfs.
        proc: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No such name.
    #[error("--driver-name can't be a CDI vendor")]
    Kind(#[from] cdi_spec::InvalidName),
    /// A directory that isn't ours, or can't be read.
    #[error(transparent)]
    Dir(#[from] owned_dir::Error),
    /// It can't be removed.
    #[error("{} can't be removed", path.display())]
    Remove {
        /// A file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output takes nothing.
    #[error("standard output can't be written")]
    Stdout(#[source] io::Error),
    /// The system refuses the runtime or its signals.
    #[error("the runtime can't be started")]
    Runtime(#[source] io::Error),
}

/// Removes it all and says what, or says why not.
pub(crate) fn run(args: &UninstallArgs) -> Result<(), Error> {
    let roots = Roots::new(&args.places, &args.driver_name);
    let registry = roots.kubelet.join(REGISTRY);
    refuse_if_prepared(&roots, &args.driver_name)?;
    refuse_if_served(&roots, &registry, &args.driver_name)?;
    // Until the end, so that no driver without a pod begins meanwhile.
    let run = Dir::existing(&roots.run)?.filter(|_| !args.dry_run);
    let _sole = run.map(|_| instance::alone(&roots.run, None)).transpose()?;
    let owed = claim::look_at_owed(&roots.run.join(claim::OWED), &boot_id(&roots)?)?;

    let clear = clear::Clear { dry: args.dry_run };
    let driver = args.driver_name.as_str();
    let mut gone = clear.files(&registry, |name| is_registration(name, driver))?;
    gone.extend(clear.files(&roots.cdi, |name| is_spec(name, driver))?);
    gone.extend(clear.tree(&roots.plugin)?);
    gone.extend(clear.tree_and_parent(&args.hook_root.join(driver))?);
    gone.extend(clear.tree_and_parent(&roots.run)?);

    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut lines: Vec<String> = gone.iter().map(|path| format!("{verb} {}\n", path.display())).collect();
    if !args.dry_run {
        lines.push(format!("nothing of {driver} is left on this node\n"));
    }
    streams::print(&lines.concat()).map_err(Error::Stdout)?;
    for owed in owed {
        streams::tell(format_args!(
            "{} keeps the time slice of a claim that is gone ({}): nvidia-smi compute-policy -i {} --set-timeslice 0",
            owed.gpu, owed.reason, owed.gpu
        ));
    }
    if args.stay { stay() } else { Ok(()) }
}

fn boot_id(roots: &Roots) -> Result<String, Error> {
    roots.boot_id().map_err(|source| Error::BootId { proc: roots.proc.clone(), source })
}

/// Records that can't be read count: what they stand for isn't known.
fn refuse_if_prepared(roots: &Roots, driver: &str) -> Result<(), Error> {
    let (records, boot_id) = (roots.run.join(claim::RECORDS), boot_id(roots)?);
    let kind = cdi_spec::Kind::new(driver, "claim")?;
    let seen = claim::look(&LookAt { records: &records, boot_id: &boot_id, store: None, kind: &kind })?;
    if seen.is_empty() {
        return Ok(());
    }
    let name = |seen: &claim::Seen| seen.claim.as_ref().map_or_else(|| seen.uid.to_string(), ToString::to_string);
    let mut named: Vec<String> = seen.iter().take(NAMED).map(name).collect();
    if seen.len() > NAMED {
        named.push("…".to_owned());
    }
    Err(Error::Claims { count: seen.len(), named: named.join(", ") })
}

/// Whoever is killed leaves its sockets, and nobody listens on them.
fn refuse_if_served(roots: &Roots, registry: &Path, driver: &str) -> Result<(), Error> {
    let ours = clear::names(&roots.plugin)?.into_iter().map(|name| roots.plugin.join(name));
    let ours = ours.filter(|path| path.extension().is_some_and(|end| end == "sock"));
    let registered = clear::names(registry)?.into_iter().filter(|name| is_registration(name, driver));
    let registered = registered.map(|name| registry.join(name));
    match ours.chain(registered).find(|socket| UnixStream::connect(socket).is_ok()) {
        Some(socket) => Err(Error::Serves { socket }),
        None => Ok(()),
    }
}

/// As `dra_plugin` names them: with eight digits of a pod's UID, or without.
fn is_registration(name: &str, driver: &str) -> bool {
    let mark = name.strip_prefix(driver).and_then(|rest| rest.strip_suffix("@reg.sock"));
    mark.is_some_and(|mark| {
        mark.is_empty()
            || mark.strip_prefix('-').is_some_and(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

/// Claims' specs, the node's, and that of `--vfio-alias`, whatever its kind; also half-written.
fn is_spec(name: &str, driver: &str) -> bool {
    let name = owned_dir::unfinished(name).unwrap_or(name);
    let kind = name.strip_suffix(".json").and_then(|name| name.split_once('_'));
    kind.is_some_and(|(kind, id)| {
        id == crate::alias::FILE || ["claim", "driver"].iter().any(|class| kind == format!("{driver}-{class}"))
    })
}

/// For a DaemonSet, whose pods start again when they end.
fn stay() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        stop_on_signals().map_err(Error::Runtime)?.cancelled().await;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_drivers_files_are_taken_for_its_own() {
        let driver = "gpu.aliquot.dev";
        for name in [
            "gpu.aliquot.dev-claim_0f.json",
            "gpu.aliquot.dev-driver_node.json",
            ".gpu.aliquot.dev-claim_0f.json.tmp",
            "nvidia.com-pgpu_aliquot.json",
        ] {
            assert!(is_spec(name, driver), "{name}");
        }
        for name in [
            "gpu.aliquot.dev-other_0f.json",
            "gpu.aliquot.dev.example-claim_0f.json",
            "k8s.gpu.nvidia.com-claim_0f.yaml",
            "nvidia.json",
            "nvidia.com-gpu_aliquots.json",
        ] {
            assert!(!is_spec(name, driver), "{name}");
        }
        for name in ["gpu.aliquot.dev@reg.sock", "gpu.aliquot.dev-0123abcd@reg.sock"] {
            assert!(is_registration(name, driver), "{name}");
        }
        for name in ["gpu.aliquot.dev.example@reg.sock", "gpu.aliquot.dev-example@reg.sock", "gpu.aliquot.dev-reg.sock"]
        {
            assert!(!is_registration(name, driver), "{name}");
        }
    }
}
