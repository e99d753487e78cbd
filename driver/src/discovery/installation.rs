//! The NVIDIA driver's files below its root: what containers need to use a GPU from user space.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _};

/// Larger libraries exist (libcuda is some 100 MB); only their headers and string tables are looked at.
const LARGEST_LIBRARY: u64 = 1 << 30;

/// Directories below the root where distributions put the driver's libraries.
const LIBRARY_DIRS: [&str; 10] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64",
    "usr/lib",
    "usr/local/glibc/usr/lib",
    "usr/local/nvidia/lib64",
    "lib64",
    "run/opengl-driver/lib",
];

/// Directories below the root where the driver's programs are.
const BINARY_DIRS: [&str; 6] = ["usr/bin", "usr/sbin", "bin", "usr/local/bin", "usr/local/nvidia/bin", "opt/bin"];

/// The driver's programs that are of use in a container.
const BINARIES: [&str; 5] =
    ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];

/// What a driver's root holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installation {
    /// Sorted by path.
    pub libraries: Vec<Library>,
    /// Real files, sorted.
    pub binaries: Vec<PathBuf>,
}

impl Installation {
    /// One of the driver's programs.
    pub fn program(&self, name: &str) -> Option<&Path> {
        self.binaries.iter().find(|path| path.file_name().is_some_and(|file| file == name)).map(PathBuf::as_path)
    }

    /// The file that programs load under a name.
    pub fn library(&self, name: &str) -> Option<&Path> {
        self.libraries.iter().find(|library| library.names.contains(name)).map(|library| library.file.as_path())
    }
}

/// One shared library of the driver.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// The real file.
    pub file: PathBuf,
    /// The names under which programs load it: its SONAME and the plain `.so` that stands beside it.
    pub names: BTreeSet<String>,
}

/// Finds the files of one driver version below its root.
///
/// All libraries carry the version as their suffix (`libcuda.so.570.1`), so nothing of another driver or of the
/// distribution is taken. What can't be read is left out and logged: one odd file must not take the GPUs away.
pub fn find(root: &Path, driver_version: &str) -> Installation {
    let mut seen = BTreeSet::new();
    let mut libraries: Vec<Library> = Vec::new();
    for dir in LIBRARY_DIRS {
        for library in libraries_in(&root.join(dir), driver_version) {
            if seen.insert(library.file.file_name().map(ToOwned::to_owned)) {
                libraries.push(library);
            }
        }
    }
    libraries.sort();
    let mut binaries: Vec<PathBuf> = BINARIES.iter().filter_map(|name| binary(root, name)).collect();
    binaries.sort();
    Installation { libraries, binaries }
}

fn libraries_in(dir: &Path, driver_version: &str) -> Vec<Library> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let names: BTreeSet<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let suffix = format!(".so.{driver_version}");
    names
        .iter()
        .filter_map(|name| {
            let stem = name.strip_suffix(&suffix)?;
            let file = dir.join(name);
            let soname = soname(&file)?;
            let plain = format!("{stem}.so");
            let mut loaded_as = BTreeSet::from([soname]);
            // Many programs open libcuda.so by that name, which distributions ship only in a -dev package.
            if names.contains(&plain) || stem == "libcuda" {
                loaded_as.insert(plain);
            }
            Some(Library { file, names: loaded_as })
        })
        .collect()
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
    // It becomes a path in containers.
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    plain.then(|| name.to_owned())
}

fn binary(root: &Path, name: &str) -> Option<PathBuf> {
    BINARY_DIRS.iter().map(|dir| root.join(dir).join(name)).find(|path| path.is_file())
}
