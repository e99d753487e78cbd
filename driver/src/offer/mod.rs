//! What this node offers: inventory and policy as the devices and counters of one pool. Pure.
//!
//! ```text
//! Gpu + Policy ─> Whole ───┐ draw on one counter set (KEP-4815), so a scheduler takes either
//!              ├> Shared ──┘ (several allocations with a part of the capacity each, KEP-5075)
//!              └> Admin: for claims with admin access (KEP-5018), draws on nothing
//! Vfio + Policy ─> Vfio: the GPUs of an IOMMU group for a virtual machine
//! ```
//! What excludes what is in the slice, and not in code. Where an API server doesn't store that ([`Layout::Fixed`]), the
//! policy says whether a GPU is whole or a fixed number of shares.
mod attributes;
pub mod described;
mod devices;
pub(crate) mod evicted;
mod health;
pub(crate) mod taints;

use std::collections::{BTreeMap, BTreeSet};

use aliquot_model::{Binding, DeviceName, Gpu, GpuUuid, Inventory, Memory, Part, Vfio};
use aliquot_params::policy::{self, Form, GpuFault, Order, Policy, Shares};
pub(crate) use devices::slot_memory;
use dra_plugin::{
    DriverName,
    slices::{InvalidName, NodeName, PoolName},
};
pub use health::health;
use k8s_openapi::api::resource::v1::{CounterSet, Device};

/// The pool's name: unique over all drivers, since schedulers before the middle of 2026 key their counter cache by the
/// pool's name alone.
pub fn pool_name(driver: &DriverName, node: &NodeName) -> Result<PoolName, InvalidName> {
    PoolName::new(format!("{driver}/{node}"))
}

/// How a GPU can be offered, as far as the API server stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Whole and shared at once.
    Counters,
    /// Whole, or a fixed number of shares which are devices of their own.
    Fixed,
}

/// What claims on this node hold of one device, all together; a claim for administration holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The GPU.
    pub gpu: GpuUuid,
    /// The device.
    pub device: DeviceName,
    /// How many shares, where it is shared.
    pub shares: u32,
    /// How much memory in these, where it is shared.
    pub memory: Memory,
}

/// What there is to publish.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Offered {
    /// The devices, in the order in which a scheduler is to try them.
    pub devices: Vec<Device>,
    /// The counters on which they draw.
    pub counters: Vec<CounterSet>,
    /// GPUs that the policy doesn't fit, and which are therefore not offered.
    pub faults: Vec<GpuFault>,
    /// GPUs that are to be offered otherwise once their holders have left.
    pub waiting: Vec<GpuUuid>,
}

impl Offered {
    /// Whether it can be had only from an API server that stores shared counters or several allocations.
    pub fn needs_counters(&self) -> bool {
        !self.counters.is_empty() || self.devices.iter().any(|device| device.allow_multiple_allocations == Some(true))
    }
}

/// What is offered of the inventory.
///
/// Of a GPU of which claims hold a device that is no longer to be offered, nothing is offered until they have left. Those
/// claims need no device in a slice: a scheduler looks only at the node of what is allocated (`Filter` of its plugin
/// `dynamicresources`), and so does the kubelet; who is to be evicted is in `evicted`. But whatever is there of the GPU goes to the
/// next, as soon as a claim is gone from the API server while its containers still run here.
pub fn offered(inventory: &Inventory, policy: &Policy, holdings: &[Holding], layout: Layout) -> Offered {
    let mut offered = Offered::default();
    let mut shared: Vec<(u32, Device)> = Vec::new();
    let mut others: Vec<Device> = Vec::new();
    let mut admins: Vec<Device> = Vec::new();
    for gpu in inventory.gpus() {
        let held = held(holdings, gpu);
        let wanted = match policy.for_gpu(gpu) {
            Ok(offer) => wanted(&offer, layout),
            Err(fault) => {
                offered.faults.push(fault);
                Wanted::default()
            }
        };
        if wanted.is_offered() || !held.is_empty() {
            admins.push(devices::admin(gpu));
        }
        let leaving = held.iter().any(|(part, room)| !wanted.has(*part, room.memory));
        if leaving {
            offered.waiting.push(gpu.uuid.clone());
            continue;
        }
        let both = wanted.whole && wanted.shared.is_some();
        if both {
            offered.counters.push(devices::counter_set(gpu));
        }
        if wanted.whole {
            others.push(devices::whole(gpu, both));
        }
        if let Some(shares) = &wanted.shared {
            let used = if shares.order == Order::Spread { held.values().map(|held| held.shares).sum() } else { 0 };
            shared.push((used, devices::shared(gpu, shares, both)));
        }
        if let Some(shares) = &wanted.slots {
            let numbers = (0..shares.count).filter_map(|number| u16::try_from(number).ok());
            others.extend(numbers.map(|number| devices::slot(gpu, number, shares)));
        }
    }
    let passed = inventory.vfio().iter().filter(|vfio| is_passed(vfio, policy, holdings));
    others.extend(passed.map(devices::vfio));
    // Schedulers take the first that fits: shares from one end and whole GPUs from the other, so that they meet last.
    shared.sort_by(|(used, a), (more, b)| (used, &a.name).cmp(&(more, &b.name)));
    others.sort_by(by_kind_and_place);
    offered.devices = shared.into_iter().map(|(_, device)| device).chain(others).chain(admins).collect();
    offered
}

/// What is wanted of one GPU.
#[derive(Debug, Default)]
struct Wanted {
    whole: bool,
    shared: Option<Shares>,
    slots: Option<Shares>,
}

impl Wanted {
    fn is_offered(&self) -> bool {
        self.whole || self.shared.is_some() || self.slots.is_some()
    }

    /// Whether a part that is held is one that is offered.
    fn has(&self, part: Part, memory: Memory) -> bool {
        match part {
            Part::Whole => self.whole,
            Part::Shared => self.shared.is_some(),
            // Claims for administration hold nothing, and what a virtual machine has is none of NVIDIA's driver's.
            Part::Admin | Part::Vfio => true,
            // Larger ones beside those that are offered would be more than the GPU has.
            Part::Slot(number) => {
                self.slots.is_some_and(|shares| u32::from(number) < shares.count && memory == slot_memory(&shares))
            }
        }
    }
}

fn wanted(offer: &policy::Offer, layout: Layout) -> Wanted {
    let policy::Offer { whole, shares, fallback, .. } = *offer;
    match (layout, whole, shares) {
        (Layout::Counters, whole, shared) => Wanted { whole, shared, slots: None },
        (Layout::Fixed, true, Some(slots)) if fallback == Form::Shares => {
            Wanted { slots: Some(slots), ..Wanted::default() }
        }
        (Layout::Fixed, false, slots) => Wanted { slots, ..Wanted::default() },
        (Layout::Fixed, true, _) => Wanted { whole: true, ..Wanted::default() },
    }
}

/// Whether virtual machines may have it as it is; what one holds is there as long as it is held.
fn is_passed(vfio: &Vfio, policy: &Policy, holdings: &[Holding]) -> bool {
    let is_held = || holdings.iter().any(|holding| holding.device == vfio.name());
    let is_meant = || vfio.gpus().all(|gpu| policy.passes(gpu));
    vfio.binding == Binding::Bound && (is_meant() || is_held())
}

/// The parts of a GPU that claims hold.
fn held<'a>(holdings: &'a [Holding], gpu: &Gpu) -> BTreeMap<Part, &'a Holding> {
    let of_gpu = holdings.iter().filter(|holding| holding.gpu == gpu.uuid);
    of_gpu.filter_map(|holding| Some((holding.device.part_of(gpu.pci)?, holding))).collect()
}

/// Whole GPUs last and from the highest place down; the rest by place.
fn by_kind_and_place(a: &Device, b: &Device) -> std::cmp::Ordering {
    let is_whole = |device: &Device| kind(device) == Some("gpu");
    match (is_whole(a), is_whole(b)) {
        (true, true) => b.name.cmp(&a.name),
        (a_is, b_is) => a_is.cmp(&b_is).then_with(|| natural(&a.name).cmp(&natural(&b.name))),
    }
}

fn kind(device: &Device) -> Option<&str> {
    device.attributes.as_ref()?.get("type")?.string.as_deref()
}

/// Slot 10 comes after slot 9.
fn natural(name: &str) -> (&str, u16) {
    let numbered = name.rsplit_once('-').and_then(|(stem, number)| Some((stem, number.parse().ok()?)));
    numbered.unwrap_or((name, 0))
}

/// The names of all devices in the pool, for what is told about them.
fn names(offered: &Offered) -> BTreeSet<&str> {
    offered.devices.iter().map(|device| device.name.as_str()).collect()
}

#[cfg(test)]
pub(crate) mod tests;
