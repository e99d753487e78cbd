//! Checks `driver-root` and `kernel-module`: the driver's files are all there, and of the version that the kernel runs.
use std::path::{Path, PathBuf};

use super::check::{Check, some};
use crate::discovery::installation::Installation;

const ROOT: &str = "driver-root";
const MODULE: &str = "kernel-module";

/// What nothing that uses a GPU does without.
const NEEDED: [&str; 2] = ["libnvidia-ml.so.1", "libcuda.so.1"];

/// What was found of a driver's installation.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) root: PathBuf,
    /// NVML's version of the driver, or that of its library's file.
    pub(super) version: Option<String>,
    /// Of that version; empty where it isn't known.
    pub(super) installation: Installation,
    /// `/proc/driver/nvidia/version`.
    pub(super) module: Option<String>,
}

/// The version in the name of the file behind `libnvidia-ml.so.1`.
pub(super) fn version_of_file(real: &Path) -> Option<String> {
    let version = real.file_name()?.to_str()?.strip_prefix("libnvidia-ml.so.")?;
    is_version(version).then(|| version.to_owned())
}

pub(super) fn root(files: &Files) -> Check {
    let (root, found) = (files.root.display(), &files.installation);
    let Some(version) = &files.version else {
        return Check::skipped(ROOT, format!("the driver's version below {root} isn't known"));
    };
    let missing: Vec<String> =
        NEEDED.iter().filter(|name| found.library(name).is_none()).map(|name| (*name).to_owned()).collect();
    if !missing.is_empty() {
        return Check::failed(
            ROOT,
            format!("{} of driver {version} below {root}, without {}", libraries(found), missing.join(" and ")),
            format!(
                "install the user-space driver {version} in full (Debian: libcuda1; RHEL: nvidia-driver-cuda-libs), or set \
                 --driver-root to where it is"
            ),
        );
    }
    if found.program("nvidia-smi").is_none() {
        return Check::warning(
            ROOT,
            format!("{} of driver {version} below {root}, but no nvidia-smi", libraries(found)),
            "install nvidia-smi (Debian: nvidia-smi; RHEL: nvidia-driver-cuda): containers lack it otherwise, and time \
             slices can't be set",
        );
    }
    let programs: Vec<String> = found
        .binaries
        .iter()
        .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    Check::ok(ROOT, format!("{} of driver {version} below {root}, with {}", libraries(found), some(&programs)))
}

fn libraries(found: &Installation) -> String {
    match found.libraries.len() {
        1 => "1 library".to_owned(),
        count => format!("{count} libraries"),
    }
}

pub(super) fn module(files: &Files, nvml_answers: bool) -> Check {
    let Some(text) = &files.module else {
        return if nvml_answers {
            Check::skipped(MODULE, "procfs has no driver/nvidia/version, though NVML answers")
        } else {
            Check::failed(
                MODULE,
                "the nvidia kernel module isn't loaded: procfs has no driver/nvidia/version",
                "modprobe nvidia; if that fails, dmesg says why (a module for another kernel, Secure Boot, nouveau)",
            )
        };
    };
    let Some(loaded) = version_of_module(text) else {
        return Check::skipped(MODULE, "the version in procfs driver/nvidia/version can't be read");
    };
    match &files.version {
        Some(version) if version != loaded => Check::failed(
            MODULE,
            format!("the kernel module is {loaded}, the libraries are {version}"),
            "reboot, or unload all nvidia modules and load them again: the driver was updated while they were in use",
        ),
        Some(_) => Check::ok(MODULE, format!("{loaded}, as the libraries")),
        None => Check::ok(MODULE, format!("{loaded} is loaded")),
    }
}

/// The version in `/proc/driver/nvidia/version`, whose first line names the module in several ways.
fn version_of_module(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    line.split_whitespace().find(|word| is_version(word))
}

fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    (2..=3).contains(&parts.len())
        && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::installation::Library, doctor::check::Verdict};

    const CLOSED: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:17:31 UTC 2025\n\
                          GCC version:  gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)\n";
    const OPEN: &str = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.172.08  Release Build  (dvs@x)\n";

    fn files(libraries: &[&str], programs: &[&str], module: Option<&str>) -> Files {
        let library = |name: &&str| Library {
            file: format!("/usr/lib/{name}").into(),
            below: None,
            names: [(*name).to_owned()].into(),
        };
        Files {
            root: "/".into(),
            version: Some("580.65.06".into()),
            installation: Installation {
                libraries: libraries.iter().map(library).collect(),
                binaries: programs.iter().map(|name| Path::new("/usr/bin").join(name)).collect(),
                ..Installation::default()
            },
            module: module.map(Into::into),
        }
    }

    #[test]
    fn the_version_is_found_in_what_each_kind_of_module_says() {
        assert_eq!(version_of_module(CLOSED), Some("580.65.06"));
        assert_eq!(version_of_module(OPEN), Some("570.172.08"));
        assert_eq!(version_of_module("NVRM version: none\nGCC version: 12.2.0\n"), None);
        assert_eq!(version_of_file(Path::new("/x/libnvidia-ml.so.550.40")), Some("550.40".into()));
        assert_eq!(version_of_file(Path::new("/x/libnvidia-ml.so.1")), None);
    }

    #[test]
    fn an_installation_without_cuda_fails_and_one_without_nvidia_smi_warns() {
        let check = root(&files(&["libnvidia-ml.so.1"], &["nvidia-smi"], None));
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.found.ends_with("without libcuda.so.1"), "{}", check.found);
        assert_eq!(root(&files(&NEEDED, &[], None)).verdict, Verdict::Warning);
        let check = root(&files(&NEEDED, &["nvidia-smi"], None));
        assert_eq!(check, Check::ok(ROOT, "2 libraries of driver 580.65.06 below /, with nvidia-smi"));
        let unknown = Files { version: None, ..files(&[], &[], None) };
        assert_eq!(root(&unknown).verdict, Verdict::Skipped);
    }

    #[test]
    fn a_module_of_another_version_needs_a_reboot() {
        let check = module(&files(&NEEDED, &[], Some(OPEN)), false);
        assert_eq!(check.verdict, Verdict::Failed);
        assert!(check.found.contains("570.172.08") && check.fix.unwrap().contains("reboot"));
        assert_eq!(module(&files(&NEEDED, &[], Some(CLOSED)), true).verdict, Verdict::Ok);
    }

    #[test]
    fn a_module_that_is_not_loaded_is_told_unless_nvml_answers() {
        let files = files(&NEEDED, &[], None);
        assert!(module(&files, false).fix.unwrap().contains("modprobe nvidia"));
        assert_eq!(module(&files, true).verdict, Verdict::Skipped);
    }
}
