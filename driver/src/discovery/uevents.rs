//! Wakes discovery when the kernel says that a PCI function or a node of VFIO comes, goes, or changes its driver.
//!
//! Of a driver that is taken from a function no file tells that could be watched: sysfs has no inotify. The kernel's uevents
//! do; since Linux 4.18 they reach each network namespace that belongs to the host's user namespace, a pod's as well.
use std::{io, time::Duration};

use aliquot_nvml::Session;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_KOBJECT_UEVENT};
use rustix::io::Errno;

/// The kernel's group; what udev has made of an event is told in another.
const KERNEL: u32 = 1;
/// None of the kernel's is longer: 2 KiB of variables, and a path.
const LONGEST: usize = 8 << 10;
/// A GPU comes with several events, and all that a machine has with thousands; they are taken as one change.
const SETTLE: Duration = Duration::from_millis(300);
/// What never settles is looked at all the same.
const OVERDUE: Duration = Duration::from_secs(3);

/// Listens to the kernel.
pub(super) struct Uevents {
    /// None where there is no such socket to be had.
    socket: Option<TokioSocket>,
    /// What has come and was not told yet: whoever waits may leave at any time.
    pending: Option<Session>,
}

impl Uevents {
    /// For this process's network namespace.
    pub(super) fn listen() -> Self {
        let socket = open()
            .inspect_err(|error| {
                tracing::warn!(%error, "the kernel's events can't be heard; a GPU that changes its driver is noticed by its \
                    nodes, or with the next reading");
            })
            .ok();
        Self { socket, pending: None }
    }

    /// Returns after a change once nothing more has changed for a moment, or after a while if that doesn't end; with what
    /// NVML needs to notice it.
    pub(super) async fn woken(&mut self) -> Session {
        let Self { socket: Some(socket), pending } = self else { return std::future::pending().await };
        if pending.is_none() {
            *pending = next(socket).await;
            if pending.is_none() {
                self.socket = None;
                return std::future::pending().await;
            }
        }
        let settling = async {
            while let Ok(Some(more)) = tokio::time::timeout(SETTLE, next(socket)).await {
                if more == Session::Renew {
                    *pending = Some(more);
                }
            }
        };
        let _ = tokio::time::timeout(OVERDUE, settling).await;
        pending.take().unwrap_or(Session::Keep)
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_KOBJECT_UEVENT)?;
    socket.socket_mut().bind(&SocketAddr::new(0, KERNEL))?;
    Ok(socket)
}

/// The next event that matters; none where nothing can be heard any more.
async fn next(socket: &mut TokioSocket) -> Option<Session> {
    let mut event = Vec::with_capacity(LONGEST);
    loop {
        event.clear();
        match socket.recv_from(&mut event).await {
            // Programs with CAP_NET_ADMIN can send as well; only the kernel has no port.
            Ok(from) if from.port_number() != 0 => {}
            Ok(_) => {
                if let Some(session) = matter(&event) {
                    return Some(session);
                }
            }
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            // More has come than fits, and what is lost may have mattered.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return Some(Session::Renew),
            Err(error) => {
                tracing::warn!(%error, "the kernel's events can't be heard any more");
                return None;
            }
        }
    }
}

/// Whether an event is about what discovery reads, and what NVML needs to see it: it learns of GPUs that its module was given
/// in a new session only.
fn matter(event: &[u8]) -> Option<Session> {
    let variable = |name: &str| {
        let mut all = event.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
        all.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let comes_or_goes = matches!(variable("ACTION")?, "add" | "remove" | "bind" | "unbind");
    let is_nvidias = || variable("PCI_ID").is_some_and(|id| id.starts_with("10DE:"));
    match variable("SUBSYSTEM")? {
        "pci" if comes_or_goes && is_nvidias() => Some(Session::Renew),
        // It may be in a GPU's IOMMU group.
        "pci" | "vfio" | "vfio-dev" if comes_or_goes => Some(Session::Keep),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(fields: &[&str]) -> Vec<u8> {
        let mut all = b"bind@/devices/pci0000:40/0000:41:00.0\0".to_vec();
        all.extend(fields.iter().flat_map(|field| field.bytes().chain([0])));
        all
    }

    #[test]
    fn a_gpu_that_changes_its_driver_matters_and_what_else_a_machine_does_is_none_of_ours() {
        let pci = |action: &str, id: &str| matter(&event(&[action, "SUBSYSTEM=pci", id, "DRIVER=vfio-pci"]));
        for action in ["ACTION=bind", "ACTION=unbind", "ACTION=add", "ACTION=remove"] {
            assert_eq!(pci(action, "PCI_ID=10DE:2330"), Some(Session::Renew), "{action}");
            assert_eq!(pci(action, "PCI_ID=8086:1572"), Some(Session::Keep), "{action}");
        }
        assert_eq!(pci("ACTION=change", "PCI_ID=10DE:2330"), None);
        assert_eq!(matter(&event(&["ACTION=add", "SUBSYSTEM=vfio"])), Some(Session::Keep));
        assert_eq!(matter(&event(&["ACTION=remove", "SUBSYSTEM=vfio-dev"])), Some(Session::Keep));
        for foreign in
            [&["ACTION=add", "SUBSYSTEM=net"][..], &["ACTION=add", "XSUBSYSTEM=pci"], &["SUBSYSTEM=pci"], &[]]
        {
            assert_eq!(matter(&event(foreign)), None, "{foreign:?}");
        }
    }

    #[tokio::test]
    async fn what_somebody_else_sends_in_the_kernels_name_wakes_nobody() {
        let mut uevents = Uevents::listen();
        let Some(socket) = &mut uevents.socket else { return };
        let mut ours = SocketAddr::new(0, 0);
        socket.socket_mut().get_address(&mut ours).unwrap();
        let sender = netlink_sys::Socket::new(NETLINK_KOBJECT_UEVENT).unwrap();
        let event = event(&["ACTION=bind", "SUBSYSTEM=pci", "PCI_ID=10DE:2330"]);
        // Without rights the kernel doesn't even take it.
        let _ = sender.send_to(&event, &ours, 0);
        assert!(tokio::time::timeout(2 * SETTLE, uevents.woken()).await.is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_judged(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = matter(&bytes);
        }
    }
}
