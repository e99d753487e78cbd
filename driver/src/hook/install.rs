//! Puts the hook where the host finds it: a copy of the one that was shipped with this driver.
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use owned_dir::{Access, Dir};

use super::NAME;

/// A larger file is no hook, with debug information and all.
const LARGEST: u64 = 64 << 20;
/// Of [`Access::Program`].
const MODE: u32 = 0o755;

/// Why there is no hook in its place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It isn't there, or can't be read.
    #[error("the hook {} can't be read; it is shipped beside the driver, see --hook", path.display())]
    Read {
        /// The hook.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no program that runs on any host.
    #[error("{} can't be the hook: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It can't be written.
    #[error(transparent)]
    Dir(#[from] owned_dir::Error),
}

/// Where a driver's own hook is.
pub(super) fn beside_this_program() -> Result<PathBuf, Error> {
    let path = std::env::current_exe().map_err(|source| Error::Read { path: NAME.into(), source })?;
    Ok(path.with_file_name(NAME))
}

/// Copies the hook into `dir`, whole or not at all; one that is the same already is left as it is.
pub(super) fn install(from: &Path, dir: &Dir) -> Result<(), Error> {
    let hook = fit(from)?;
    // What can't be read, such as a link, is replaced.
    let there = dir.open_file(NAME).ok().flatten();
    if !there.is_some_and(|there| are_same(&hook, &there).unwrap_or(false)) {
        dir.copy(NAME, &hook, Access::Program)?;
        tracing::info!(path = %dir.path().join(NAME).display(), "installed the container hook");
    }
    Ok(())
}

/// The shipped hook, if any host can run it.
pub(super) fn fit(from: &Path) -> Result<File, Error> {
    let hook = open(from).map_err(|source| Error::Read { path: from.to_owned(), source })?;
    match unfit(&hook) {
        Some(reason) => Err(Error::Unfit { path: from.to_owned(), reason }),
        None => Ok(hook),
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > LARGEST {
        return Err(io::Error::other("it is no regular file, or a very large one"));
    }
    Ok(file)
}

/// A hook that needs a loader runs in the driver's image, but perhaps not on the host.
fn unfit(program: &File) -> Option<&'static str> {
    let data = object::ReadCache::new(program);
    let Ok(elf) = ElfFile64::<object::Endianness, _>::parse(&data) else { return Some("it is no ELF program") };
    let Ok(segments) = elf.elf_header().program_headers(elf.endian(), &data) else {
        return Some("it is a damaged ELF program");
    };
    let is_dynamic = segments.iter().any(|segment| segment.p_type(elf.endian()) == object::elf::PT_INTERP);
    is_dynamic.then_some("it is linked dynamically, and may not run on the host")
}

/// Piece by piece: the driver has no memory to spare for a program.
fn are_same(hook: &File, there: &File) -> io::Result<bool> {
    let (meta, size) = (there.metadata()?, hook.metadata()?.len());
    if meta.len() != size || meta.mode() & 0o7777 != MODE {
        return Ok(false);
    }
    let (mut ours, mut theirs) = ([0; 4096], [0; 4096]);
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).map_or(ours.len(), |left| left.min(ours.len()));
        hook.read_exact_at(&mut ours[..length], at)?;
        there.read_exact_at(&mut theirs[..length], at)?;
        if ours[..length] != theirs[..length] {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An ELF header, and nothing else.
    fn program() -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        bytes.resize(64, 0);
        bytes[16] = 3;
        bytes[20] = 1;
        bytes[52] = 64;
        bytes
    }

    #[test]
    fn the_hook_is_copied_as_a_program_and_left_alone_when_it_is_the_same() {
        let temporary = tempfile::tempdir().unwrap();
        let (from, to) = (temporary.path().join("from"), temporary.path().join("plugin"));
        std::fs::write(&from, program()).unwrap();
        let dir = Dir::open(&to).unwrap();
        let installed = || {
            install(&from, &dir).unwrap();
            let meta = to.join(NAME).symlink_metadata().unwrap();
            (meta.ino(), meta.mode() & 0o777)
        };
        let first = installed();
        assert_eq!((first.1, installed()), (0o755, first));
        std::fs::set_permissions(to.join(NAME), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(installed().1, 0o755);
        let other = [program(), vec![1; 9000]].concat();
        std::fs::write(&from, &other).unwrap();
        installed();
        assert_eq!(std::fs::read(to.join(NAME)).unwrap(), other);
        std::fs::write(&from, [program(), vec![1; 8999], vec![2]].concat()).unwrap();
        installed();
        assert_ne!(std::fs::read(to.join(NAME)).unwrap(), other, "the same length, and another end");
        std::os::unix::fs::symlink(&from, to.join("other")).unwrap();
        std::fs::rename(to.join("other"), to.join(NAME)).unwrap();
        assert!(to.join(NAME).is_symlink());
        installed();
        assert!(!to.join(NAME).is_symlink() && from.exists());
    }

    #[test]
    fn what_would_not_run_on_every_host_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open(&temporary.path().join("plugin")).unwrap();
        let refused = |from: &Path| install(from, &dir).unwrap_err().to_string();
        // The same everywhere, and smaller than this test's own program.
        assert!(refused(Path::new("/bin/sh")).contains("dynamically"));
        assert!(refused(&temporary.path().join("none")).contains("--hook"));
        let script = temporary.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(refused(&script).contains("no ELF"));
        assert!(dir.names().unwrap().is_empty());
    }
}
