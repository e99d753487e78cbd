//! Stands in for Kata Containers as an OCI runtime: before a container is made it takes what a virtual machine would be
//! given, from where Kata takes it, writes down what it saw, and has a real runtime make the container.
//!
//! At a pod's sandbox it learns of devices by cold plug: from the pod's annotations `cdi.k8s.io/…`, and from the
//! kubelet's pod-resources socket. At each container it takes the VFIO nodes of the container's configuration. A device
//! that it can't have ends the pod's start, as a virtual machine without its device would.
mod config;
mod seen;
mod told;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use config::Settings;
use seen::{Container, Seen};

/// Why no virtual machine can be started.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A file or program.
    #[error("can't {what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A file isn't what it should be.
    #[error("{} can't be understood: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// The kubelet.
    #[error("the kubelet doesn't tell what pod {pod} has: {why}")]
    Kubelet { pod: String, why: String },
    /// A name that no CDI spec has.
    #[error("no CDI spec has device {0}")]
    Unknown(String),
    /// What a virtual machine can't have.
    #[error("device {device} has the node {}, which is no character device of VFIO", node.display())]
    Node { device: String, node: PathBuf },
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let error = match run(&arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("vm-runtime: {error}");
    ExitCode::FAILURE
}

fn run(arguments: &[OsString]) -> Result<std::convert::Infallible, Error> {
    let exe = std::env::current_exe().map_err(Error::io("find this program"))?;
    let settings = Settings::beside(&exe)?;
    if let Some(bundle) = bundle(arguments) {
        let container = Container::read(bundle)?;
        let seen = look(&container, &settings)?;
        seen.write(&settings.reports, &container)?;
    }
    // Only returns if it can't be started.
    let source = Command::new(&settings.runtime).args(arguments).exec();
    Err(Error::io(format!("start {}", settings.runtime.display()))(source))
}

/// Where the container that is to be made is described; none where nothing is made.
fn bundle(arguments: &[OsString]) -> Option<&Path> {
    let create = arguments.iter().position(|argument| argument == "create")?;
    let mut after = arguments.iter().skip(create);
    after.find(|argument| *argument == "--bundle" || *argument == "-b")?;
    after.next().map(Path::new)
}

fn look(container: &Container, settings: &Settings) -> Result<Seen, Error> {
    if !container.is_sandbox() {
        return Ok(Seen { nodes: container.nodes(), ..Seen::default() });
    }
    let (annotated, told) = (container.annotated(), told::by_kubelet(settings, container)?);
    let mut nodes = Vec::new();
    for device in annotated.iter().chain(&told) {
        nodes.extend(told::nodes(settings, device)?);
    }
    nodes.sort();
    nodes.dedup();
    Ok(Seen { annotated, told, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_made_is_looked_at() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let create = words("--root /run/x --log /l create --bundle /b --pid-file /p c1");
        assert_eq!(bundle(&create), Some(Path::new("/b")));
        assert_eq!(bundle(&words("--root /run/x start c1")), None);
    }
}
