//! Brings containerd, crun and runc out of Debian's packages into the build's own directory; nothing is installed.
//!
//! The packages are those of Debian's unstable release, the only one with a containerd and a crun that are both recent
//! enough for CDI. They come with the C library they were linked against, and every program is pointed at that one, so
//! that an older Debian runs them. apt resolves, downloads and verifies with a configuration, lists and cache of its own:
//! it neither reads nor changes what is installed on the machine.
use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::digest::sha256;

/// What apt is asked for; it adds what these depend on.
const PACKAGES: [&str; 5] = ["containerd", "crun", "runc", "busybox-static", "patchelf"];
/// Linked against the packages' C library, by their place below the packages' root.
const PROGRAMS: [&str; 5] =
    ["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr", "usr/bin/crun", "usr/sbin/runc"];
const BUSYBOX: &str = "usr/bin/busybox";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Debian's address for those who named none, <https://www.debian.org/mirror/list>.
const MIRROR: &str = "http://deb.debian.org/debian/";
/// Security updates, which few mirrors have.
const SECURITY: &str = "http://deb.debian.org/debian-security/";

/// Why there is no toolbox; a reason to skip, not to fail.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The machine is no Debian, or lacks a part of it.
    #[error("{} is not here, so this is no Debian whose packages can be verified", .0.display())]
    NotDebian(PathBuf),
    /// A program that every Debian has could not be started.
    #[error("{program} could not be started: {source}")]
    Start {
        /// Its name.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program ran and failed; without a network it is `apt-get update`.
    #[error("{command} failed: {said}")]
    Failed {
        /// The program and its first argument.
        command: String,
        /// The error that it wrote.
        said: String,
    },
    /// The packages have no C library loader where this architecture's should be.
    #[error("the packages hold no loader in {}", .0.display())]
    NoLoader(PathBuf),
    /// A file could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The unpacked programs, which stay as long as the build's directory does.
#[derive(Debug, Clone)]
pub struct Toolbox {
    dir: PathBuf,
}

impl Toolbox {
    /// The directory of containerd, its shim, ctr, crun, runc and a static busybox.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The directory of the C library and what else the programs are linked against.
    pub fn lib(&self) -> PathBuf {
        self.dir.join("lib")
    }

    /// One program of [`bin`](Self::bin).
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }
}

/// Debian's packages of a container runtime.
#[derive(Debug)]
pub struct Packages;

impl Packages {
    /// Unpacks them below `target_dir`, once: later calls return what the first one left, and calls at the
    /// same time wait for it. Takes seconds and a network.
    pub fn fetch(target_dir: &Path) -> Result<Toolbox, Unavailable> {
        let dir = once(target_dir, stamp, |scratch, dir| {
            let archives = download(scratch, Source::Unstable, &PACKAGES)?;
            let (root, tools) = (scratch.join("root"), scratch.join("tools"));
            unpack(&archives, &root)?;
            assemble(&root, &tools, dir)?;
            Ok(tools)
        })?;
        Ok(Toolbox { dir })
    }
}

/// A directory below `target_dir`'s `debian`, of the name that `name` gives it there. `make` makes it in a scratch directory,
/// once: later calls return what the first one left, and calls at the same time wait for it. It is told where it will be.
pub(crate) fn once(
    target_dir: &Path,
    name: impl FnOnce(&Path) -> String,
    make: impl FnOnce(&Path, &Path) -> Result<PathBuf, Unavailable>,
) -> Result<PathBuf, Unavailable> {
    let home = std::path::absolute(target_dir).map_err(within(target_dir))?.join("debian");
    let dir = home.join(name(&home));
    if dir.is_dir() {
        return Ok(dir);
    }
    for needed in [KEYRING, "/usr/bin/apt-get", "/usr/bin/dpkg-deb"] {
        if !Path::new(needed).exists() {
            return Err(Unavailable::NotDebian(needed.into()));
        }
    }
    fs::create_dir_all(&home).map_err(within(&home))?;
    let lock = fs::File::create(home.join("lock")).map_err(within(&home))?;
    lock.lock().map_err(within(&home))?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let scratch = tempfile::tempdir_in(&home).map_err(within(&home))?;
    let fresh = make(scratch.path(), &dir)?;
    fs::rename(&fresh, &dir).map_err(within(&dir))?;
    Ok(dir)
}

/// The toolbox's name. Its place is part of it, as the programs name their loader by absolute path.
fn stamp(home: &Path) -> String {
    let parts = PACKAGES.iter().chain(&PROGRAMS).map(|part| part.as_bytes());
    let all: Vec<&[u8]> = parts.chain([home.as_os_str().as_bytes()]).collect();
    let digest = sha256(&all.join(&0));
    format!("toolbox-{}", &digest[..12])
}

/// One of Debian's releases.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// The newest of everything.
    Unstable,
    /// A stable one by its name, with its security updates.
    Stable(&'static str),
}

impl Source {
    /// As apt's sources.list(5) has it.
    fn list(self) -> String {
        let mirror = mirror();
        match self {
            Self::Unstable => format!("deb [signed-by={KEYRING}] {mirror} sid main\n"),
            Self::Stable(name) => format!(
                "deb [signed-by={KEYRING}] {mirror} {name} main\ndeb [signed-by={KEYRING}] {SECURITY} {name}-security main\n"
            ),
        }
    }
}

/// Downloads packages and what they depend on, and returns the directory that they are in.
pub(crate) fn download(scratch: &Path, source: Source, packages: &[&str]) -> Result<PathBuf, Unavailable> {
    let write = |name: &str, text: &str| fs::write(scratch.join(name), text).map_err(within(scratch));
    for dir in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.join(dir)).map_err(within(scratch))?;
    }
    write("sources.list", &source.list())?;
    // An empty list of what is installed: every dependency is downloaded, whatever the machine has.
    write("state/status", "")?;
    write("apt.conf", &configuration(scratch))?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", scratch.join("apt.conf")).env("LC_ALL", "C");
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["install", "--yes", "--download-only"]).args(packages))?;
    Ok(scratch.join("cache/archives"))
}

/// Unpacks what was downloaded, over what is in `root` already.
pub(crate) fn unpack(archives: &Path, root: &Path) -> Result<(), Unavailable> {
    for archive in entries(archives)?.iter().filter(|path| has_extension(path, "deb")) {
        run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(root))?;
    }
    Ok(())
}

/// An apt configuration that shares with the machine's only how to reach the network: proxies and the like.
fn configuration(scratch: &Path) -> String {
    let dump = output(Command::new("apt-config").arg("dump")).unwrap_or_default();
    let mut text: String =
        dump.lines().filter(|line| line.starts_with("Acquire::")).fold(String::new(), |text, line| text + line + "\n");
    for key in [
        "Dir::Etc::parts",
        "Dir::Etc::main",
        "Dir::Etc::sourceparts",
        "Dir::Etc::preferences",
        "Dir::Etc::preferencesparts",
    ] {
        let _ = writeln!(text, "{key} \"/dev/null\";");
    }
    for (key, place) in [
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::State", "state"),
        ("Dir::State::status", "state/status"),
        ("Dir::Cache", "cache"),
    ] {
        let _ = writeln!(text, "{key} \"{}\";", scratch.join(place).display());
    }
    // The sandbox's user could not enter a build directory below a home directory.
    text + "APT::Sandbox::User \"root\";\n\
        APT::Install-Recommends \"false\";\n\
        APT::Update::Error-Mode \"any\";\n\
        Acquire::Languages \"none\";\n\
        Acquire::Retries \"1\";\n\
        Acquire::http::Timeout \"20\";\n\
        Acquire::https::Timeout \"20\";\n"
}

/// The mirror that the machine itself takes Debian from.
fn mirror() -> String {
    let known = output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"])).unwrap_or_default();
    choose_mirror(&known)
}

fn choose_mirror(addresses: &str) -> String {
    let debian = |address: &&str| address.starts_with("http") && address.trim_end_matches('/').ends_with("/debian");
    addresses.lines().find(debian).unwrap_or(MIRROR).to_owned()
}

/// Gathers programs and libraries from the unpacked packages into `tools`, which will later be at `home`.
fn assemble(root: &Path, tools: &Path, home: &Path) -> Result<(), Unavailable> {
    let (bin, lib) = (tools.join("bin"), tools.join("lib"));
    for dir in [&bin, &lib] {
        fs::create_dir_all(dir).map_err(within(dir))?;
    }
    let multiarch = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    for file in entries(&multiarch)? {
        let name = file.file_name().unwrap_or_default();
        if name.as_bytes().windows(3).any(|part| part == b".so") {
            fs::rename(&file, lib.join(name)).map_err(within(&file))?;
        }
    }
    let loader = loader(&lib)?;
    let home = home.join("lib");
    let patchelf = root.join("usr/bin/patchelf");
    for program in PROGRAMS {
        let from = root.join(program);
        let file = bin.join(from.file_name().unwrap_or_default());
        fs::rename(&from, &file).map_err(within(&from))?;
        // patchelf needs the packages' C library as well, and is not yet patched itself.
        let mut command = Command::new(lib.join(&loader));
        command.arg("--library-path").arg(&lib).arg(&patchelf);
        command.arg("--set-interpreter").arg(home.join(&loader));
        run(command.arg("--force-rpath").arg("--set-rpath").arg(&home).arg(&file))?;
    }
    let busybox = bin.join("busybox");
    fs::rename(root.join(BUSYBOX), &busybox).map_err(within(&busybox))?;
    // Whoever is not root builds, too, and a temporary directory is closed to others.
    fs::set_permissions(tools, fs::Permissions::from_mode(0o755)).map_err(within(tools))
}

/// The file name of the C library's loader among the libraries in `lib`.
pub(crate) fn loader(lib: &Path) -> Result<PathBuf, Unavailable> {
    let all = entries(lib)?;
    let names = all.iter().filter_map(|path| path.file_name());
    let mut loaders = names.filter(|name| name.as_bytes().starts_with(b"ld-linux"));
    let name = loaders.next().ok_or_else(|| Unavailable::NoLoader(lib.to_owned()))?;
    Ok(name.into())
}

pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Unavailable> {
    let list = fs::read_dir(dir).and_then(|list| list.map(|entry| Ok(entry?.path())).collect());
    list.map_err(within(dir))
}

pub(crate) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension() == Some(OsStr::new(extension))
}

pub(crate) fn within(path: &Path) -> impl FnOnce(io::Error) -> Unavailable {
    let path = path.to_owned();
    |source| Unavailable::Io { path, source }
}

pub(crate) fn run(command: &mut Command) -> Result<(), Unavailable> {
    output(command).map(drop)
}

pub(crate) fn output(command: &mut Command) -> Result<String, Unavailable> {
    let program = PathBuf::from(command.get_program());
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|source| Unavailable::Start { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // apt names the cause in its first error, and what came of it in the last.
    let errors = said.lines().find(|line| line.starts_with("E: "));
    let last = errors.or_else(|| said.lines().rev().find(|line| !line.trim().is_empty()));
    let first = command.get_args().next().unwrap_or_default();
    Err(Unavailable::Failed {
        command: format!("{} {}", command.get_program().display(), first.display()),
        said: last.unwrap_or("it said nothing").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_debian_mirror_is_preferred() {
        let addresses = "http://mirror.example/debian-security/\nhttps://mirror.example/debian/\n";
        assert_eq!(choose_mirror(addresses), "https://mirror.example/debian/");
    }

    #[test]
    fn without_a_debian_mirror_the_public_one_is_taken() {
        assert_eq!(choose_mirror("cdrom://debian/\nhttps://mirror.example/ubuntu/\n"), MIRROR);
    }

    #[test]
    fn a_moved_build_directory_has_another_toolbox() {
        assert_ne!(stamp(Path::new("/a/target/debian")), stamp(Path::new("/b/target/debian")));
    }

    #[test]
    fn a_failed_program_is_named_with_its_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh -c failed: last");
    }
}
