//! Writes OCI image layouts in one tar file (<https://github.com/opencontainers/image-spec>, image-layout.md).
//!
//! The same contents are the same bytes: nothing has a time or an owner but root, and layers are as they are given.
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::digest::sha256;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layer that was added.
#[derive(Debug, Clone)]
pub(super) struct Layer(Value);

/// An image of layers that were added.
#[derive(Debug)]
pub(super) struct Description<'a> {
    /// Its name in registries and container runtimes.
    pub(super) reference: &'a str,
    /// From the lowest up.
    pub(super) layers: &'a [Layer],
    /// How containers are started, in the fields of OCI's image configuration: `Env`, `Cmd`, `Labels`…
    pub(super) start: Value,
}

/// A layout under construction, whose contents are named by their digests.
pub(super) struct Layout {
    tar: Builder<File>,
    /// By digest; layers may be several images'.
    written: HashSet<String>,
    manifests: Vec<Value>,
}

impl Layout {
    /// Begins the file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { tar: Builder::new(File::create(path)?), written: HashSet::new(), manifests: Vec::new() })
    }

    /// Adds an uncompressed layer.
    pub(super) fn layer(&mut self, tree: Tree) -> io::Result<Layer> {
        self.blob(LAYER, &tree.0.into_inner()?).map(Layer)
    }

    /// Adds an image, and returns its manifest's digest.
    pub(super) fn image(&mut self, image: &Description<'_>) -> io::Result<String> {
        let layers: Vec<&Value> = image.layers.iter().map(|layer| &layer.0).collect();
        let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": image.start,
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes())?;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut manifest = self.blob(MANIFEST, manifest.to_string().as_bytes())?;
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        manifest["platform"] = json!({"architecture": architecture(), "os": "linux"});
        // containerd goes by the one, the others by the other.
        manifest["annotations"] = json!({
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": image.reference,
        });
        self.manifests.push(manifest);
        Ok(digest)
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests});
        append(&mut self.tar, "index.json", EntryType::Regular, 0o644, index.to_string().as_bytes())?;
        let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
        append(&mut self.tar, "oci-layout", EntryType::Regular, 0o644, version)?;
        self.tar.into_inner()?.flush()
    }

    /// Adds a blob and returns its descriptor.
    fn blob(&mut self, media_type: &str, content: &[u8]) -> io::Result<Value> {
        let digest = sha256(content);
        if self.written.insert(digest.clone()) {
            append(&mut self.tar, &format!("blobs/sha256/{digest}"), EntryType::Regular, 0o644, content)?;
        }
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()}))
    }
}

/// A layer's files, by their paths from the root, without the leading slash.
pub(super) struct Tree(Builder<Vec<u8>>);

impl Tree {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(super) fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        append(&mut self.0, path, EntryType::Directory, mode, &[])
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        append(&mut self.0, path, EntryType::Regular, mode, content)
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.0.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
    }

    pub(super) fn fifo(&mut self, path: &str) -> io::Result<()> {
        append(&mut self.0, path, EntryType::Fifo, 0o644, &[])
    }

    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        let mut header = header(EntryType::Char, 0o666, 0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.0.append_data(&mut header, path, io::empty())
    }
}

fn append<W: Write>(tar: &mut Builder<W>, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(kind, mode, content.len()), path, content)
}

/// Owned by root and of no time, so that the same files are the same image.
fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// The architecture as Go, and therefore OCI, names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
