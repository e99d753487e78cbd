//! The PCI bus: what becomes of a write to one of its files (drivers/base/bus.c, drivers/pci/pci-driver.c).
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fake_nvml::{Away, GpuProfile, Persistence};
use rustix::io::Errno;

use super::{Shared, wait_until};
use crate::node::Node;

const NVIDIA: &str = "nvidia";
const VFIO: &str = "vfio-pci";
/// Which driver takes a function by itself, by the beginning of its class.
const NATIVE: [(&str, &str); 4] =
    [("0x0300", NVIDIA), ("0x0302", NVIDIA), ("0x0403", "snd_hda_intel"), ("0x0c03", "xhci_hcd")];

/// The files of the bus and of the functions that are plugged in.
pub(super) fn lay_out(node: &Node) -> io::Result<()> {
    let bus = node.path("sys/bus/pci");
    for driver in NATIVE.iter().map(|(_, driver)| *driver).chain([VFIO]) {
        let dir = bus.join("drivers").join(driver);
        fs::create_dir_all(&dir)?;
        for file in ["bind", "unbind"] {
            fs::write(dir.join(file), "")?;
        }
    }
    fs::write(bus.join("drivers_probe"), "")?;
    for entry in fs::read_dir(bus.join("devices"))? {
        let entry = entry?;
        let (dir, pci) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if dir.join("vendor").exists() {
            fs::write(dir.join("driver_override"), "(null)\n")?;
            fs::write(dir.join("reset"), "")?;
            if node.driver_of(&pci).as_deref() == Some(NVIDIA) && gpu(node, &pci).is_some() {
                set_lock(node, &pci, false)?;
            }
        }
    }
    Ok(())
}

/// The functions that drivers can have.
pub(super) fn functions(node: &Node) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(node.path("sys/bus/pci/devices"))?.flatten();
    let plugged = entries.filter(|entry| entry.path().join("driver_override").exists());
    Ok(plugged.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// A function as the kernel has it when it starts.
pub(super) fn start_over(shared: &Shared, pci: &str) -> Result<(), Errno> {
    let node = &shared.node;
    put(&node.function(pci).join("driver_override"), "(null)")?;
    let (has, native) = (node.driver_of(pci), candidate(node, pci));
    if has != native {
        if let Some(driver) = has {
            unbind(shared, pci, &driver)?;
        }
        if let Some(native) = &native {
            bind(shared, pci, native)?;
        }
    }
    if native.as_deref() == Some(NVIDIA) {
        lock(shared, pci, false)?;
    }
    Ok(())
}

/// What is written to a file `file` in a directory `of`.
pub(super) fn write(shared: &Shared, of: &str, file: &str, value: &str) -> Result<(), Errno> {
    let node = &shared.node;
    match file {
        "unbind" if node.driver_of(value).as_deref() == Some(of) => unbind(shared, value, of),
        "bind" if candidate(node, value).as_deref() != Some(of) => Err(Errno::NODEV),
        "bind" if node.driver_of(value).is_some() => Err(Errno::BUSY),
        "bind" => bind(shared, value, of),
        "drivers_probe" if node.function(value).exists() => match candidate(node, value) {
            Some(fit) if node.driver_of(value).is_none() => bind(shared, value, &fit),
            _ => Ok(()),
        },
        "unbind" | "drivers_probe" => Err(Errno::NODEV),
        "driver_override" => put(&node.function(of).join(file), if value.is_empty() { "(null)" } else { value }),
        "unbindLock" => lock(shared, of, value == "1"),
        "reset" => Ok(()),
        _ => Err(Errno::INVAL),
    }
}

/// A function falls off the bus.
pub(super) fn vanish(shared: &Shared, pci: &str) -> io::Result<()> {
    let node = &shared.node;
    if let Some(group) = group(node, pci) {
        fs::remove_file(node.path("sys/kernel/iommu_groups").join(group.to_string()).join("devices").join(pci))?;
    }
    set_away(node, pci, true)?;
    fs::remove_file(node.function(pci))
}

fn unbind(shared: &Shared, pci: &str, from: &str) -> Result<(), Errno> {
    let node = &shared.node;
    let nodes = vfio_nodes(node, pci);
    // The link goes before the driver is asked.
    node.bind(pci, "").map_err(|_| Errno::IO)?;
    if from == NVIDIA {
        // "Attempting to remove device … with non-zero usage count".
        wait_until(shared, || !is_in_use(node, pci));
        set_away(node, pci, true).map_err(|_| Errno::IO)?;
        shared.lock().locked.remove(pci);
        let _ = fs::remove_dir_all(node.path("proc/driver/nvidia/gpus").join(pci));
    }
    if from == VFIO {
        wait_until(shared, || !is_open(&nodes));
        close_vfio(node, pci).map_err(|_| Errno::IO)?;
    }
    Ok(())
}

fn bind(shared: &Shared, pci: &str, to: &str) -> Result<(), Errno> {
    let node = &shared.node;
    let done = || -> io::Result<()> {
        node.bind(pci, to)?;
        if to == NVIDIA && gpu(node, pci).is_some() {
            set_away(node, pci, false)?;
            set_lock(node, pci, false)?;
        }
        if to == VFIO {
            let (has_devices, number) = {
                let mut state = shared.lock();
                state.devices += 1;
                (state.has_devices, state.devices)
            };
            if has_devices {
                node.open_device(pci, number)?;
            }
            if let Some(group) = group(node, pci) {
                node.open_group(group)?;
            }
        }
        Ok(())
    };
    done().map_err(|_| Errno::IO)
}

/// The driver that a function goes to, of those that are loaded.
fn candidate(node: &Node, pci: &str) -> Option<String> {
    let dir = node.function(pci);
    let text = |file: &str| fs::read_to_string(dir.join(file)).map(|text| text.trim().to_owned()).unwrap_or_default();
    let (only, class) = (text("driver_override"), text("class"));
    let native = NATIVE.iter().find(|(begin, _)| class.starts_with(begin)).map(|(_, driver)| (*driver).to_owned());
    let fit = if only.is_empty() || only == "(null)" { native } else { Some(only) };
    fit.filter(|driver| node.path("sys/bus/pci/drivers").join(driver).exists())
}

/// NVIDIA's lock on a GPU, which it gives only where nobody has it open.
fn lock(shared: &Shared, pci: &str, on: bool) -> Result<(), Errno> {
    let is_free = !is_in_use(&shared.node, pci);
    let mut state = shared.lock();
    if on && is_free {
        state.locked.insert(pci.to_owned());
    } else if !on {
        state.locked.remove(pci);
    }
    let is_locked = state.locked.contains(pci);
    set_lock(&shared.node, pci, is_locked).map_err(|_| Errno::IO)
}

fn set_lock(node: &Node, pci: &str, on: bool) -> io::Result<()> {
    let dir = node.path("proc/driver/nvidia/gpus").join(pci);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("unbindLock"), if on { "1\n" } else { "0\n" })
}

/// Whether NVML lists it.
fn set_away(node: &Node, pci: &str, is_away: bool) -> io::Result<()> {
    let Some(gpu) = gpu(node, pci) else { return Ok(()) };
    let mut away = Away::beside(&node.control_file());
    if is_away {
        away.0.insert(gpu.uuid.clone())
    } else {
        away.0.remove(&gpu.uuid)
    };
    away.keep(&node.control_file())
}

fn is_in_use(node: &Node, pci: &str) -> bool {
    let Some(gpu) = gpu(node, pci) else { return false };
    let persists = Persistence::beside(&node.control_file()).0.contains(&gpu.uuid);
    persists || is_open(&[node.path("dev").join(format!("nvidia{}", gpu.minor))])
}

/// Whether any process of this machine has one of these open.
fn is_open(nodes: &[PathBuf]) -> bool {
    let real: Vec<PathBuf> = nodes.iter().filter_map(|node| node.canonicalize().ok()).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let open = processes.flat_map(|process| fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten());
    let mut targets = open.filter_map(|open| fs::read_link(open.path()).ok());
    targets.any(|target| real.contains(&target))
}

fn vfio_nodes(node: &Node, pci: &str) -> Vec<PathBuf> {
    let dir = node.path("dev/vfio");
    let devices = fs::read_dir(node.function(pci).join("vfio-dev")).into_iter().flatten().flatten();
    let devices = devices.map(|device| dir.join("devices").join(device.file_name()));
    devices.chain(group(node, pci).map(|group| dir.join(group.to_string()))).collect()
}

/// The nodes of a function that vfio has no longer; a group's goes with the last of its functions.
fn close_vfio(node: &Node, pci: &str) -> io::Result<()> {
    let dir = node.function(pci).join("vfio-dev");
    for device in fs::read_dir(&dir).into_iter().flatten().flatten() {
        fs::remove_file(node.path("dev/vfio/devices").join(device.file_name()))?;
    }
    let _ = fs::remove_dir_all(dir);
    let Some(group) = group(node, pci) else { return Ok(()) };
    let members = node.path("sys/kernel/iommu_groups").join(group.to_string()).join("devices");
    let mut members = fs::read_dir(members)?.flatten().map(|member| member.file_name());
    let is_last = !members.any(|member| node.driver_of(&member.to_string_lossy()).as_deref() == Some(VFIO));
    if is_last { node.close_group(group) } else { Ok(()) }
}

fn group(node: &Node, pci: &str) -> Option<u32> {
    name(&node.function(pci).join("iommu_group"))?.parse().ok()
}

fn name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn gpu<'a>(node: &'a Node, pci: &str) -> Option<&'a GpuProfile> {
    node.profile().gpus.iter().find(|gpu| gpu.pci == pci)
}

fn put(path: &Path, text: &str) -> Result<(), Errno> {
    fs::write(path, format!("{text}\n")).map_err(|_| Errno::IO)
}
