//! Which devices of a GPU a container has asked for so far: the hook runs once for each, and the limit is their sum. Pure.
use std::collections::BTreeMap;

use aliquot_model::{GpuUuid, Memory};

use super::{cgroup::Cgroup, grant::Grant};

/// A claim's UID, and a device's name in its CDI spec.
pub(super) type Device = (String, String);

/// The limits that this driver has set, by container and GPU.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<(Cgroup, GpuUuid), Entry>);

/// One container's devices of one GPU.
#[derive(Debug, Default, Clone)]
pub(super) struct Entry {
    /// What a driver before this one had set.
    earlier: Memory,
    devices: BTreeMap<Device, Memory>,
}

impl Entry {
    /// A container of which only the limit that it has is known.
    ///
    /// One that leaves no room for what is to be added isn't this driver's: NVIDIA's may tell of a cgroup without a limit
    /// that it has all of the GPU, or what a cgroup above it has.
    pub(super) fn with(earlier: Option<Memory>, grant: &Grant) -> Self {
        let earlier = earlier.filter(|earlier| earlier.plus(grant.memory) <= grant.of);
        Self { earlier: earlier.unwrap_or_default(), devices: BTreeMap::new() }
    }

    /// With one device more; one that asks again counts once.
    pub(super) fn and(mut self, device: Device, memory: Memory) -> Self {
        self.devices.insert(device, memory);
        self
    }

    /// What the container may have.
    pub(super) fn limit(&self) -> Memory {
        self.devices.values().fold(self.earlier, |sum, memory| sum.plus(*memory))
    }
}

impl Ledger {
    /// What is known of a container.
    pub(super) fn entry(&self, cgroup: &Cgroup, gpu: &GpuUuid) -> Option<Entry> {
        self.0.get(&(cgroup.clone(), gpu.clone())).cloned()
    }

    /// Notes what was set.
    pub(super) fn note(&mut self, cgroup: Cgroup, gpu: GpuUuid, entry: Entry) {
        self.0.insert((cgroup, gpu), entry);
    }

    /// Forgets containers that have ended.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Cgroup) -> bool) {
        self.0.retain(|(cgroup, _), _| is_there(cgroup));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_add_up_and_one_that_asks_again_counts_once() {
        let device = |name: &str| ("u1".to_owned(), name.to_owned());
        let gib = |gib: u64| Memory::from_bytes(gib << 30);
        let entry = Entry::default().and(device("a"), gib(8)).and(device("b"), gib(4)).and(device("a"), gib(8));
        assert_eq!(entry.limit(), gib(12));
        let grant = Grant { gpu: "GPU-0".parse().unwrap(), memory: gib(4), of: gib(80) };
        for (earlier, limit) in
            [(Some(gib(8)), gib(12)), (Some(gib(76)), gib(80)), (Some(gib(80)), gib(4)), (None, gib(4))]
        {
            assert_eq!(Entry::with(earlier, &grant).and(device("b"), gib(4)).limit(), limit, "{earlier:?}");
        }
    }
}
