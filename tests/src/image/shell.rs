//! The suites' image: a shell and a C library, so that pods run without a registry.
//!
//! The C library is the toolbox's, newer than any program built on this machine, at the places that loaders look for it; such
//! programs and libraries, mounted by CDI, run in it. Its command sleeps until told to end, also as the first process of
//! a pod, so the same image serves as the pod's sandbox.
use std::{fs, io, path::Path, process::Command};

use serde_json::json;

use super::{
    add_libraries,
    layout::{Description, Layout, Tree},
};
use crate::debian::Toolbox;

/// The image's name in containerd.
pub const REFERENCE: &str = "localhost/aliquot/shell:1";

/// As the first process of a pod it gets no default action for SIGTERM, hence the trap.
const SLEEP: &str = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";
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
    let mut layout = Layout::create(to)?;
    let base = layout.layer(base(toolbox)?)?;
    for image in images {
        let mut layers = vec![base.clone()];
        for entries in &image.layers {
            layers.push(layout.layer(own(entries)?)?);
        }
        let start = json!({"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Entrypoint": ["/bin/sh", "-c", SLEEP]});
        layout.image(&Description { reference: &image.reference, layers: &layers, start })?;
    }
    layout.finish()
}

/// The shell's file system.
fn base(toolbox: &Toolbox) -> io::Result<Tree> {
    let mut tree = Tree::new();
    for (path, mode) in DIRECTORIES {
        tree.directory(path, mode)?;
    }
    for (link, target) in MERGED {
        tree.link(link, target)?;
    }
    let accounts = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    tree.file("etc/passwd", 0o644, accounts)?;
    add_shell(&mut tree, &toolbox.program("busybox"))?;
    add_libraries(&mut tree, &toolbox.lib(), &LIBRARIES)?;
    Ok(tree)
}

fn own(entries: &[(String, Entry)]) -> io::Result<Tree> {
    let mut tree = Tree::new();
    for (path, entry) in entries {
        match entry {
            Entry::File(content) => tree.file(path, 0o755, content)?,
            Entry::Link(target) => tree.link(path, target)?,
            Entry::Directory => tree.directory(path, 0o755)?,
            Entry::Fifo => tree.fifo(path)?,
            Entry::Device(major, minor) => tree.device(path, *major, *minor)?,
        }
    }
    Ok(tree)
}

fn add_shell(tree: &mut Tree, busybox: &Path) -> io::Result<()> {
    tree.file("usr/bin/busybox", 0o755, &fs::read(busybox)?)?;
    let list = Command::new(busybox).arg("--list").output()?;
    let applets = String::from_utf8_lossy(&list.stdout);
    for applet in applets.lines().filter(|name| *name != "busybox") {
        tree.link(&format!("usr/bin/{applet}"), "busybox")?;
    }
    Ok(())
}
