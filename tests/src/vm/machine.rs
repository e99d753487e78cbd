//! A machine with a real kernel, an IOMMU and GPUs in groups: qemu and the kernel are Debian's packages, unpacked into the
//! build's own directory, and the kernel's module that stands in for NVIDIA's is built with their compiler.
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;

use super::{
    card::{self, Kind},
    places::{AUDIO, CARD, CROWDED, FOREIGN, LONE, OTHER, PORTS, Place},
};
use crate::{
    debian::{Source, Unavailable, download, entries, loader, once, output, run, unpack, within},
    digest::sha256,
    image::base::RELEASE,
};

/// The machine, and what is made of the guest's files: always the newest, as GPUs over vfio-user are new in qemu.
const TOOLS: [&str; 4] = ["qemu-system-x86", "seabios", "busybox-static", "ca-certificates"];
/// The kernel, and what its modules are built with.
const KERNEL: [&str; 10] = [
    "linux-image-cloud-amd64",
    "linux-headers-cloud-amd64",
    "gcc",
    "make",
    "dash",
    "coreutils",
    "findutils",
    "grep",
    "mawk",
    "sed",
];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Of the kernel, in the order in which they need each other.
pub(crate) const MODULES: [&str; 5] = [
    "virt/lib/irqbypass.ko.xz",
    "drivers/vfio/vfio.ko.xz",
    "drivers/vfio/vfio_iommu_type1.ko.xz",
    "drivers/vfio/pci/vfio-pci-core.ko.xz",
    "drivers/vfio/pci/vfio-pci.ko.xz",
];
const NVIDIA: [(&str, &str); 2] = [
    ("nvidia.c", include_str!("../../nvidia-module/nvidia.c")),
    ("Kbuild", include_str!("../../nvidia-module/Kbuild")),
];
/// Builds modules in $2 with what is unpacked in $1, which is the only thing that the compiler sees; needs no root.
const BUILD: &str = r#"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/mnt"
exec chroot "$1" /usr/bin/make -C "/usr/src/linux-headers-$3" M=/mnt modules
"#;

/// Whose kernel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian's stable release.
    Stable,
    /// The newest that Debian has.
    Unstable,
}

/// The packages, unpacked; they stay as long as the build's directory does.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    tools: PathBuf,
    system: PathBuf,
    kernel: String,
}

impl Machine {
    /// Downloads and unpacks them below `target_dir`, once. Takes a minute and a network.
    pub(crate) fn fetch(target_dir: &Path, release: Release) -> Result<Self, Unavailable> {
        let source = match release {
            Release::Stable => Source::Stable(RELEASE),
            Release::Unstable => Source::Unstable,
        };
        let tools = unpacked(target_dir, "machine", Source::Unstable, &TOOLS)?;
        let system = unpacked(target_dir, "kernel", source, &KERNEL)?;
        let modules = system.join("usr/lib/modules");
        let kernel = entries(&modules)?.pop().and_then(|dir| Some(dir.file_name()?.to_str()?.to_owned()));
        let kernel = kernel.ok_or_else(|| Unavailable::NotDebian(modules.clone()))?;
        Ok(Self { tools, system, kernel })
    }

    /// One of the kernel's modules.
    pub(crate) fn module(&self, below: &str) -> PathBuf {
        self.system.join("usr/lib/modules").join(&self.kernel).join("kernel").join(below)
    }

    /// A program that needs no libraries and is most others.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.tools.join("usr/bin/busybox")
    }

    /// Certificates of well-known authorities, all in one: clients of API servers don't start without any.
    pub(crate) fn authorities(&self) -> Result<Vec<u8>, Unavailable> {
        let all = entries(&self.tools.join("usr/share/ca-certificates/mozilla"))?;
        let read = |file: &PathBuf| fs::read(file).map_err(within(file));
        Ok(all.iter().map(read).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The kernel itself, where either release has it.
    fn image(&self) -> PathBuf {
        let beside_modules = self.system.join("usr/lib/modules").join(&self.kernel).join("vmlinuz");
        if beside_modules.exists() {
            return beside_modules;
        }
        self.system.join("boot").join(format!("vmlinuz-{}", self.kernel))
    }

    /// Takes what is for debuggers out of a copy of a program: half of a debug build.
    pub(crate) fn strip(&self, program: &Path, copy: &Path) -> Result<(), Unavailable> {
        run(with_libraries(&self.system, "x86_64-linux-gnu-strip")?
            .arg("--strip-debug")
            .arg("-o")
            .arg(copy)
            .arg(program))
    }

    /// The module that stands in for NVIDIA's, built for this kernel once.
    pub(crate) fn nvidia(&self, target_dir: &Path) -> Result<PathBuf, Unavailable> {
        let all = [self.kernel.as_str(), BUILD, NVIDIA[0].1, NVIDIA[1].1].join("\0");
        let name = |_: &Path| format!("nvidia-{}", &sha256(all.as_bytes())[..12]);
        let dir = once(target_dir, name, |scratch, _| {
            let dir = scratch.join("module");
            fs::create_dir(&dir).map_err(within(&dir))?;
            for (name, text) in NVIDIA {
                fs::write(dir.join(name), text).map_err(within(&dir))?;
            }
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-ec", BUILD, "sh"]);
            run(command.arg(&self.system).arg(&dir).arg(&self.kernel))?;
            Ok(dir)
        })?;
        Ok(dir.join("nvidia.ko"))
    }

    /// Packs a directory into an archive as the kernel unpacks it at its start.
    pub(crate) fn pack(&self, dir: &Path, archive: &Path) -> Result<(), Unavailable> {
        let script = r#"cd "$2" && "$1" find . | "$1" cpio -o -H newc -R 0:0 > "$3""#;
        run(Command::new("sh").args(["-ec", script, "sh"]).arg(self.busybox()).arg(dir).arg(archive))
    }

    /// The machine before it is started; its cards are served from sockets in `dir`. What the guest writes to its second
    /// serial port is the command's output, what the kernel says is in `console`.
    pub(crate) fn start(&self, dir: &Path, start: &Start<'_>) -> Result<Command, Error> {
        let mut qemu = with_libraries(&self.tools, "qemu-system-x86_64")?;
        for place in ["usr/share/seabios", "usr/share/qemu"] {
            qemu.arg("-L").arg(self.tools.join(place));
        }
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "2G", "-smp", "2"]);
        qemu.args(["-machine", &format!("q35,kernel-irqchip=split,accel={}", start.accelerator), "-cpu", "max"]);
        qemu.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        let console = [OsString::from("file:"), start.console.into()].into_iter().collect::<OsString>();
        qemu.arg("-serial").arg(console).args(["-serial", "stdio"]);
        qemu.arg("-kernel").arg(self.image());
        qemu.arg("-initrd").arg(start.initramfs);
        qemu.args(["-append", "console=ttyS0 intel_iommu=on panic=-1"]);
        for port in 1..=PORTS {
            qemu.args(["-device", &format!("pcie-root-port,id=port{port},slot={port},chassis={port},addr={port:#x}")]);
        }
        qemu.args(["-device", &format!("pcie-pci-bridge,id=bridge,bus=port{}", CROWDED.port)]);
        qemu.args(["-device", &format!("virtio-rng-pci,bus=bridge,addr={}", FOREIGN.function)]);
        for (place, kind) in
            [(LONE, Kind::Gpu), (OTHER, Kind::Gpu), (CARD, Kind::Gpu), (AUDIO, Kind::Audio), (CROWDED, Kind::Gpu)]
        {
            let socket = dir.join(format!("{}.{}", place.port, place.function));
            card::serve(kind, &socket).map_err(|source| Error::Card { pci: place.pci, source })?;
            qemu.arg("-device").arg(plugged(place, &socket));
        }
        Ok(qemu)
    }
}

/// Packages of one release in a directory of their own, so that their programs find what they expect.
fn unpacked(target_dir: &Path, name: &str, source: Source, packages: &[&str]) -> Result<PathBuf, Unavailable> {
    let digest = sha256(format!("{source:?} {}", packages.join(" ")).as_bytes());
    let stamp = |_: &Path| format!("{name}-{}", &digest[..12]);
    once(target_dir, stamp, |scratch, _| {
        let archives = download(scratch, source, packages)?;
        let root = scratch.join("root");
        unpack(&archives, &root)?;
        for dir in ["dev", "proc", "mnt", "tmp"] {
            fs::create_dir(root.join(dir)).map_err(within(&root))?;
        }
        // What the packages' own scripts would have made.
        let links = ["bin", "sbin", "lib", "lib64"].map(|dir| (format!("usr/{dir}"), dir));
        for (to, link) in links.into_iter().chain([("mawk".to_owned(), "usr/bin/awk")]) {
            symlink(to, root.join(link)).map_err(within(&root))?;
        }
        Ok(root)
    })
}

/// One of the packages' programs with their own libraries.
fn with_libraries(root: &Path, program: &str) -> Result<Command, Unavailable> {
    let libraries = root.join(LIBRARIES);
    let mut command = Command::new(libraries.join(loader(&libraries)?));
    command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin").join(program));
    Ok(command)
}

/// How a machine is started.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// `tcg` or `kvm`.
    pub(crate) accelerator: &'a str,
    pub(crate) initramfs: &'a Path,
    /// Where what the kernel says goes.
    pub(crate) console: &'a Path,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The packages, or what is made of them.
    #[error(transparent)]
    Packages(#[from] Unavailable),
    /// One of its cards.
    #[error("the card at {pci} can't be served")]
    Card {
        /// Where it would be.
        pci: &'static str,
        /// Why.
        source: vfio_user::Error,
    },
}

fn plugged(place: Place, socket: &Path) -> String {
    let (bus, addr) = if place.port == CROWDED.port {
        ("bridge".to_owned(), place.function.to_string())
    } else {
        (format!("port{}", place.port), format!("0.{}", place.function))
    };
    let socket = serde_json::json!({"type": "unix", "path": socket});
    let has_more = place.port == CARD.port;
    serde_json::json!({
        "driver": "vfio-user-pci", "socket": socket, "bus": bus, "addr": addr, "multifunction": has_more
    })
    .to_string()
}

/// The libraries that a program of this machine is linked with, and their loader.
pub(crate) fn libraries(program: &Path) -> Result<Vec<PathBuf>, Unavailable> {
    let told = output(Command::new("ldd").arg(program))?;
    Ok(paths(&told))
}

/// Each line has a path, but that of the kernel's own library.
fn paths(told: &str) -> Vec<PathBuf> {
    told.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_that_are_files() {
        let told = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(paths(told), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
    }

    #[test]
    fn functions_of_one_card_are_in_one_slot_and_what_is_behind_the_bridge_is_not() {
        assert!(plugged(AUDIO, Path::new("/s")).contains(r#""addr":"0.1""#));
        let crowded = plugged(CROWDED, Path::new("/s"));
        assert!(crowded.contains(r#""addr":"1""#) && crowded.contains(r#""bus":"bridge""#), "{crowded}");
    }
}
