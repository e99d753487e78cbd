//! Gives the library the name by which programs load the real one, and keeps its needs down to glibc.
use std::{env, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| io::Error::other("cargo gave no OUT_DIR"))?;
    // The standard library asks for libgcc_s, which a container that has only glibc lacks. This linker script, found
    // before the real library, answers with gcc's static unwinder.
    fs::write(out.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc -lc)\n")?;
    println!("cargo:rustc-cdylib-link-arg=-L{}", out.display());
    Ok(())
}
