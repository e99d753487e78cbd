//! What a container needs once the driver's files are mounted in it: links, the loader's cache, and the kernel module's
//! parameters without leave to make device nodes.
use std::path::PathBuf;

use ld_cache::{Library, Machine};

use crate::{
    compat, params,
    rootfs::{self, Rootfs},
    tell,
};

const CACHE: &str = "/etc/ld.so.cache";
/// For whoever runs `ldconfig` in the container later.
const CONFIG_DIR: &str = "/etc/ld.so.conf.d";
const CONFIG: &str = "/etc/ld.so.conf.d/00-aliquot.conf";

/// What to do.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Job {
    /// Links by the path at which they are to be.
    pub links: Vec<Link>,
    /// Where the driver's libraries are mounted, and then other directories in which loaders look by themselves.
    pub library_dirs: Vec<String>,
    /// The names by which they are to be found, and their files.
    pub libraries: Vec<Named>,
    /// The host's driver, to which an image's own libraries are compared.
    pub driver_version: Option<String>,
    /// The parameters that the container is to see, in a file of the host.
    pub params: Option<PathBuf>,
}

/// A symbolic link.
#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it is.
    pub path: String,
    /// Where it leads.
    pub target: String,
}

/// A name for a file in the first of the library directories.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The file's name.
    pub file: String,
}

/// Why a container can't be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    #[error(transparent)]
    Params(#[from] params::Error),
}

/// Does it all; what is there already stays as it is.
pub(crate) fn prepare(job: &Job, root: &Rootfs) -> Result<(), Error> {
    // What isolates comes first, so that nothing that the image did to its files keeps it from being done.
    if let Some(masked) = &job.params {
        params::mask(root, masked)?;
    }
    for link in &job.links {
        match root.link(&link.path, &link.target) {
            // A pod that brings a /dev of its own, such as the host's, has that one's links.
            Err(error @ rootfs::Error::Volume { .. }) if link.path.starts_with("/dev/") => tell(&error),
            linked => linked?,
        }
    }
    let Some((first, others)) = job.library_dirs.split_first() else { return Ok(()) };
    let other_names = job.libraries.iter().filter(|library| library.name != library.file);
    root.links(first, other_names.map(|library| (library.name.as_str(), library.file.as_str())))?;
    let path = |name: &String| Library { name: name.clone(), path: format!("{first}/{name}") };
    let mut libraries: Vec<Library> = job.libraries.iter().map(|library| path(&library.name)).collect();
    if let Some(version) = &job.driver_version {
        let newer = compat::libraries(root, version)?;
        libraries.retain(|library| newer.iter().all(|other| other.name != library.name));
        libraries.splice(..0, newer);
    }
    if libraries.is_empty() || show_to_loader(&libraries, root)? {
        return Ok(());
    }
    // A loader that isn't told looks in one of these. An image may have two of them as one, in which a link by the file's
    // own name would stand in the file's place.
    for dir in others.iter().filter(|dir| !root.is_one_dir(first, dir)) {
        let targets: Vec<String> = job.libraries.iter().map(|library| format!("{first}/{}", library.file)).collect();
        let links =
            job.libraries.iter().zip(&targets).map(|(library, target)| (library.name.as_str(), target.as_str()));
        root.links(dir, links)?;
    }
    Ok(())
}

/// Enters libraries into the loader's cache; false if that is left as it is.
fn show_to_loader(libraries: &[Library], root: &Rootfs) -> Result<bool, rootfs::Error> {
    let cache = match root.read(CACHE, ld_cache::LARGEST) {
        Ok(cache) => cache,
        Err(error @ rootfs::Error::Large { .. }) => {
            tell(&error);
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    match ld_cache::merge(cache.as_deref(), libraries, Machine::HERE) {
        Ok(merged) if cache.as_deref() == Some(&merged) => {}
        Ok(merged) => root.write(CACHE, &merged)?,
        // Whatever else the cache makes found would be lost.
        Err(error) => {
            tell(&format_args!("{CACHE} of the image is left as it is: {error}"));
            return Ok(false);
        }
    }
    if root.has_dir(CONFIG_DIR) {
        let mut dirs: Vec<&str> = Vec::new();
        for dir in libraries.iter().filter_map(|library| Some(library.path.rsplit_once('/')?.0)) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        root.write(CONFIG, (dirs.join("\n") + "\n").as_bytes())?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn named(name: &str, file: &str) -> Named {
        Named { name: name.into(), file: file.into() }
    }

    fn prepared(dir: &Path, job: &Job) -> String {
        prepare(job, &Rootfs::open(dir).unwrap()).unwrap();
        let cache = fs::read(dir.join("etc/ld.so.cache")).unwrap();
        ld_cache::find(&cache, "libcuda.so.1", Machine::HERE).unwrap().unwrap()
    }

    #[test]
    fn programs_find_the_hosts_libraries_and_the_images_own_where_these_are_newer() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/ld.so.conf.d")).unwrap();
        let job = Job {
            library_dirs: vec!["/usr/lib64".into(), "/usr/lib/other".into()],
            libraries: vec![named("libcuda.so.1", "libcuda.so.570.1"), named("libodd.so", "libodd.so")],
            driver_version: Some("570.1".into()),
            links: vec![Link { path: "/usr/lib64/gbm/x.so".into(), target: "../libcuda.so.1".into() }],
            params: None,
        };
        assert_eq!(prepared(dir.path(), &job), "/usr/lib64/libcuda.so.1");
        for (path, target) in
            [("usr/lib64/gbm/x.so", "../libcuda.so.1"), ("usr/lib64/libcuda.so.1", "libcuda.so.570.1")]
        {
            assert_eq!(fs::read_link(dir.path().join(path)).unwrap(), Path::new(target), "{path}");
        }
        assert!(!dir.path().join("usr/lib64/libodd.so").is_symlink(), "it is the file itself");
        assert!(!dir.path().join("usr/lib/other").exists(), "the cache is enough");
        let config = || fs::read_to_string(dir.path().join("etc/ld.so.conf.d/00-aliquot.conf")).unwrap();
        assert_eq!(config(), "/usr/lib64\n");
        fs::create_dir_all(dir.path().join("usr/local/cuda/compat")).unwrap();
        for name in ["libcuda.so.1", "libcuda.so.580.1"] {
            fs::write(dir.path().join("usr/local/cuda/compat").join(name), "").unwrap();
        }
        assert_eq!(prepared(dir.path(), &job), "/usr/local/cuda/compat/libcuda.so.1");
        assert_eq!(config(), "/usr/local/cuda/compat\n/usr/lib64\n");
    }

    #[test]
    fn an_image_whose_library_directories_are_one_keeps_the_files_that_are_mounted_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib/multi")).unwrap();
        std::os::unix::fs::symlink("lib/multi", dir.path().join("usr/lib64")).unwrap();
        fs::write(dir.path().join("usr/lib/multi/libodd.so"), "mounted").unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/ld.so.cache"), "rubbish").unwrap();
        let job = Job {
            library_dirs: vec!["/usr/lib/multi".into(), "/usr/lib64".into()],
            libraries: vec![named("libodd.so", "libodd.so")],
            ..Job::default()
        };
        prepare(&job, &Rootfs::open(dir.path()).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("usr/lib64/libodd.so")).unwrap(), "mounted");
    }

    #[test]
    fn a_cache_that_cannot_be_read_is_left_as_it_is_and_names_are_where_loaders_look() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/ld.so.cache"), "rubbish").unwrap();
        let job = Job {
            library_dirs: vec!["/usr/lib64".into(), "/usr/lib/other".into()],
            libraries: vec![named("libcuda.so.1", "libcuda.so.570.1"), named("libodd.so", "libodd.so")],
            ..Job::default()
        };
        prepare(&job, &Rootfs::open(dir.path()).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("etc/ld.so.cache")).unwrap(), "rubbish");
        for (name, target) in [("libcuda.so.1", "/usr/lib64/libcuda.so.570.1"), ("libodd.so", "/usr/lib64/libodd.so")] {
            assert_eq!(fs::read_link(dir.path().join("usr/lib/other").join(name)).unwrap(), Path::new(target));
        }
    }
}
