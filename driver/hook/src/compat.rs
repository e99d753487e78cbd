//! CUDA's forward compatibility: an image may bring libraries of a newer driver than the host's, which CUDA takes on the
//! GPUs that support that (CUDA Compatibility, "Forward Compatibility").
use ld_cache::Library;

use super::rootfs::{Error, Rootfs};

/// Where images have them.
const DIR: &str = "/usr/local/cuda/compat";

/// The image's libraries, if they are of a later major version than the host's driver.
pub(crate) fn libraries(root: &Rootfs, driver_version: &str) -> Result<Vec<Library>, Error> {
    let names = root.names(DIR)?;
    let newest = names.iter().filter_map(|name| major(name.strip_prefix("libcuda.so.")?)).max();
    if newest <= major(driver_version) {
        return Ok(Vec::new());
    }
    Ok(names
        .iter()
        .filter(|name| is_soname(name))
        .map(|name| Library { name: name.clone(), path: format!("{DIR}/{name}") })
        .collect())
}

/// Of a driver's version such as `580.95.05`; the `1` of `libcuda.so.1` is none.
fn major(version: &str) -> Option<u32> {
    version.split_once('.')?.0.parse().ok()
}

/// `lib*.so.N`, by which programs ask for a library.
fn is_soname(name: &str) -> bool {
    let number = name.starts_with("lib").then(|| name.split_once(".so.")).flatten();
    number.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(files: &[&str], driver_version: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let compat = dir.path().join(&DIR[1..]);
        fs::create_dir_all(&compat).unwrap();
        for file in files {
            fs::write(compat.join(file), "").unwrap();
        }
        let all = libraries(&Rootfs::open(dir.path()).unwrap(), driver_version).unwrap();
        all.into_iter().map(|library| library.path).collect()
    }

    #[test]
    fn an_images_newer_libraries_come_before_the_hosts() {
        let files = ["libcuda.so", "libcuda.so.1", "libcuda.so.580.95.05", "libnvidia-ptxjitcompiler.so.1"];
        let paths = ["/usr/local/cuda/compat/libcuda.so.1", "/usr/local/cuda/compat/libnvidia-ptxjitcompiler.so.1"];
        assert_eq!(found(&files, "570.172.08"), paths);
        assert!(found(&files, "580.65.06").is_empty(), "of the same major version");
        assert!(found(&files, "590.1").is_empty());
        assert!(found(&["libcuda.so.1", "libcuda.so.x"], "570.1").is_empty(), "of no known version");
        assert!(found(&[], "570.1").is_empty());
    }
}
