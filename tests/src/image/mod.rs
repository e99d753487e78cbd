//! Container images, written without a daemon: the one that users run, and the suites' shell.
pub(crate) mod base;
mod layout;
pub mod product;
pub mod sbom;
mod shell;

use std::{fs, io, path::Path};

pub(crate) use layout::architecture;
pub(crate) use shell::write;
pub use shell::{Entry, Image, REFERENCE};

use layout::Tree;

/// Adds libraries of a directory, and the C library's loader, to where programs look for them.
fn add_libraries(tree: &mut Tree, from: &Path, names: &[&str]) -> io::Result<()> {
    let home = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    tree.directory(&home, 0o755)?;
    for name in names {
        tree.file(&format!("{home}/{name}"), 0o644, &fs::read(from.join(name))?)?;
    }
    let loader = crate::debian::loader(from).map_err(io::Error::other)?;
    // Fixed by each architecture's calling convention.
    let place = match std::env::consts::ARCH {
        "x86_64" => "usr/lib64",
        _ => "usr/lib",
    };
    tree.file(&format!("{place}/{}", loader.display()), 0o755, &fs::read(from.join(&loader))?)
}
