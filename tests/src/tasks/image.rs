//! `cargo xtask image`: the container image of all programs, without a daemon and without root.
use std::{
    env::consts::ARCH,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;

use super::{Error, cargo};
use crate::image::{
    base::{Base, RELEASE},
    product::{Product, Written, address},
    sbom::{self, Foreign, Metadata},
};

/// The packages whose programs of the same name are in the image.
const PROGRAMS: [&str; 3] = ["aliquot-controller", "aliquot-driver", "aliquot-hook"];
/// In bytes of files: what every node loads and keeps.
const LARGEST: u64 = 25_000_000;
const LICENSE: &str = include_str!("../../../LICENSE");

/// Options of `cargo xtask image`.
#[derive(Debug, Args)]
pub(super) struct Image {
    /// Where the image goes, an OCI layout in one tar file; its bill of materials goes beside it.
    #[arg(long, default_value = "target/aliquot.tar", value_name = "FILE")]
    output: PathBuf,
    /// Its name, which the manifests in deploy/ have too.
    #[arg(long, default_value_t = format!("localhost/aliquot:{}", env!("CARGO_PKG_VERSION")), value_name = "NAME:TAG")]
    name: String,
}

impl Image {
    /// Builds the programs and writes the image.
    pub(super) fn run(self) -> Result<(), Error> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let target = root.join("target/image");
        let programs = build(root, &target)?;
        let base = Base::fetch(&root.join("target")).map_err(|error| Error::Broke(error.into()))?;
        starts(&base, &programs)?;
        let packages = base.packages().map_err(|error| Error::Broke(error.into()))?;
        let mut others: Vec<Foreign> = packages
            .iter()
            .map(|package| Foreign {
                name: package.name.clone(),
                version: package.version.clone(),
                purl: address(package),
            })
            .collect();
        others.extend(linked_statically());
        let version = env!("CARGO_PKG_VERSION");
        let bill = sbom::bill("aliquot", version, &PROGRAMS, &metadata(root)?, &others);
        let product = Product { reference: &self.name, version, programs: &programs, bill: &bill, license: LICENSE };
        let told = |what: &str, path: &Path| {
            let what = format!("{what} {}", path.display());
            move |source| Error::Io { what, source }
        };
        let Written { digest, uncompressed } =
            product.write(&base, &self.output).map_err(told("write", &self.output))?;
        let beside = self.output.with_extension("cdx.json");
        fs::write(&beside, bill.to_string()).map_err(told("write", &beside))?;
        println!("{} {digest}", self.name);
        println!("{:.1} MB of files; {} lists what they are made of", mega(uncompressed), beside.display());
        println!("on each node: ctr -n k8s.io images import {}", self.output.display());
        if uncompressed > LARGEST {
            let message = format!("the image has {:.1} MB, and {:.1} are the most", mega(uncompressed), mega(LARGEST));
            return Err(Error::Broke(message.into()));
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Builds the programs in a directory of their own: with other features than the suites', and without a trace of where
/// on this machine their sources are.
fn build(root: &Path, target: &Path) -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).unwrap_or_default();
    let mut flags = OsString::new();
    for (path, name) in [(cargo_home.join("registry/src"), "/cargo"), (root.to_owned(), "/aliquot")] {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(name);
    }
    let environment = [
        ("CARGO_ENCODED_RUSTFLAGS", flags),
        ("CARGO_PROFILE_RELEASE_STRIP", "symbols".into()),
        ("CARGO_TARGET_DIR", target.into()),
    ];
    let packages = PROGRAMS.iter().flat_map(|program| ["-p", program]);
    let arguments: Vec<&str> = ["build", "--locked", "--release"].into_iter().chain(packages).collect();
    cargo(&arguments, &environment)?;
    Ok(PROGRAMS.iter().map(|program| (*program, target.join("release").join(program))).collect())
}

/// Whether the programs start with the image's libraries: they may have been linked against newer ones.
fn starts(base: &Base, programs: &[(&str, PathBuf)]) -> Result<(), Error> {
    let loader = crate::debian::loader(&base.lib()).map_err(|error| Error::Broke(error.into()))?;
    // The hook is linked statically, and asked nothing without a container.
    for (name, path) in programs.iter().filter(|(name, _)| *name != "aliquot-hook") {
        let mut command = Command::new(base.lib().join(&loader));
        command.arg("--library-path").arg(base.lib()).arg(path).arg("--version");
        let output = command.output().map_err(|source| Error::Start { program: (*name).to_owned(), source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("{name} doesn't start with Debian {}'s libraries: {}", RELEASE, said.trim());
            return Err(Error::Broke(message.into()));
        }
    }
    Ok(())
}

fn metadata(root: &Path) -> Result<Metadata, Error> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(&program);
    let platform = format!("{ARCH}-unknown-linux-gnu");
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &platform]).current_dir(root);
    let output = command.output().map_err(|source| Error::Start { program, source })?;
    if !output.status.success() {
        return Err(Error::Failed { command: "cargo metadata".to_owned(), status: output.status });
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Error::Broke(error.into()))
}

/// The build machine's C library, which is linked into the hook; where that is no Debian, nobody knows its name.
fn linked_statically() -> Option<Foreign> {
    let output = Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "libc6-dev"]).output().ok()?;
    let version = String::from_utf8(output.stdout).ok().filter(|version| !version.is_empty())?;
    let purl = format!("pkg:deb/debian/libc6-dev@{}", version.replace('+', "%2B"));
    Some(Foreign { name: "libc6-dev".to_owned(), version, purl })
}
