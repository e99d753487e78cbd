//! Check `container-runtime`: it takes CDI devices, from the directory into which the driver writes.
//!
//! What is on comes from the configuration and, where that says nothing, from the release, which the kubelet tells in the
//! Node's status.
mod containerd;
mod crio;

use std::path::{Path, PathBuf};

use super::check::Check;

pub(super) use containerd::imports;

const NAME: &str = "container-runtime";
/// Where runtimes look for specs unless they are told otherwise.
const DEFAULT_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// A configuration file, or why it can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: Result<String, String>,
}

/// What is seen of the runtimes' configuration, in the order in which they read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sources {
    /// The main file and what it imports.
    pub(super) containerd: Vec<Source>,
    /// Its drop-in directory, which is read from release 2.2 on.
    pub(super) containerd_drop_ins: Vec<Source>,
    /// The main file and its drop-in directory.
    pub(super) crio: Vec<Source>,
}

/// A runtime's major and minor release.
pub(super) type Release = (u32, u32);

/// `told` is the Node's `containerRuntimeVersion`, such as `containerd://2.1.9`.
pub(super) fn judge(told: Option<&str>, sources: &Sources, cdi_root: &Path) -> Check {
    let (kind, version) = told.and_then(|told| told.split_once("://")).unwrap_or_default();
    match kind {
        "containerd" => containerd::judge(super::server::release(version), version, sources, cdi_root),
        "cri-o" => crio::judge(version, &sources.crio, cdi_root),
        "" => match (sources.containerd.is_empty(), sources.crio.is_empty()) {
            (false, true) => containerd::judge(None, "", sources, cdi_root),
            (true, false) => crio::judge("", &sources.crio, cdi_root),
            (true, true) => {
                Check::skipped(NAME, "the API server doesn't tell which it is, and no configuration is seen")
            }
            (false, false) => Check::skipped(NAME, "the API server doesn't tell which it is, and two are configured"),
        },
        other => Check::skipped(NAME, format!("{other} {version} isn't known here: see that it has CDI on")),
    }
}

/// A runtime and its release, in words.
fn named(runtime: &str, version: &str) -> String {
    if version.is_empty() { runtime.to_owned() } else { format!("{runtime} {version}") }
}

/// Whether specs in `cdi_root` are read; `/var/run` is a link to `/run`.
fn reads(dirs: &[String], cdi_root: &Path) -> bool {
    let plain = |path: &Path| {
        let path = path.components().collect::<PathBuf>();
        path.strip_prefix("/var/run").map(|rest| Path::new("/run").join(rest)).unwrap_or(path)
    };
    dirs.iter().any(|dir| plain(Path::new(dir)) == plain(cdi_root))
}

fn defaults() -> Vec<String> {
    DEFAULT_DIRS.map(ToOwned::to_owned).to_vec()
}

/// The first file that can't be used: what it says isn't known, and so neither is what is on.
fn unusable<T>(parsed: &[(&Path, Result<T, String>)]) -> Option<Check> {
    parsed.iter().find_map(|(path, result)| {
        let reason = result.as_ref().err()?;
        Some(Check::skipped(NAME, format!("{} can't be read: {reason}", path.display())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    pub(super) fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: Ok(text.into()) }
    }

    pub(super) fn root() -> &'static Path {
        Path::new("/var/run/cdi")
    }

    #[test]
    fn run_and_var_run_are_the_same() {
        for (dir, same) in [("/var/run/cdi", true), ("/run/cdi/", true), ("/run/cdi/x", false), ("/etc/cdi", false)] {
            assert_eq!(reads(&[dir.to_owned()], root()), same, "{dir}");
        }
    }

    #[test]
    fn without_the_api_server_the_configuration_says_which_runtime_it_is() {
        let containerd = vec![source("/etc/containerd/config.toml", "version = 3\n")];
        let crio = vec![source("/etc/crio/crio.conf", "")];
        let verdict = |sources: Sources| judge(None, &sources, root()).verdict;
        assert_eq!(verdict(Sources::default()), Verdict::Skipped);
        assert_eq!(verdict(Sources { containerd: containerd.clone(), ..Sources::default() }), Verdict::Ok);
        assert_eq!(verdict(Sources { crio: crio.clone(), ..Sources::default() }), Verdict::Ok);
        assert_eq!(verdict(Sources { containerd, crio, ..Sources::default() }), Verdict::Skipped);
    }

    #[test]
    fn an_unknown_runtime_is_not_judged() {
        let check = judge(Some("docker://28.0.0"), &Sources::default(), root());
        assert!(check.verdict == Verdict::Skipped && check.found.contains("docker 28.0.0"));
    }
}
