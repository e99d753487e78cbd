//! The C library that the driver is shipped with, out of Debian's stable release.
//!
//! It is not the build machine's, so that the image depends on the release alone; a program that was linked against a newer
//! one doesn't start, which is tried while the image is built.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    debian::{Source, Unavailable, download, entries, has_extension, once, output, run, within},
    digest::sha256,
};

/// What the driver and NVML are linked with; libgcc unwinds.
const PACKAGES: [&str; 2] = ["libc6", "libgcc-s1"];
/// Debian 13, by its name.
pub(crate) const RELEASE: &str = "trixie";

/// Debian's packages, unpacked; they stay as long as the build's directory does.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    dir: PathBuf,
}

/// One of the packages.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// What dpkg has of it.
    pub(crate) control: String,
    /// Its licence.
    pub(crate) copyright: Vec<u8>,
}

impl Base {
    /// Downloads and unpacks them below `target_dir`, once. Takes seconds and a network.
    pub(crate) fn fetch(target_dir: &Path) -> Result<Self, Unavailable> {
        let parts = [&[RELEASE], &PACKAGES[..]].concat().join(" ");
        let name = |_: &Path| format!("base-{}", &sha256(parts.as_bytes())[..12]);
        let dir = once(target_dir, name, |scratch, _| {
            let archives = download(scratch, Source::Stable(RELEASE), &PACKAGES)?;
            let fresh = scratch.join("base");
            let control = fresh.join("control");
            fs::create_dir_all(&control).map_err(within(&control))?;
            for archive in entries(&archives)?.iter().filter(|path| has_extension(path, "deb")) {
                run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(fresh.join("root")))?;
                let text = output(Command::new("dpkg-deb").arg("-f").arg(archive))?;
                let file = control.join(field(&text, "Package"));
                fs::write(&file, text).map_err(within(&file))?;
            }
            Ok(fresh)
        })?;
        Ok(Self { dir })
    }

    /// What is unpacked in a directory already.
    #[cfg(test)]
    pub(super) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory of the libraries and the loader.
    pub(crate) fn lib(&self) -> PathBuf {
        self.dir.join(format!("root/usr/lib/{}-linux-gnu", std::env::consts::ARCH))
    }

    /// The packages, by name.
    pub(crate) fn packages(&self) -> Result<Vec<Package>, Unavailable> {
        let mut files = entries(&self.dir.join("control"))?;
        files.sort();
        let package = |file: &PathBuf| {
            let control = fs::read_to_string(file).map_err(within(file))?;
            let (name, version) = (field(&control, "Package"), field(&control, "Version"));
            // Some packages' documentation is another's of the same source.
            let copyright = self.dir.join("root/usr/share/doc").join(&name).join("copyright");
            let copyright = fs::read(&copyright).map_err(within(&copyright))?;
            Ok(Package { name, version, control, copyright })
        };
        files.iter().map(package).collect()
    }
}

/// A field of a control file (deb-control(5)); empty if it has none.
fn field(control: &str, name: &str) -> String {
    let of = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    control.lines().find_map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let control = "Package: libc6\nSource: glibc\nVersion: 2.41-12\nDepends: libgcc-s1\n";
        assert_eq!((field(control, "Package"), field(control, "Version")), ("libc6".to_owned(), "2.41-12".to_owned()));
        assert_eq!(field(control, "Pack"), "");
    }
}
