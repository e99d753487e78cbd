//! Why a function doesn't change its kernel driver, and what to do about it.
use std::fmt;

use aliquot_model::PciAddress;
use rustix::io::Errno;

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It isn't on the bus.
    #[error(
        "{pci} is not on the PCI bus any more: see the kernel's log; a GPU that fell off the bus needs the node restarted"
    )]
    Gone {
        /// The function.
        pci: PciAddress,
    },
    /// Neither vfio nor the driver that it was to be taken from has it.
    #[error(
        "{pci} is with the kernel driver {driver}, which somebody else gave it: unbind it from there, and try again"
    )]
    Foreign {
        /// The function.
        pci: PciAddress,
        /// Whose it is.
        driver: String,
    },
    /// Somebody else has named its only driver.
    #[error(
        "somebody has reserved {pci} for the kernel driver {only} (its driver_override): if nobody needs that any more, write \
         an empty line to driver_override in its directory in sysfs, and try again"
    )]
    Overridden {
        /// The function.
        pci: PciAddress,
        /// For whom.
        only: String,
    },
    /// SR-IOV.
    #[error("{pci} is divided into {parts} virtual functions: write 0 to its sriov_numvfs in sysfs, and try again")]
    Divided {
        /// The function.
        pci: PciAddress,
        /// How many.
        parts: usize,
    },
    /// The driver isn't loaded.
    #[error(
        "{pci} can't be given to the kernel driver {driver}, which is not loaded: load it (modprobe {driver}), and try again"
    )]
    NoDriver {
        /// The function.
        pci: PciAddress,
        /// Which one.
        driver: String,
    },
    /// Somebody has it open.
    #[error("{pci} is in use by {}: end them, or wait until they have", Holders(by))]
    InUse {
        /// The function.
        pci: PciAddress,
        /// As far as is known.
        by: Vec<Holder>,
    },
    /// Who has it open can't be seen.
    #[error(
        "whether somebody uses {pci} can't be told: NVIDIA's driver has no unbindLock for it, and this driver doesn't see the \
         node's processes; give its pod hostPID, or take a later NVIDIA driver"
    )]
    Unseen {
        /// The function.
        pci: PciAddress,
    },
    /// This process's own NVML.
    #[error("{pci} can't be let go of by this driver's own NVML: {reason}; try again")]
    Held {
        /// The function.
        pci: PciAddress,
        /// What it said.
        reason: String,
    },
    /// The kernel hasn't finished.
    #[error(
        "the kernel is still at it for {pci}, since {seconds} s ago: {what}; if that never ends, see its log, and restart the node"
    )]
    UnderWay {
        /// The function.
        pci: PciAddress,
        /// What was written where.
        what: String,
        /// How long it has been.
        seconds: u64,
    },
    /// The kernel refuses.
    #[error("the kernel refuses for {pci}: {what}: {}; see its log", io(*errno))]
    Refused {
        /// The function.
        pci: PciAddress,
        /// What was written where.
        what: String,
        /// Why.
        errno: Errno,
    },
    /// It says that it did, and didn't.
    #[error("the kernel did nothing for {pci}: {what}; see its log")]
    NoEffect {
        /// The function.
        pci: PciAddress,
        /// What was written where.
        what: String,
    },
    /// The process that writes was ended by somebody.
    #[error("the process that was at it for {pci} was ended ({status}): {what}; try again")]
    Ended {
        /// The function.
        pci: PciAddress,
        /// What was written where.
        what: String,
        /// How.
        status: String,
    },
    /// It can't be begun.
    #[error("nothing can be written for {pci}: {reason}")]
    Helper {
        /// The function.
        pci: PciAddress,
        /// Why.
        reason: String,
    },
}

impl Trouble {
    /// Whether it passes by itself, so that another try may do.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::Held { .. } | Self::UnderWay { .. } | Self::Ended { .. } => true,
            Self::Refused { errno, .. } => [Errno::BUSY, Errno::AGAIN, Errno::INTR].contains(errno),
            Self::Gone { .. }
            | Self::Foreign { .. }
            | Self::Overridden { .. }
            | Self::Divided { .. }
            | Self::NoDriver { .. }
            | Self::Unseen { .. }
            | Self::NoEffect { .. }
            | Self::Helper { .. } => false,
        }
    }
}

/// A process that has a device open.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its number in the node's procfs.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
}

struct Holders<'a>(&'a [Holder]);

/// As many as fit into an Event.
const SHOWN: usize = 5;

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("somebody who can't be seen from here (persistence mode counts as well)");
        }
        for (at, Holder { pid, name }) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{name} (process {pid})", if at == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn io(errno: Errno) -> std::io::Error {
    errno.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_a_gpu_is_named_and_passes() {
        let pci = "0000:41:00.0".parse().unwrap();
        let holder = |pid| Holder { pid, name: "python3".to_owned() };
        let trouble = Trouble::InUse { pci, by: vec![holder(7), holder(8)] };
        let expected =
            "0000:41:00.0 is in use by python3 (process 7), python3 (process 8): end them, or wait until they have";
        assert_eq!(trouble.to_string(), expected);
        assert!(trouble.is_transient());
        let many = Trouble::InUse { pci, by: (0..9).map(holder).collect() }.to_string();
        assert!(many.contains("(process 4) and 4 more"), "{many}");
        assert!(Trouble::InUse { pci, by: vec![] }.to_string().contains("persistence mode"));
    }

    #[test]
    fn a_kernel_that_is_busy_may_not_be_the_next_time() {
        let refused = |errno| Trouble::Refused {
            pci: "0000:41:00.0".parse().unwrap(),
            what: "0000:41:00.0 to bind of vfio-pci".into(),
            errno,
        };
        assert!(refused(Errno::BUSY).is_transient() && !refused(Errno::NODEV).is_transient());
        assert!(refused(Errno::BUSY).to_string().contains("Device or resource busy"));
    }
}
