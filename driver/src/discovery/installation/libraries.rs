//! The driver's shared libraries below its root, with the names by which programs load them.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _};

use super::root;

/// Larger libraries exist (libcuda is some 100 MB); only their headers and string tables are looked at.
const LARGEST_LIBRARY: u64 = 1 << 30;

/// Directories below the root where distributions put the driver's libraries: Debian, Red Hat, Arch, Talos, GKE and NixOS
/// among them.
const DIRS: [&str; 14] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
    "usr/local/glibc/usr/lib",
    "usr/local/glibc/lib",
    "usr/local/glibc/lib64",
    "usr/local/nvidia/lib64",
    "home/kubernetes/bin/nvidia/lib64",
    "lib64",
    "lib",
    "run/opengl-driver/lib",
];

/// Below these: modules that others load by a path of their own.
const BELOW: [&str; 1] = ["vdpau"];

/// Libraries that come with the driver and have versions of their own, by the name that is in their place.
const OTHERS: [&str; 6] = [
    "libnvidia-nvvm70.so.4",
    "libnvidia-egl-gbm.so.1",
    "libnvidia-egl-wayland.so.1",
    "libnvidia-egl-wayland2.so.1",
    "libnvidia-egl-xcb.so.1",
    "libnvidia-egl-xlib.so.1",
];

/// Opened by their plain names, which distributions ship only in a -dev package.
const PLAIN: [&str; 2] = ["libcuda", "libnvidia-opticalflow"];

/// One shared library of the driver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// The real file.
    pub file: PathBuf,
    /// The directory below that of libraries in which it belongs; none for all but modules.
    pub below: Option<&'static str>,
    /// The names under which programs load it: its SONAME and the plain `.so` that stands beside it.
    pub names: BTreeSet<String>,
}

/// The libraries of one version, sorted by path.
///
/// They carry the version as their suffix (`libcuda.so.570.1`), so nothing of another driver or of the distribution is
/// taken. What can't be read is left out and logged: one odd file must not take the GPUs away.
pub(super) fn find(root: &Path, driver_version: &str) -> Vec<Library> {
    let (mut dirs, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut libraries: Vec<Library> = Vec::new();
    let known = DIRS.iter().filter_map(|dir| root::real(root, Path::new(dir)));
    for dir in known.chain(by_loader(root)) {
        // Distributions link these directories to each other.
        if !dirs.insert(dir.clone()) {
            continue;
        }
        let mut found = of_version(root, &dir, None, driver_version);
        if found.is_empty() {
            continue;
        }
        for below in BELOW {
            found.extend(of_version(root, &dir.join(below), Some(below), driver_version));
        }
        found.extend(OTHERS.iter().filter_map(|name| library(root, &dir.join(name), None, &BTreeSet::new())));
        libraries
            .extend(found.into_iter().filter(|library| seen.insert(library.file.file_name().map(ToOwned::to_owned))));
    }
    libraries.sort();
    libraries
}

/// Where the root's own loader finds CUDA, if that is an unusual place.
fn by_loader(root: &Path) -> Option<PathBuf> {
    let cache = root::real(root, Path::new("etc/ld.so.cache"))?;
    let bytes = fs::metadata(&cache)
        .ok()
        .filter(|meta| meta.len() <= ld_cache::LARGEST as u64)
        .and_then(|_| fs::read(&cache).ok())?;
    let path = ld_cache::find(&bytes, "libcuda.so.1", ld_cache::Machine::HERE).ok().flatten()?;
    let dir = Path::new(path.trim_start_matches('/')).parent()?;
    root::real(root, dir)
}

fn of_version(root: &Path, dir: &Path, below: Option<&'static str>, driver_version: &str) -> Vec<Library> {
    let names = root::names(dir);
    let suffix = format!(".so.{driver_version}");
    let ours = names.iter().filter(|name| name.ends_with(&suffix));
    ours.filter_map(|name| library(root, &dir.join(name), below, &names)).collect()
}

/// The library at a path, if it is one that can be handed out; `beside` are the names in its directory.
fn library(root: &Path, path: &Path, below: Option<&'static str>, beside: &BTreeSet<String>) -> Option<Library> {
    let file = root::real(root, path.strip_prefix(root).ok()?)?;
    let soname = soname(&file)?;
    let stem = path.file_name()?.to_str()?.split_once(".so")?.0;
    let plain = format!("{stem}.so");
    let mut names = BTreeSet::from([soname]);
    if beside.contains(&plain) || PLAIN.contains(&stem) {
        names.insert(plain);
    }
    Some(Library { file, below, names })
}

/// The SONAME in a 64-bit ELF library's dynamic section.
///
/// 32-bit libraries stand in directories of their own and are not handed out.
fn soname(file: &Path) -> Option<String> {
    let open = fs::File::open(file).ok()?;
    let meta = open.metadata().ok()?;
    if !meta.is_file() || meta.len() > LARGEST_LIBRARY {
        return None;
    }
    let data = object::ReadCache::new(open);
    let elf = ElfFile64::<object::Endianness, _>::parse(&data)
        .inspect_err(|error| tracing::warn!(file = %file.display(), %error, "left out: no ELF library"))
        .ok()?;
    let (endian, header) = (elf.endian(), elf.elf_header());
    let sections = header.sections(endian, &data).ok()?;
    let (dynamic, strings) = sections.dynamic(endian, &data).ok()??;
    let strings = sections.strings(endian, &data, strings).ok()?;
    let entry = dynamic.iter().find(|entry| entry.tag32(endian).map(i64::from) == Some(object::elf::DT_SONAME))?;
    let name = entry.string(endian, strings).ok()?;
    let name = std::str::from_utf8(name).ok()?;
    // It becomes a path in containers, and an argument of the hook.
    let plain = !name.is_empty() && !name.contains(['/', '=']) && name != "." && name != "..";
    plain.then(|| name.to_owned())
}
