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
pub(crate) struct Job {
    /// Links by the path at which they are to be.
    pub(crate) links: Vec<Link>,
    /// Libraries that the loader is to find.
    pub(crate) libraries: Vec<Library>,
    /// The host's driver, to which an image's own libraries are compared.
    pub(crate) driver_version: Option<String>,
    /// The parameters that the container is to see, in a file of the host.
    pub(crate) params: Option<PathBuf>,
}

/// A symbolic link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) path: String,
    pub(crate) target: String,
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
        root.link(&link.path, &link.target)?;
    }
    let mut libraries = job.libraries.clone();
    if let Some(version) = &job.driver_version {
        let newer = compat::libraries(root, version)?;
        libraries.retain(|library| newer.iter().all(|other| other.name != library.name));
        libraries.splice(..0, newer);
    }
    if libraries.is_empty() { Ok(()) } else { Ok(show_to_loader(&libraries, root)?) }
}

fn show_to_loader(libraries: &[Library], root: &Rootfs) -> Result<(), rootfs::Error> {
    let cache = match root.read(CACHE, ld_cache::LARGEST) {
        Ok(cache) => cache,
        Err(error @ rootfs::Error::Large { .. }) => {
            tell(&error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    match ld_cache::merge(cache.as_deref(), libraries, Machine::HERE) {
        Ok(merged) if cache.as_deref() == Some(&merged) => {}
        Ok(merged) => root.write(CACHE, &merged)?,
        // Whatever else the cache makes found would be lost; ours are in the loader's own directories as well.
        Err(error) => tell(&format_args!("{CACHE} of the image is left as it is: {error}")),
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn library(name: &str, dir: &str) -> Library {
        Library { name: name.into(), path: format!("{dir}/{name}") }
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
            libraries: vec![library("libcuda.so.1", "/usr/lib64"), library("libnvidia-ml.so.1", "/usr/lib64")],
            driver_version: Some("570.1".into()),
            links: vec![Link { path: "/usr/lib64/libcuda.so".into(), target: "libcuda.so.1".into() }],
            params: None,
        };
        assert_eq!(prepared(dir.path(), &job), "/usr/lib64/libcuda.so.1");
        assert_eq!(fs::read_link(dir.path().join("usr/lib64/libcuda.so")).unwrap(), Path::new("libcuda.so.1"));
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
    fn a_cache_that_cannot_be_read_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/ld.so.cache"), "rubbish").unwrap();
        let job = Job { libraries: vec![library("libcuda.so.1", "/usr/lib64")], ..Job::default() };
        prepare(&job, &Rootfs::open(dir.path()).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("etc/ld.so.cache")).unwrap(), "rubbish");
    }
}
