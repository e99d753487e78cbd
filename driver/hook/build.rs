//! Links the hook statically on GNU systems too: it runs on the host, whose libc may be any, or none.
//!
//! `-C target-feature=+crt-static` would do it, but can be given only to the whole workspace, and the driver must load
//! NVML. So the linker is told here, and finds nothing but archives where rustc names libc's libraries to it.
use std::{
    env, io,
    path::{Path, PathBuf},
    process::Command,
};

/// What rustc links std with, and the archive that stands for it.
const LIBRARIES: [(&str, &str); 7] = [
    ("libgcc_s.a", "libgcc_eh.a"),
    ("libutil.a", "libutil.a"),
    ("librt.a", "librt.a"),
    ("libpthread.a", "libpthread.a"),
    ("libm.a", "libm.a"),
    ("libdl.a", "libdl.a"),
    ("libc.a", "libc.a"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|all| all.split(',').any(|one| one == value));
    if !is("CARGO_CFG_TARGET_ENV", "gnu") || is("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        return;
    }
    match archives() {
        Ok(dir) => {
            // Of the program alone: whoever uses the library is linked as he likes.
            println!("cargo::rustc-link-arg-bins=-L{}", dir.display());
            println!("cargo::rustc-link-arg-bins=-static-pie");
        }
        // The crate's tests fail then, and the driver doesn't install such a hook; the rest builds all the same.
        Err(error) => println!("cargo::warning=the hook is linked dynamically: {error}"),
    }
}

/// A directory with archives only, which the linker searches before its own.
fn archives() -> io::Result<PathBuf> {
    let dir = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("static");
    std::fs::create_dir_all(&dir)?;
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    for (name, archive) in LIBRARIES {
        let output = Command::new(&linker).arg(format!("-print-file-name={archive}")).output()?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !path.is_absolute() {
            return Err(io::Error::other(format!("{archive} is not installed (libc6-dev, glibc-static)")));
        }
        link(&path, &dir.join(name))?;
    }
    Ok(dir)
}

fn link(to: &Path, at: &Path) -> io::Result<()> {
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(to, at),
    }
}
