//! How much each claim uses of a GPU: pure, from what was read of the GPU, procfs and the claims.
use std::collections::{BTreeMap, BTreeSet};

use aliquot_model::{GpuUuid, Memory};
use dra_plugin::ClaimRef;

use super::{
    process::{Origin, Ticks},
    types::{GpuProcess, GuardPolicy, Holding, Key, Pid, Pod},
};

/// One GPU's processes that were still there when procfs was asked for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The GPU.
    pub gpu: GpuUuid,
    /// Its processes.
    pub processes: Vec<(GpuProcess, Origin)>,
    /// Those that are there and that procfs doesn't know.
    pub untraced: Vec<GpuProcess>,
}

/// What is used of each GPU that could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attribution {
    /// By whom.
    pub shares: BTreeMap<Key, Share>,
    /// By nobody that is known to hold a share of it, as far as it is known how much.
    pub unattributed: BTreeMap<GpuUuid, Memory>,
}

/// What is used of the shares of some claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// By all pods together.
    pub used: Memory,
    /// What they may use.
    pub limit: Memory,
    /// What happens beyond it.
    pub policy: GuardPolicy,
    /// The processes of which the use is known, with their pods.
    pub processes: BTreeMap<Pid, ProcessUse>,
}

/// What one process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessUse {
    /// When it was started.
    pub start: Ticks,
    /// Its pod.
    pub pod: Pod,
    /// Its memory.
    pub used: Memory,
}

/// Adds up what each claim uses.
///
/// A pod with several claims on a GPU may use their sum; which process uses which claim can't be told. So each set of
/// claims that some pod holds is one key, and every pod that holds nothing beyond this set counts: what they use
/// together can only come from these claims. Where such sets overlap, the union is a key as well, so that no excess
/// hides between them; there a process counts under each key that it must fit into.
pub fn attribute(readings: &[Located], holdings: &[Holding]) -> Attribution {
    let mut attribution = Attribution::default();
    for reading in readings {
        let held: Vec<&Holding> = holdings.iter().filter(|holding| holding.gpu == reading.gpu).collect();
        attribute_gpu(reading, &held, &mut attribution);
    }
    attribution
}

/// What a pod holds of a GPU.
struct Holder {
    pod: Pod,
    claims: BTreeSet<ClaimRef>,
}

fn attribute_gpu(reading: &Located, held: &[&Holding], attribution: &mut Attribution) {
    let holders = holders(held);
    let mut shares: BTreeMap<BTreeSet<ClaimRef>, Share> =
        keys(held, &holders).into_iter().filter_map(|claims| Some((claims.clone(), empty(&claims, held)?))).collect();
    let mut nobody = Memory::from_bytes(0);
    for (pid, (used, origin)) in once_each(reading) {
        let Some(used) = used else { continue };
        let holder = origin.and_then(|origin| Some((origin, holders.get(origin.pod.as_ref()?.as_str())?)));
        let Some((origin, holder)) = holder else {
            nobody = nobody.plus(used);
            continue;
        };
        for (_, share) in shares.iter_mut().filter(|(claims, _)| holder.claims.is_subset(claims)) {
            share.used = share.used.plus(used);
            share.processes.insert(pid, ProcessUse { start: origin.start, pod: holder.pod.clone(), used });
        }
    }
    let gpu = &reading.gpu;
    attribution.shares.extend(shares.into_iter().map(|(claims, share)| (Key { gpu: gpu.clone(), claims }, share)));
    attribution.unattributed.insert(gpu.clone(), nobody);
}

/// By UID, since another namespace may have a pod of that name.
fn holders<'a>(held: &[&'a Holding]) -> BTreeMap<&'a str, Holder> {
    let mut holders = BTreeMap::new();
    for holding in held {
        for pod in &holding.pods {
            let holder = holders.entry(pod.uid.as_str()).or_insert_with(|| Holder {
                pod: Pod {
                    namespace: holding.claim.namespace().to_owned(),
                    name: pod.name.clone(),
                    uid: pod.uid.clone(),
                },
                claims: BTreeSet::new(),
            });
            holder.claims.insert(holding.claim.clone());
        }
    }
    holders
}

/// The sets of claims of which the use is measured.
fn keys(held: &[&Holding], holders: &BTreeMap<&str, Holder>) -> BTreeSet<BTreeSet<ClaimRef>> {
    let mut unions: Vec<BTreeSet<ClaimRef>> = Vec::new();
    let alone = held.iter().map(|holding| BTreeSet::from([holding.claim.clone()]));
    for mut claims in holders.values().map(|holder| holder.claims.clone()).chain(alone) {
        unions.retain(|union| {
            let apart = union.is_disjoint(&claims);
            if !apart {
                claims.extend(union.iter().cloned());
            }
            apart
        });
        unions.push(claims);
    }
    holders.values().map(|holder| holder.claims.clone()).chain(unions).collect()
}

/// The share of these claims, with nothing used.
fn empty(claims: &BTreeSet<ClaimRef>, held: &[&Holding]) -> Option<Share> {
    let held = || held.iter().filter(|holding| claims.contains(&holding.claim));
    Some(Share {
        used: Memory::from_bytes(0),
        limit: held().map(|holding| holding.limit).sum(),
        // It is the GPU's, and so that of all.
        policy: held().next()?.guard,
        processes: BTreeMap::new(),
    })
}

/// NVML lists a process that computes and draws twice, with the same memory.
fn once_each(reading: &Located) -> BTreeMap<Pid, (Option<Memory>, Option<&Origin>)> {
    let mut once: BTreeMap<Pid, (Option<Memory>, Option<&Origin>)> = BTreeMap::new();
    let traced = reading.processes.iter().map(|(process, origin)| (process, Some(origin)));
    for (process, origin) in traced.chain(reading.untraced.iter().map(|process| (process, None))) {
        let entry = once.entry(process.pid).or_insert((process.used, origin));
        entry.0 = entry.0.max(process.used);
    }
    once
}

#[cfg(test)]
#[path = "attribute_tests.rs"]
mod tests;
