//! What a suite cannot do on this machine: said by name and reason, or a failure where nothing may be skipped.
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::{
    debian::{Packages, Toolbox},
    prometheus::Program,
};

/// Set where nothing may be skipped.
pub(crate) const NO_SKIP: &str = "ALIQUOT_NO_SKIP";
/// A file to which reasons are appended, as the output of a test that passes isn't shown.
pub(crate) const REASONS: &str = "ALIQUOT_SKIPPED";

/// The packages that suites with real containers need; `None` where this machine cannot have or run them, after saying so.
///
/// # Panics
///
/// Where nothing may be skipped.
pub fn toolbox() -> Option<&'static Toolbox> {
    static TOOLBOX: LazyLock<Result<Toolbox, String>> = LazyLock::new(|| {
        if !rustix::process::geteuid().is_root() {
            return Err("containerd needs root".to_owned());
        }
        Packages::fetch(&target()?).map_err(|error| error.to_string())
    });
    match &*TOOLBOX {
        Ok(toolbox) => Some(toolbox),
        Err(why) => {
            skip(why);
            None
        }
    }
}

/// Prometheus, unpacked from its Debian package; `None` where this machine cannot have it, after saying so.
///
/// # Panics
///
/// Where nothing may be skipped.
pub fn prometheus() -> Option<&'static Program> {
    static PROGRAM: LazyLock<Result<Program, String>> =
        LazyLock::new(|| Program::fetch(&target()?).map_err(|error| error.to_string()));
    PROGRAM.as_ref().map_err(|why| skip(why)).ok()
}

/// The build directory: above `debug/deps`.
fn target() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    let target = target.or_else(|| exe.parent().and_then(Path::parent)).ok_or("there is no build directory")?;
    Ok(target.to_owned())
}

/// Says that a test cannot run on this machine, and why.
///
/// # Panics
///
/// Where nothing may be skipped.
#[allow(clippy::panic, reason = "a suite that may not be skipped fails")]
pub fn skip(why: &str) {
    assert!(std::env::var_os(NO_SKIP).is_none(), "this suite may not be skipped, but it cannot run: {why}");
    tell(why);
}

/// Where the kubeconfig of a real cluster is named, in which tests may make and delete objects.
const CLUSTER: &str = "ALIQUOT_TEST_KUBECONFIG";

/// The kubeconfig of a real cluster; `None` where no such cluster was named, after saying so.
///
/// `KUBECONFIG` would be that of whoever runs the tests. Nowhere is a cluster there by itself, so this is no failure even
/// where nothing may be skipped.
pub fn cluster() -> Option<PathBuf> {
    let path = std::env::var_os(CLUSTER).map(PathBuf::from);
    if path.is_none() {
        tell(&format!("{CLUSTER} names no cluster"));
    }
    path
}

/// kubectl, which has kustomize; `None` where there is none, after saying so.
///
/// A bare machine has none, and what it is asked here is asked otherwise too, so this is no failure even where nothing may be
/// skipped.
pub fn kubectl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|path| path.is_file());
    if found.is_none() {
        tell("there is no kubectl");
    }
    found
}

/// The file of a PCI function by which root has the kernel tell of it, harmlessly (`Documentation/ABI/testing/sysfs-uevent`);
/// `None` where there is none, after saying so.
///
/// Many a machine has none or a sysfs that can't be written, so this is no failure even where nothing may be skipped.
pub fn pci_function() -> Option<PathBuf> {
    let all = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let found =
        all.map(|entry| entry.path().join("uevent")).find(|file| File::options().write(true).open(file).is_ok());
    if found.is_none() {
        tell("there is no PCI function of which the kernel could be made to tell");
    }
    found
}

fn tell(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED {test}: {why}");
    if let Some(path) = std::env::var_os(REASONS)
        && let Ok(mut file) = File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(file, "{test}: {why}");
    }
}
