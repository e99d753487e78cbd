//! The kernel's side of a PCI function, as files of sysfs and devtmpfs have it.
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    system::finit_module,
};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
const COMPRESSED: i32 = 4;
const BUS: &str = "/sys/bus/pci";

/// Loads a module from a file.
pub(super) fn load(module: &Path) -> io::Result<()> {
    let is_compressed = module.extension().is_some_and(|extension| extension != "ko");
    Ok(finit_module(File::open(module)?, c"", if is_compressed { COMPRESSED } else { 0 })?)
}

/// A function's directory.
pub(super) fn dir(pci: &str) -> PathBuf {
    Path::new(BUS).join("devices").join(pci)
}

/// The driver that has a function.
pub(super) fn driver(pci: &str) -> Option<String> {
    target(&dir(pci).join("driver"))
}

/// The IOMMU group that a function is in.
pub(super) fn group(pci: &str) -> Option<u32> {
    target(&dir(pci).join("iommu_group"))?.parse().ok()
}

fn target(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

/// All functions of a group, in order.
pub(super) fn members(group: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/sys/kernel/iommu_groups/{group}/devices"));
    let mut names: Vec<String> =
        entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The node of a group.
pub(super) fn node(group: u32) -> PathBuf {
    Path::new("/dev/vfio").join(group.to_string())
}

/// Whether a path is a character device.
pub(super) fn is_device(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_char_device())
}

/// Says which driver alone may have a function; none says that any may.
pub(super) fn reserve(pci: &str, driver: Option<&str>) -> io::Result<()> {
    fs::write(dir(pci).join("driver_override"), format!("{}\n", driver.unwrap_or_default()))
}

/// The driver that alone may have a function, as the kernel writes it.
pub(super) fn reserved(pci: &str) -> io::Result<String> {
    Ok(fs::read_to_string(dir(pci).join("driver_override"))?.trim().to_owned())
}

/// Asks the drivers for one that takes a function.
pub(super) fn probe(pci: &str) -> io::Result<()> {
    fs::write(Path::new(BUS).join("drivers_probe"), pci)
}

/// Gives a function to a driver.
pub(super) fn bind(pci: &str, driver: &str) -> io::Result<()> {
    fs::write(Path::new(BUS).join("drivers").join(driver).join("bind"), pci)
}

/// Takes a function from a driver.
pub(super) fn unbind(pci: &str, driver: &str) -> io::Result<()> {
    fs::write(Path::new(BUS).join("drivers").join(driver).join("unbind"), pci)
}

/// Moves a function to a driver, as administrators do; how long it took.
pub(super) fn give(pci: &str, to: &str) -> io::Result<Duration> {
    let began = Instant::now();
    if let Some(now) = driver(pci) {
        unbind(pci, &now)?;
    }
    reserve(pci, Some(to))?;
    probe(pci)?;
    let took = began.elapsed();
    if driver(pci).as_deref() == Some(to) {
        return Ok(took);
    }
    Err(io::Error::other(format!("{pci} is with {:?} in place of {to}", driver(pci))))
}

/// Makes the nodes of NVIDIA's driver, as nvidia-modprobe does, from the numbers that the kernel gave out.
pub(super) fn make_nvidia_nodes(minors: u32) -> io::Result<()> {
    let devices = fs::read_to_string("/proc/devices")?;
    let major = |name: &str| {
        let mut pairs = devices.lines().filter_map(|line| line.trim().split_once(' '));
        let found = pairs.find(|(_, device)| *device == name).and_then(|(number, _)| number.parse::<u32>().ok());
        found.ok_or_else(|| io::Error::other(format!("/proc/devices has no {name}")))
    };
    let nvidia = major("nvidia")?;
    let numbered = (0..minors).map(|minor| (format!("nvidia{minor}"), nvidia, minor));
    let others = [("nvidia-uvm".to_owned(), major("nvidia-uvm")?, 0), ("nvidiactl".to_owned(), nvidia, 255)];
    for (name, major, minor) in numbered.chain(others) {
        let path = Path::new("/dev").join(name);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
    }
    Ok(())
}

/// The number of a refusal, by its name where it has a usual one.
pub(super) fn refusal(result: io::Result<()>) -> String {
    let Err(error) = result else { return "taken".to_owned() };
    let name = match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::BUSY) => "EBUSY",
        Some(rustix::io::Errno::NODEV) => "ENODEV",
        Some(rustix::io::Errno::INVAL) => "EINVAL",
        Some(rustix::io::Errno::PERM) => "EPERM",
        Some(rustix::io::Errno::NOENT) => "ENOENT",
        Some(rustix::io::Errno::IO) => "EIO",
        _ => return error.to_string(),
    };
    name.to_owned()
}
