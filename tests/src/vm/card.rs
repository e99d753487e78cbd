//! A function of one of NVIDIA's cards as far as the PCI bus sees it: configuration space and regions, served to the machine
//! over vfio-user.
//!
//! The machine's kernel finds the ids of an H100 and binds drivers to it as to a real one. Behind its regions is nothing:
//! they read as zeros.
use std::{fs::File, io, path::Path};

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

/// Of a PCI Express function.
const CONFIG_SIZE: usize = 4096;
/// Where the capability of PCI Express begins.
const EXPRESS: usize = 0x40;
const FIRST_BAR: usize = 0x10;
const BARS: usize = 6;

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An H100.
    Gpu,
    /// The audio that comes with a graphics card.
    Audio,
}

impl Kind {
    /// Vendor and device, by pci.ids.
    fn ids(self) -> [u16; 2] {
        match self {
            Self::Gpu => [0x10de, 0x2330],
            Self::Audio => [0x10de, 0x22bb],
        }
    }

    /// Programming interface, subclass, class.
    fn class(self) -> [u8; 3] {
        match self {
            Self::Gpu => [0x00, 0x02, 0x03],
            Self::Audio => [0x00, 0x03, 0x04],
        }
    }

    /// The sizes of its regions: powers of two, and 0 where there is none. The second one is of 64 bits and takes two places.
    fn regions(self) -> [u32; BARS] {
        match self {
            Self::Gpu => [16 << 20, 256 << 20, 0, 0, 0, 0],
            Self::Audio => [16 << 10, 0, 0, 0, 0, 0],
        }
    }
}

/// Its configuration space, and what of that can be written.
struct Function {
    kind: Kind,
    config: Vec<u8>,
    writable: Vec<u8>,
}

impl Function {
    fn new(kind: Kind) -> Self {
        let mut function = Self { kind, config: vec![0; CONFIG_SIZE], writable: vec![0; CONFIG_SIZE] };
        let [vendor, device] = kind.ids();
        function.set(0x00, &vendor.to_le_bytes());
        function.set(0x02, &device.to_le_bytes());
        // Its status says that there is a list of capabilities, and where that begins.
        function.set(0x06, &[0x10, 0x00]);
        function.set(0x34, &[EXPRESS.to_le_bytes()[0]]);
        function.set(0x09, &kind.class());
        function.set(0x2c, &vendor.to_le_bytes());
        function.set(0x2e, &device.to_le_bytes());
        // PCI Express, version 2, an endpoint that can be reset by itself.
        function.set(EXPRESS, &[0x10, 0x00, 0x02, 0x00]);
        function.set(EXPRESS + 4, &(1_u32 << 28 | 1 << 15).to_le_bytes());
        function.allow(EXPRESS + 8, &[0xff, 0x7f]);
        // Memory, mastery and interrupts on and off.
        function.allow(0x04, &[0x06, 0x04]);
        function.allow(0x3c, &[0xff]);
        function.settle_regions();
        function
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.config[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }

    /// What a write leaves of a region's address: multiples of its size, and what kind of region it is.
    fn settle_regions(&mut self) {
        let sizes = self.kind.regions();
        for (index, size) in sizes.into_iter().enumerate() {
            let at = FIRST_BAR + 4 * index;
            let is_upper_half = index == 2 && sizes[1] > 0;
            let kept = if is_upper_half { u32::MAX } else { 0_u32.wrapping_sub(size) };
            self.allow(at, &kept.to_le_bytes());
            if index == 1 && size > 0 {
                // Of 64 bits, and without side effects.
                self.config[at] = 0x0c;
            }
        }
    }

    fn read(&self, offset: usize, data: &mut [u8]) -> Option<()> {
        data.copy_from_slice(self.config.get(offset..offset.checked_add(data.len())?)?);
        Some(())
    }

    fn write(&mut self, offset: usize, data: &[u8]) -> Option<()> {
        let end = offset.checked_add(data.len())?;
        let places = self.config.get_mut(offset..end)?.iter_mut().zip(self.writable.get(offset..end)?);
        for ((place, writable), byte) in places.zip(data) {
            *place = *place & !writable | byte & writable;
        }
        Some(())
    }
}

impl ServerBackend for Function {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(0);
        if region == VFIO_PCI_CONFIG_REGION_INDEX {
            usize::try_from(offset).ok().and_then(|offset| self.read(offset, data)).ok_or_else(outside)?;
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if region == VFIO_PCI_CONFIG_REGION_INDEX {
            usize::try_from(offset).ok().and_then(|offset| self.write(offset, data)).ok_or_else(outside)?;
        }
        Ok(())
    }

    fn dma_map(&mut self, _: DmaMapFlags, _: u64, _: u64, _: u64, _: Option<File>) -> io::Result<()> {
        Ok(())
    }

    fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        *self = Self::new(self.kind);
        Ok(())
    }

    fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> io::Result<()> {
        Ok(())
    }
}

fn outside() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "outside of the configuration space")
}

/// Serves a function at a socket, to one machine and until that ends.
pub(crate) fn serve(kind: Kind, socket: &Path) -> Result<(), vfio_user::Error> {
    let argsz = u32::try_from(size_of::<vfio_region_info>()).unwrap_or_default();
    let sizes = kind.regions();
    let region = |index| {
        let size = if index == VFIO_PCI_CONFIG_REGION_INDEX {
            CONFIG_SIZE as u64
        } else {
            sizes.get(index as usize).copied().unwrap_or_default().into()
        };
        let flags = if size > 0 { VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE } else { 0 };
        let region_info = vfio_region_info { argsz, flags, index, size, ..vfio_region_info::default() };
        ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
    };
    let interrupts = (0..VFIO_PCI_NUM_IRQS).map(|index| IrqInfo { index, flags: 0, count: 0 }).collect();
    let server = Server::new(socket, true, interrupts, (0..VFIO_PCI_NUM_REGIONS).map(region).collect())?;
    std::thread::spawn(move || {
        if let Err(error) = server.run(&mut Function::new(kind)) {
            tracing::warn!(%error, "a card's connection broke");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(function: &Function, at: usize) -> u32 {
        let mut bytes = [0; 4];
        function.read(at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn the_kernel_finds_an_h100_and_its_audio() {
        let gpu = Function::new(Kind::Gpu);
        assert_eq!((word(&gpu, 0x00), word(&gpu, 0x08) >> 8), (0x2330_10de, 0x03_0200));
        let audio = Function::new(Kind::Audio);
        assert_eq!((word(&audio, 0x00), word(&audio, 0x08) >> 8), (0x22bb_10de, 0x04_0300));
    }

    #[test]
    fn whoever_asks_for_a_regions_size_gets_it_and_can_place_it() {
        let mut gpu = Function::new(Kind::Gpu);
        for (at, answer) in [(0x10, 0xff00_0000), (0x14, 0xf000_000c), (0x18, 0xffff_ffff), (0x1c, 0)] {
            gpu.write(at, &u32::MAX.to_le_bytes()).unwrap();
            assert_eq!(word(&gpu, at), answer, "{at:#x}");
        }
        gpu.write(0x10, &0xfb00_0000_u32.to_le_bytes()).unwrap();
        assert_eq!(word(&gpu, 0x10), 0xfb00_0000);
    }

    #[test]
    fn what_it_is_cannot_be_written_and_nothing_is_outside() {
        let mut gpu = Function::new(Kind::Gpu);
        gpu.write(0, &[0; 4]).unwrap();
        assert_eq!(word(&gpu, 0), 0x2330_10de);
        assert!(gpu.write(CONFIG_SIZE - 1, &[0; 2]).is_none());
        assert!(gpu.read(usize::MAX, &mut [0; 2]).is_none());
    }
}
