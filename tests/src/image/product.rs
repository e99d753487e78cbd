//! The image that users run: the programs, a C library, and what says where they are from.
use std::{collections::BTreeMap, fs, io, path::PathBuf};

use serde_json::{Value, json};

use super::{
    add_libraries, architecture,
    base::{Base, Package, RELEASE},
    layout::{Description, Layout, Tree},
};

/// What the driver is linked with, and NVML and nvidia-smi besides, whose names for parts of today's libc are older.
const LIBRARIES: [&str; 6] = ["libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1"];
const DIRECTORIES: [(&str, u32); 12] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/lib64", 0o755),
    ("usr/share", 0o755),
    ("var", 0o755),
];
const LINKS: [(&str, &str); 5] =
    [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/bin"), ("var/run", "/run")];
/// Nobody logs in.
const PASSWD: &str = "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What goes into it.
#[derive(Debug)]
pub struct Product<'a> {
    /// Its name.
    pub reference: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Names and files of the programs, all for `/usr/bin`.
    pub programs: &'a [(&'a str, PathBuf)],
    /// The bill of materials.
    pub bill: &'a Value,
    /// The licence.
    pub license: &'a str,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The manifest's digest, which registries know it by.
    pub digest: String,
    /// Of all files, in bytes.
    pub uncompressed: u64,
}

impl Product<'_> {
    /// Writes it as an OCI layout in one tar file. The lower layer is the C library's, so that it seldom changes.
    pub(crate) fn write(&self, base: &Base, to: &std::path::Path) -> io::Result<Written> {
        let packages = base.packages().map_err(io::Error::other)?;
        let (system, system_size) = system(base, &packages)?;
        let (own, own_size) = self.own()?;
        let mut layout = Layout::create(to)?;
        let layers = [layout.layer(system)?, layout.layer(own)?];
        let start = json!({
            "Env": ["PATH=/usr/bin"],
            "Cmd": ["aliquot-driver", "--help"],
            "Labels": {
                "org.opencontainers.image.title": "aliquot",
                "org.opencontainers.image.version": self.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.base.name": format!("debian:{}", RELEASE),
            },
        });
        let digest = layout.image(&Description { reference: self.reference, layers: &layers, start })?;
        layout.finish()?;
        Ok(Written { digest, uncompressed: system_size + own_size })
    }

    fn own(&self) -> io::Result<(Tree, u64)> {
        let mut files = Files::default();
        for (name, path) in self.programs {
            files.add(format!("usr/bin/{name}"), 0o755, fs::read(path)?);
        }
        files.add("usr/share/doc/aliquot/LICENSE", 0o644, self.license);
        files.add("usr/share/sbom/aliquot.cdx.json", 0o644, self.bill.to_string());
        let mut tree = Tree::new();
        let size = files.write(&mut tree)?;
        Ok((tree, size))
    }
}

fn system(base: &Base, packages: &[Package]) -> io::Result<(Tree, u64)> {
    let mut tree = Tree::new();
    for (path, mode) in DIRECTORIES {
        tree.directory(path, mode)?;
    }
    for (link, target) in LINKS {
        tree.link(link, target)?;
    }
    add_libraries(&mut tree, &base.lib(), &LIBRARIES)?;
    let mut files = Files::default();
    files.add("etc/passwd", 0o644, PASSWD);
    files.add("etc/group", 0o644, GROUP);
    // By this and dpkg's state scanners know what to look up.
    files.add("etc/os-release", 0o644, format!("ID=debian\nVERSION_CODENAME={RELEASE}\nVERSION_ID=\"13\"\n"));
    for package in packages {
        files.add(format!("var/lib/dpkg/status.d/{}", package.name), 0o644, package.control.as_str());
        files.add(format!("usr/share/doc/{}/copyright", package.name), 0o644, package.copyright.as_slice());
    }
    let size = files.write(&mut tree)?;
    let libraries = LIBRARIES.iter().map(|name| fs::metadata(base.lib().join(name)).map(|meta| meta.len()));
    let loader = crate::debian::loader(&base.lib()).map_err(io::Error::other)?;
    let loader = fs::metadata(base.lib().join(loader))?.len();
    Ok((tree, size + loader + libraries.sum::<io::Result<u64>>()?))
}

/// Files by their paths, so that they are in order.
#[derive(Default)]
struct Files(BTreeMap<String, (u32, Vec<u8>)>);

impl Files {
    fn add(&mut self, path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), (mode, content.into()));
    }

    /// Adds them to a layer, and returns their size in bytes. Whoever unpacks it makes their directories.
    fn write(self, tree: &mut Tree) -> io::Result<u64> {
        let mut size = 0;
        for (path, (mode, content)) in self.0 {
            size += content.len() as u64;
            tree.file(&path, mode, &content)?;
        }
        Ok(size)
    }
}

/// Debian's name of this architecture is OCI's, too.
pub(crate) fn address(package: &Package) -> String {
    let version = package.version.replace('+', "%2B").replace(':', "%3A");
    format!("pkg:deb/debian/{}@{version}?arch={}&distro={RELEASE}", package.name, architecture())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _, path::Path};

    use super::*;
    use crate::digest::sha256;

    /// Debian's packages in small, and two programs.
    fn written(dir: &Path, output: &str) -> (Written, Vec<u8>) {
        let base = Base::at(dir);
        for path in [base.lib(), dir.join("control"), dir.join("root/usr/share/doc/libc6")] {
            fs::create_dir_all(path).unwrap();
        }
        for name in LIBRARIES.into_iter().chain(["ld-linux-x.so.2"]) {
            fs::write(base.lib().join(name), name).unwrap();
        }
        fs::write(dir.join("control/libc6"), "Package: libc6\nVersion: 2.41-12+deb13u1\n").unwrap();
        fs::write(dir.join("root/usr/share/doc/libc6/copyright"), "LGPL").unwrap();
        let programs = ["second", "first"].map(|name| {
            fs::write(dir.join(name), name).unwrap();
            (name, dir.join(name))
        });
        let bill = json!({"components": []});
        let product =
            Product { reference: "localhost/x:1", version: "1", programs: &programs, bill: &bill, license: "Apache" };
        let written = product.write(&base, &dir.join(output)).unwrap();
        (written, fs::read(dir.join(output)).unwrap())
    }

    /// A tar's files and links, by path.
    fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
            (entry.path().unwrap().to_string_lossy().into_owned(), content)
        });
        entries.collect()
    }

    fn blob<'a>(layout: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let content = &layout[&format!("blobs/sha256/{digest}")];
        assert_eq!((sha256(content).as_str(), &json!(content.len())), (digest, &descriptor["size"]));
        content
    }

    #[test]
    fn written_twice_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(written(dir.path(), "a.tar"), written(dir.path(), "b.tar"));
    }

    #[test]
    fn it_holds_the_programs_their_libraries_and_what_tells_of_both() {
        let dir = tempfile::tempdir().unwrap();
        let (written, bytes) = written(dir.path(), "a.tar");
        let layout = files(&bytes);
        let index: Value = serde_json::from_slice(&layout["index.json"]).unwrap();
        let descriptor = &index["manifests"][0];
        assert_eq!(descriptor["digest"], written.digest.as_str());
        assert_eq!(descriptor["annotations"]["io.containerd.image.name"], "localhost/x:1");
        let manifest: Value = serde_json::from_slice(blob(&layout, descriptor)).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let all: BTreeMap<String, Vec<u8>> = layers.iter().flat_map(|layer| files(blob(&layout, layer))).collect();
        let home = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        for (path, content) in [
            ("usr/bin/first", "first"),
            ("usr/bin/second", "second"),
            (&format!("{home}/libc.so.6"), "libc.so.6"),
            ("usr/share/doc/libc6/copyright", "LGPL"),
            ("usr/share/doc/aliquot/LICENSE", "Apache"),
            ("usr/share/sbom/aliquot.cdx.json", r#"{"components":[]}"#),
        ] {
            assert_eq!(all.get(path).map(Vec::as_slice), Some(content.as_bytes()), "{path}");
        }
        let sizes: usize = all.values().map(Vec::len).sum();
        assert_eq!(written.uncompressed, sizes as u64);
    }

    #[test]
    fn a_package_is_addressed_by_name_version_and_release() {
        let package = Package {
            name: "libc6".to_owned(),
            version: "1:2.41-12+deb13u1".to_owned(),
            control: String::new(),
            copyright: Vec::new(),
        };
        let address = address(&package);
        assert!(address.starts_with("pkg:deb/debian/libc6@1%3A2.41-12%2Bdeb13u1?arch="), "{address}");
    }
}
