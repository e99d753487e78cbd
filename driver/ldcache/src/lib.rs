//! Merges libraries into the cache of glibc's loader (`/etc/ld.so.cache`), without I/O and without running anything.
//!
//! ```text
//! an image's cache ──read──> entries ──merge, sort──> entries ──write──> a cache that the loader searches
//! ```
//! The bytes come from an image and are hostile until they were read: every offset is checked, what is read is bounded, and
//! a cache that can't be read whole is refused rather than half kept. The format is that of glibc's `sysdeps/generic/
//! dl-cache.h`, "glibc-ld.so.cache1.1", which every glibc since 2.3 reads; the older block that may precede it is read
//! over and not written.
#![forbid(unsafe_code)]

mod order;
mod read;
mod write;

use std::collections::HashSet;

use read::Cache;
pub use read::Error;

/// More is none that a distribution's libraries come to.
pub const LARGEST: usize = 4 << 20;

/// For which processor a library is built, as `ldconfig` writes it: a 64-bit ELF of glibc 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// `FLAG_X8664_LIB64 | FLAG_ELF_LIBC6`
    X86_64,
    /// `FLAG_AARCH64_LIB64 | FLAG_ELF_LIBC6`
    Aarch64,
}

impl Machine {
    /// The one that this program is built for.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    fn flags(self) -> i32 {
        match self {
            Self::X86_64 => 0x0303,
            Self::Aarch64 => 0x0a03,
        }
    }
}

/// A library that is to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Library {
    /// Its SONAME, by which programs ask for it.
    pub name: String,
    /// Where it is in the container.
    pub path: String,
}

/// The cache with these libraries in it, in place of any of the same names for the same machine; without a cache, one that
/// holds nothing else.
pub fn merge(cache: Option<&[u8]>, libraries: &[Library], machine: Machine) -> Result<Vec<u8>, Error> {
    let mut merged = cache.map_or_else(|| Ok(Cache::default()), Cache::read)?;
    let names: HashSet<&[u8]> = libraries.iter().map(|library| library.name.as_bytes()).collect();
    let flags = machine.flags();
    merged.entries.retain(|entry| entry.flags != flags || !names.contains(entry.name));
    merged.entries.extend(libraries.iter().map(|library| read::Entry {
        flags,
        name: library.name.as_bytes(),
        path: library.path.as_bytes(),
        os_version: 0,
        hwcap: 0,
    }));
    // Stable: what `ldconfig` decided about equal ones stays.
    merged.entries.sort_by(|a, b| order::compare(b.name, a.name, machine).then(b.flags.cmp(&a.flags)));
    Ok(write::write(&merged))
}

/// The path that the loader finds for a name.
pub fn find(cache: &[u8], name: &str, machine: Machine) -> Result<Option<String>, Error> {
    let cache = Cache::read(cache)?;
    let is_it = |entry: &&read::Entry<'_>| entry.flags == machine.flags() && entry.name == name.as_bytes();
    let found = cache.entries.iter().find(is_it);
    Ok(found.map(|entry| String::from_utf8_lossy(entry.path).into_owned()))
}

#[cfg(test)]
mod tests;
