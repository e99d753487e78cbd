//! Writes a container image of a shell and a C library, so that pods run without a registry.
//!
//! It is an OCI image layout in one tar file (<https://github.com/opencontainers/image-spec>, image-layout.md). The C
//! library is the toolbox's, newer than any program built on this machine, at the places that loaders look for it; such
//! programs and libraries, mounted by CDI, run in it. Its command sleeps until told to end, also as the first process of
//! a pod, so the same image serves as the pod's sandbox.
use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::Path,
    process::Command,
};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::{debian::Toolbox, digest::sha256};

/// The image's name in containerd.
pub const REFERENCE: &str = "localhost/aliquot/shell:1";

/// As the first process of a pod it gets no default action for SIGTERM, hence the trap.
const SLEEP: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DIRECTORIES: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/lib64", 0o755),
];
/// What mounts, and programs, name by its older place; as Debian has it since 12.
const MERGED: [(&str, &str); 4] = [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];
const LIBRARIES: [&str; 7] =
    ["libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1", "libstdc++.so.6"];

/// What an image has beside the shell and the C library, or in their place.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A file that may be executed.
    File(Vec<u8>),
    /// A symbolic link.
    Link(String),
    /// An empty directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    Device(u32, u32),
}

/// An image: that of the shell, with layers on top.
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    layers: Vec<Vec<(String, Entry)>>,
}

impl Image {
    /// One with nothing of its own.
    pub fn new(reference: &str) -> Self {
        Self { reference: reference.to_owned(), layers: Vec::new() }
    }

    /// One with a layer on top of this one's, of entries by their paths from the root, without the leading slash.
    pub fn with(&self, reference: &str, layer: Vec<(String, Entry)>) -> Self {
        let layers = self.layers.iter().cloned().chain([layer]).collect();
        Self { reference: reference.to_owned(), layers }
    }

    /// Its name in containerd.
    pub fn reference(&self) -> &str {
        &self.reference
    }
}

/// Writes images to `to`.
pub(crate) fn write(images: &[Image], toolbox: &Toolbox, to: &Path) -> io::Result<()> {
    let mut blobs = Blobs { tar: Builder::new(File::create(to)?), written: HashSet::new() };
    let base = blobs.add(LAYER, &layer(toolbox)?)?;
    let manifests = images.iter().map(|image| add_image(&mut blobs, &base, image)).collect::<io::Result<Vec<_>>>()?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    add_file(&mut blobs.tar, "index.json", index.to_string().as_bytes(), 0o644)?;
    add_file(&mut blobs.tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    blobs.tar.into_inner().map(drop)
}

/// Adds an image's blobs, and returns its manifest's descriptor.
fn add_image(blobs: &mut Blobs, base: &Value, image: &Image) -> io::Result<Value> {
    let mut layers = vec![base.clone()];
    for layer in &image.layers {
        layers.push(blobs.add(LAYER, &own_layer(layer)?)?);
    }
    let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "Entrypoint": ["/bin/sh", "-c", SLEEP],
        },
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = blobs.add("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let mut manifest = blobs.add(kind, manifest.to_string().as_bytes())?;
    manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
    manifest["annotations"] = json!({"io.containerd.image.name": image.reference});
    Ok(manifest)
}

/// The architecture as Go, and therefore OCI, names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layout under construction, whose contents are named by their digests.
struct Blobs {
    tar: Builder<File>,
    /// By digest; layers may be several images'.
    written: HashSet<String>,
}

impl Blobs {
    /// Adds a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, content: &[u8]) -> io::Result<Value> {
        let digest = sha256(content);
        if self.written.insert(digest.clone()) {
            add_file(&mut self.tar, &format!("blobs/sha256/{digest}"), content, 0o644)?;
        }
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()}))
    }
}

/// The file system: an uncompressed tar.
fn layer(toolbox: &Toolbox) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, mode) in DIRECTORIES {
        add(&mut tar, path, EntryType::Directory, mode, &[])?;
    }
    for (link, target) in MERGED {
        add_link(&mut tar, link, target)?;
    }
    let accounts = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    add_file(&mut tar, "etc/passwd", accounts, 0o644)?;
    add_shell(&mut tar, &toolbox.program("busybox"))?;
    add_libraries(&mut tar, &toolbox.lib())?;
    tar.into_inner()
}

fn own_layer(entries: &[(String, Entry)]) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, entry) in entries {
        match entry {
            Entry::File(content) => add_file(&mut tar, path, content, 0o755)?,
            Entry::Link(target) => add_link(&mut tar, path, target)?,
            Entry::Directory => add(&mut tar, path, EntryType::Directory, 0o755, &[])?,
            Entry::Fifo => add(&mut tar, path, EntryType::Fifo, 0o644, &[])?,
            Entry::Device(major, minor) => {
                let mut header = header(EntryType::Char, 0o666, 0);
                header.set_device_major(*major)?;
                header.set_device_minor(*minor)?;
                tar.append_data(&mut header, path, io::empty())?;
            }
        }
    }
    tar.into_inner()
}

fn add_shell(tar: &mut Builder<Vec<u8>>, busybox: &Path) -> io::Result<()> {
    add_file(tar, "usr/bin/busybox", &fs::read(busybox)?, 0o755)?;
    let list = Command::new(busybox).arg("--list").output()?;
    let applets = String::from_utf8_lossy(&list.stdout);
    for applet in applets.lines().filter(|name| *name != "busybox") {
        add_link(tar, &format!("usr/bin/{applet}"), "busybox")?;
    }
    Ok(())
}

fn add_libraries(tar: &mut Builder<Vec<u8>>, from: &Path) -> io::Result<()> {
    let home = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    add(tar, &home, EntryType::Directory, 0o755, &[])?;
    for name in LIBRARIES {
        add_file(tar, &format!("{home}/{name}"), &fs::read(from.join(name))?, 0o644)?;
    }
    let loader = crate::debian::loader(from).map_err(io::Error::other)?;
    // Where programs look for it: fixed by each architecture's calling convention.
    let place = match std::env::consts::ARCH {
        "x86_64" => "usr/lib64",
        _ => "usr/lib",
    };
    let path = format!("{place}/{}", loader.display());
    add_file(tar, &path, &fs::read(from.join(&loader))?, 0o755)
}

fn add_file<W: io::Write>(tar: &mut Builder<W>, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    add(tar, path, EntryType::Regular, mode, content)
}

fn add_link<W: io::Write>(tar: &mut Builder<W>, path: &str, target: &str) -> io::Result<()> {
    let mut header = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut header, path, target)
}

fn add<W: io::Write>(tar: &mut Builder<W>, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = header(kind, mode, content.len());
    tar.append_data(&mut header, path, content)
}

/// Owned by root and of no time, so that the same files are the same image.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}
