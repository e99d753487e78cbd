//! What is plugged in where in the machine: the one that starts it and the one that looks from inside agree on this.

/// A function of a card behind one of the root ports, which are numbered from 1 on as their buses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The root port.
    pub(crate) port: u8,
    /// The function's number.
    pub(crate) function: u8,
    /// As the kernel writes it.
    pub(crate) pci: &'static str,
}

/// A GPU with a group of its own.
pub(crate) const LONE: Place = Place { port: 1, function: 0, pci: "0000:01:00.0" };
/// Another one.
pub(crate) const OTHER: Place = Place { port: 2, function: 0, pci: "0000:02:00.0" };
/// A GPU, and its card's audio in the same group.
pub(crate) const CARD: Place = Place { port: 3, function: 0, pci: "0000:03:00.0" };
pub(crate) const AUDIO: Place = Place { port: 3, function: 1, pci: "0000:03:00.1" };
/// A GPU behind a bridge to PCI, with which it shares its group; its number is that of its slot there.
pub(crate) const CROWDED: Place = Place { port: 4, function: 1, pci: "0000:05:01.0" };
/// What else is behind that bridge: a source of randomness, which the host uses.
pub(crate) const FOREIGN: Place = Place { port: 4, function: 2, pci: "0000:05:02.0" };

/// How many root ports there are.
pub(crate) const PORTS: u8 = 4;
