//! What an allocated claim gets on this node. Pure: allocation, parameters, inventory and policy in, devices to hold out.
use std::collections::BTreeMap;

use aliquot_model::{Binding, DeviceName, Gpu, GpuUuid, Inventory, Memory, Part, Taken, Vfio};
use aliquot_params::{
    Faults, TimeSlice,
    policy::{Policy, Shares},
};
use dra_plugin::{AllocatedClaim, ConfigSource, DeviceResult};

use super::{
    record::{Held, Passed, Room, Share, Slice},
    settings,
};
use crate::offer;

/// Whose claims are planned: names that are the same for the life of the process.
#[derive(Debug, Clone)]
pub struct Site {
    /// The node's pool.
    pub pool: String,
    /// `vendor/class` of the devices in claims' CDI specs.
    pub cdi_kind: cdi_spec::Kind,
}

/// Why an allocation can't be had on this node. The text ends in an event on the pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The scheduler named another pool.
    #[error(
        "device {device} was allocated from pool {pool}, but this node serves pool {ours}: delete the claim (or its pod) to have it allocated anew"
    )]
    OtherPool {
        /// In the allocation.
        device: String,
        /// In the allocation.
        pool: String,
        /// This node's.
        ours: String,
    },
    /// The GPU isn't there (any more).
    #[error(
        "device {device} is not on this node: the GPU was removed or no longer answers (see the node's events); delete the claim (or its pod) to have it allocated anew"
    )]
    NoSuchDevice {
        /// In the allocation.
        device: String,
    },
    /// One claim got one device twice.
    #[error(
        "device {device} was allocated twice in this claim, to requests {first} and {second}, but has room for one holder; delete the claim (or its pod) to have it allocated anew"
    )]
    Twice {
        /// In the allocation.
        device: DeviceName,
        /// In the allocation.
        first: String,
        /// In the allocation.
        second: String,
    },
    /// One claim got a GPU in two forms.
    #[error(
        "{first} and {second} were both allocated to this claim, but they are one GPU, which is whole, shared, or a virtual machine's; delete the claim (or its pod) to have it allocated anew"
    )]
    TwoForms {
        /// In the allocation.
        first: DeviceName,
        /// In the allocation.
        second: DeviceName,
    },
    /// One claim got more of a GPU than there is.
    #[error(
        "device {device} was allocated to this claim with {} shares and {} of memory, but it offers {} shares and {}; delete the claim (or its pod) to have it allocated anew",
        taken.shares, taken.memory, offered.shares, offered.memory
    )]
    TooMuch {
        /// In the allocation.
        device: DeviceName,
        /// By all requests of the claim together.
        taken: Room,
        /// All that there is.
        offered: Room,
    },
    /// Somebody's parameters are wrong.
    #[error("the parameters for {driver} in the {source_of} are wrong: {faults}")]
    Parameters {
        /// Whose parameters they are.
        driver: String,
        /// Class or claim.
        source_of: ConfigSource,
        /// All that is wrong.
        faults: Faults,
    },
    /// Parameters of a whole GPU for a share, or the other way round.
    #[error(
        "the parameters for {driver} in the {source_of} are a {kind}, but request {request} got {device}, which takes a {needed}"
    )]
    WrongKind {
        /// Whose parameters they are.
        driver: String,
        /// Class or claim.
        source_of: ConfigSource,
        /// What was written.
        kind: &'static str,
        /// For which request.
        request: String,
        /// In the allocation.
        device: DeviceName,
        /// What can be written.
        needed: &'static str,
    },
    /// One claim wants two things of one GPU.
    #[error(
        "the claim asks for time slices {first} and {second} on one GPU, {gpu}, which can have one only; ask for one in its parameters"
    )]
    TwoTimeSlices {
        /// The GPU.
        gpu: GpuUuid,
        /// Of one of its requests.
        first: TimeSlice,
        /// Of another one.
        second: TimeSlice,
    },
    /// A claim without admin access got a device that is for administration.
    #[error(
        "device {device} is only for claims with adminAccess: true; ask for class gpu.aliquot.dev or share.gpu.aliquot.dev instead, or set adminAccess in a namespace with the label resource.kubernetes.io/admin-access: \"true\""
    )]
    AdminOnly {
        /// In the allocation.
        device: DeviceName,
    },
    /// What a virtual machine would get can't be given away.
    #[error(
        "device {device} can't be given to a virtual machine: {reason}; mend that on the node, or delete the claim (or its pod) to have it allocated anew"
    )]
    NotPassable {
        /// In the allocation.
        device: DeviceName,
        /// Why not.
        reason: String,
    },
    /// A claim for administration got what only one can have.
    #[error(
        "device {device} has one user, a virtual machine, and is nothing for adminAccess: leave that out, or ask for class admin.gpu.aliquot.dev"
    )]
    NoAdmin {
        /// In the allocation.
        device: DeviceName,
    },
    /// A CDI name can't be made of the claim's UID.
    #[error("{0}")]
    Name(#[from] cdi_spec::InvalidName),
}

/// Plans every device of the claim, in the order of the allocation.
pub(super) fn plan(
    claim: &AllocatedClaim,
    inventory: &Inventory,
    policy: &Policy,
    site: &Site,
) -> Result<Vec<Held>, Fault> {
    let mut first_of: BTreeMap<DeviceName, String> = BTreeMap::new();
    let mut slice_of: BTreeMap<GpuUuid, TimeSlice> = BTreeMap::new();
    let mut plan = Vec::with_capacity(claim.results.len());
    for result in &claim.results {
        let held = plan_device(claim, result, inventory, policy, site)?;
        if let Some(slice) = held.time_slice.filter(|slice| slice.asked)
            && let Some(first) = slice_of.insert(held.gpu.clone(), slice.interval)
            && first != slice.interval
        {
            return Err(Fault::TwoTimeSlices { gpu: held.gpu, first, second: slice.interval });
        }
        let exclusive = !held.admin_access && held.share.is_none_or(|share| share.alone);
        if exclusive && let Some(first) = first_of.insert(held.device.clone(), held.request.clone()) {
            return Err(Fault::Twice { device: held.device, first, second: held.request });
        }
        plan.push(held);
    }
    fits(&plan)?;
    Ok(plan)
}

/// A claim alone gets no more of a GPU than there is; what others hold is the records' business.
fn fits(plan: &[Held]) -> Result<(), Fault> {
    for (at, held) in plan.iter().enumerate().filter(|(_, held)| held.vfio.is_some()) {
        if let Some((_, other)) = plan.iter().enumerate().find(|(n, other)| *n != at && held.meets(other)) {
            return Err(Fault::TwoForms { first: held.device.clone(), second: other.device.clone() });
        }
    }
    let mut of_gpu: BTreeMap<&GpuUuid, (&Held, Room)> = BTreeMap::new();
    for held in plan.iter().filter(|held| !held.admin_access) {
        let (first, taken) = of_gpu.entry(&held.gpu).or_insert((held, Room::default()));
        if first.share.is_some() != held.share.is_some() {
            return Err(Fault::TwoForms { first: first.device.clone(), second: held.device.clone() });
        }
        let Some(share) = held.share else { continue };
        *taken = taken.plus(share.takes);
        if !taken.fits_into(share.of) {
            return Err(Fault::TooMuch { device: held.device.clone(), taken: *taken, offered: share.of });
        }
    }
    Ok(())
}

fn plan_device(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    inventory: &Inventory,
    policy: &Policy,
    site: &Site,
) -> Result<Held, Fault> {
    if result.pool != site.pool {
        let (device, pool) = (result.device.clone(), result.pool.clone());
        return Err(Fault::OtherPool { device, pool, ours: site.pool.clone() });
    }
    let missing = || Fault::NoSuchDevice { device: result.device.clone() };
    let device: DeviceName = result.device.parse().map_err(|_| missing())?;
    if let Some(vfio) = inventory.passthrough(&device) {
        let taken = taken(vfio, inventory, policy, &device)?;
        return plan_vfio(claim, result, device, vfio, taken, site);
    }
    let (gpu, part) = inventory.device(&device).ok_or_else(missing)?;
    if part == Part::Admin && !result.admin_access {
        return Err(Fault::AdminOnly { device });
    }
    let is_share = matches!(part, Part::Shared | Part::Slot(_));
    let shares = is_share.then(|| shares_of(gpu, policy)).flatten();
    let wish = settings::time_slice(claim, result, &device, part, site)?;
    let by_policy = shares.map(|shares| shares.time_slice).filter(|interval| *interval != TimeSlice::Default);
    let by_policy = by_policy.map(|interval| Slice { interval, asked: false, required: false });
    Ok(Held {
        request: result.request.base().to_owned(),
        pool: result.pool.clone(),
        gpu: gpu.uuid.clone(),
        minor: Some(gpu.minor),
        admin_access: result.admin_access,
        share_id: result.share_id.clone(),
        share: shares.map(|shares| share(result, part, &shares, gpu)),
        // Whoever only looks at a GPU must not set it up (KEP-5018).
        time_slice: wish.or(by_policy).filter(|_| !result.admin_access),
        vfio: None,
        cdi_id: cdi_id(claim, &device, result.share_id.as_deref(), site)?,
        device,
    })
}

/// What has to be taken from the host's kernel drivers before a virtual machine can have a group; nothing, if it can.
fn taken(vfio: &Vfio, inventory: &Inventory, policy: &Policy, device: &DeviceName) -> Result<Option<Taken>, Fault> {
    let refused = |reason: String| Fault::NotPassable { device: device.clone(), reason };
    let gpus = inventory.of_group(vfio);
    match (&vfio.binding, gpus) {
        (Binding::Unusable(reason), _) => Err(refused(reason.clone())),
        (Binding::Bound, None) => Ok(None),
        (Binding::Switchable, None) => {
            Err(refused(format!("no vfio driver of the kernel has the GPU at {}", vfio.gpu.pci)))
        }
        (Binding::Bound | Binding::Switchable, Some(gpus)) => {
            let by = gpus.iter().map(|gpu| policy.takes(gpu)).collect::<Option<Vec<_>>>();
            let by = by.and_then(|all| all.first().copied()).ok_or_else(|| {
                let place = vfio.gpu.pci;
                refused(format!(
                    "NVIDIA's driver has the GPU at {place}, and the policy doesn't say vfio.binding: dynamic"
                ))
            })?;
            let gpus = gpus.into_iter().cloned().collect();
            Ok(Some(Taken { by: by.to_owned(), functions: vfio.functions.clone(), gpus }))
        }
    }
}

fn plan_vfio(
    claim: &AllocatedClaim,
    result: &DeviceResult,
    device: DeviceName,
    vfio: &Vfio,
    taken: Option<Taken>,
    site: &Site,
) -> Result<Held, Fault> {
    if result.admin_access {
        return Err(Fault::NoAdmin { device });
    }
    Ok(Held {
        request: result.request.base().to_owned(),
        pool: result.pool.clone(),
        gpu: GpuUuid::of_place(vfio.gpu.pci),
        minor: None,
        admin_access: false,
        share_id: result.share_id.clone(),
        share: None,
        time_slice: None,
        vfio: Some(Passed {
            group: vfio.group,
            gpus: vfio.gpus().map(|gpu| gpu.pci).collect(),
            iommu: settings::iommu(claim, result, &device, site)?,
            taken,
        }),
        cdi_id: cdi_id(claim, &device, result.share_id.as_deref(), site)?,
        device,
    })
}

/// How a GPU is shared; where the policy no longer says so, as it is without a policy.
fn shares_of(gpu: &Gpu, policy: &Policy) -> Option<Shares> {
    let of = |policy: &Policy| policy.for_gpu(gpu).ok()?.shares;
    of(policy).or_else(|| of(&Policy::default()))
}

fn share(result: &DeviceResult, part: Part, shares: &Shares, gpu: &Gpu) -> Share {
    let of = Room { shares: shares.count, memory: shares.memory };
    let (takes, alone) = match part {
        Part::Slot(_) => (Room { shares: 1, memory: offer::slot_memory(shares) }, true),
        // A scheduler that allocated it without an account of shares took it for a device like any other.
        _ if result.consumed_capacity.is_empty() => (of, true),
        _ => {
            let count = result.consumed("shares").map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX));
            let memory = Memory::from_bytes(result.consumed("memory").unwrap_or_default());
            (Room { shares: count, memory }, false)
        }
    };
    // Whoever only looks at a GPU has no part of its memory.
    let hard = gpu.hard_limits && !result.admin_access && takes.memory.bytes() > 0;
    Share { takes, of, alone, hard }
}

/// Unique on the node, also where one claim gets several shares of a device.
fn cdi_id(claim: &AllocatedClaim, device: &DeviceName, share: Option<&str>, site: &Site) -> Result<String, Fault> {
    let share = share.map(|share| format!("-{share}")).unwrap_or_default();
    let name = cdi_spec::DeviceName::new(format!("{}-{device}{share}", claim.claim.uid()))?;
    Ok(site.cdi_kind.qualified(&name))
}

#[cfg(test)]
mod tests;
