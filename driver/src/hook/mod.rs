//! The container hook on the host: where the runtime finds it, and what it shows containers of the kernel module.
mod install;
mod log;
mod params;
mod place;
pub(crate) mod refusals;

use std::{
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use owned_dir::{Access, Dir};

use crate::{
    fault::{self, Point},
    roots::Roots,
};

/// Its name, beside the driver and in the plugin's directory.
pub(crate) const NAME: &str = "aliquot-hook";
/// What the hook writes of containers that it refuses, in the same directory.
const LOG: &str = "hook.log";
/// The kernel module's parameters as containers see them, in the same directory.
const PARAMS: &str = "params";

/// Why containers start without a hook.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lacking {
    /// Wanted so.
    #[error("--hook is empty")]
    Off,
    /// It can't be installed.
    #[error(transparent)]
    Install(#[from] install::Error),
    /// The plugin's directory.
    #[error("the hook's directory can't be used")]
    Dir(#[from] owned_dir::Error),
    /// The directory for containers in user namespaces.
    #[error(transparent)]
    Place(#[from] place::Unfit),
    /// The kubelet's root isn't there.
    #[error("the directory {} can't be made", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An installed hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Where the runtime finds it.
    pub path: PathBuf,
    /// The parameters that containers are shown; none where the module has none.
    pub params: Option<PathBuf>,
    /// Where it writes why a container wasn't started.
    pub log: PathBuf,
}

impl Hook {
    /// The one in the plugin's directory, which runtimes start on the host's behalf.
    pub(crate) fn of_plugin(roots: &Roots) -> Self {
        Self { path: roots.plugin.join(NAME), params: None, log: log_path(roots) }
    }
}

/// Where the hook writes why a container wasn't started.
pub(crate) fn log_path(roots: &Roots) -> PathBuf {
    roots.plugin.join(LOG)
}

/// Puts the hook in its places, and beside it the parameters that containers are shown; one that stays away is told of.
///
/// `from` is the shipped one. `open_to_all` is a directory for containers in user namespaces as well.
pub(crate) fn begin(roots: &Roots, from: Option<&Path>, open_to_all: &Path) -> Option<Hook> {
    let begun = source(from).and_then(|from| {
        let params = params::masked(&roots.proc);
        let put = |dir: &Dir| -> Result<Hook, Lacking> {
            install::install(&from, dir)?;
            if let Some(params) = &params {
                dir.write(PARAMS, params.as_bytes(), Access::Public)?;
            }
            let params = params.as_ref().map(|_| dir.path().join(PARAMS));
            Ok(Hook { path: dir.path().join(NAME), params, log: log_path(roots) })
        };
        let of_plugin = put(&directory(roots)?)?;
        let open = place::open(open_to_all, in_pod()).map_err(Lacking::from).and_then(|dir| put(&dir));
        Ok(open.unwrap_or_else(|unfit| {
            tracing::warn!(reason = %crate::report(&unfit), hook = %of_plugin.path.display(), "containers of pods with user \
                namespaces (hostUsers: false) can't start the hook, and so not with a GPU; see --hook-root");
            of_plugin
        }))
    });
    match begun {
        Ok(hook) => Some(hook),
        Err(lacking) => {
            tracing::info!(reason = %crate::report(&lacking), "containers start without a hook: libraries are mounted by \
                their names into the loader's directories, and nothing else is set up");
            None
        }
    }
}

/// Where containers in user namespaces would find a hook that is installed now; nothing is made.
pub(crate) fn look_open_to_all(open_to_all: &Path) -> Result<PathBuf, Lacking> {
    Ok(place::look(open_to_all, in_pod())?)
}

/// By what the kubelet gives to every container.
fn in_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Whether a driver that is started here would install one.
pub(crate) fn could_be_had() -> bool {
    source(None).is_ok_and(|hook| hook.is_file())
}

/// The hook that a driver with this `--hook` would install, if it is one that runs on any host.
pub(crate) fn shipped(from: Option<&Path>) -> Result<PathBuf, Lacking> {
    let from = source(from)?;
    install::fit(&from)?;
    Ok(from)
}

/// The hook that would be installed; an empty path is none.
fn source(from: Option<&Path>) -> Result<PathBuf, Lacking> {
    match from {
        Some(from) if from.as_os_str().is_empty() => Err(Lacking::Off),
        Some(from) => Ok(from.to_owned()),
        None => Ok(install::beside_this_program()?),
    }
}

/// The plugin's directory: only ours to write.
pub(crate) fn directory(roots: &Roots) -> Result<Dir, Lacking> {
    let missing = |source| Lacking::Missing { path: roots.plugin.clone(), source };
    if !roots.kubelet.is_dir() {
        return Err(missing(io::ErrorKind::NotFound.into()));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(&roots.plugin).map_err(missing)?;
    let dir = Dir::open(&roots.plugin)?.watched(fault::plugin);
    fault::point(Point::PluginDirMade);
    Ok(dir)
}
