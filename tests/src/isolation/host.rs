//! What of the host an image aims at: seen before and after, down to each file's content or time.
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::digest::sha256;

/// The host's own files by which a hook that was led astray would do harm.
const REAL: [&str; 5] =
    ["/etc/ld.so.cache", "/etc/ld.so.conf.d", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];

/// Directories that must stay as they are.
#[derive(Debug)]
pub(super) struct Host {
    canary: PathBuf,
    watched: Vec<PathBuf>,
}

/// A path's mode, size, time of change and content or target.
type Print = (u32, u64, (i64, i64), String);

impl Host {
    /// A tree that looks worth writing to, and watched with it the host's own and the driver's files.
    pub(super) fn lay_out(canary: &Path, driver: &Path) -> io::Result<Self> {
        for dir in ["etc/ld.so.conf.d", "lib", "compat", "dev/dri"] {
            fs::create_dir_all(canary.join(dir))?;
        }
        fs::write(canary.join("etc/ld.so.cache"), "the host's")?;
        fs::write(canary.join("compat/libcuda.so.999.1"), "the host's")?;
        let real = REAL.map(PathBuf::from).into_iter().filter(|path| path.exists());
        let watched = real.chain([canary.to_owned(), driver.to_owned()]).collect();
        Ok(Self { canary: canary.to_owned(), watched })
    }

    /// Where images point.
    pub(super) fn canary(&self) -> &Path {
        &self.canary
    }

    /// All of it as it is now.
    pub(super) fn print(&self) -> io::Result<BTreeMap<PathBuf, Print>> {
        let mut prints = BTreeMap::new();
        for path in &self.watched {
            // What isn't made for this has files that are too large to be read each time; their times tell.
            add(path, path.starts_with(&self.canary) || path.is_file(), &mut prints)?;
        }
        Ok(prints)
    }
}

fn add(path: &Path, read: bool, prints: &mut BTreeMap<PathBuf, Print>) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    let content = if there.is_symlink() {
        fs::read_link(path)?.to_string_lossy().into_owned()
    } else if there.is_file() && read {
        sha256(&fs::read(path)?)
    } else {
        String::new()
    };
    prints.insert(path.to_owned(), (there.mode(), there.size(), (there.ctime(), there.ctime_nsec()), content));
    if there.is_dir() {
        for entry in fs::read_dir(path)? {
            add(&entry?.path(), read, prints)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_new_or_other_shows() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::lay_out(&dir.path().join("canary"), dir.path()).unwrap();
        let before = host.print().unwrap();
        assert_eq!(host.print().unwrap(), before);
        fs::write(host.canary().join("etc/ld.so.cache"), "the guest's").unwrap();
        assert_ne!(host.print().unwrap(), before);
    }
}
