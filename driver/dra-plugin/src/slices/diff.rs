//! What has to be written so that the slices that are become the slices that should be. Pure.
use k8s_openapi::{
    api::resource::v1::{ResourceSlice, ResourceSliceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{names, semantic};

/// What to write, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Slices that are nobody's: of another pool, an earlier generation, or a second one in the same place.
    pub(super) deletes: Vec<ObjectMeta>,
    /// Slices with their new spec, and the resource version that was seen.
    pub(super) updates: Vec<ResourceSlice>,
    /// Slices that are missing, with their place in the pool.
    pub(super) creates: Vec<(usize, ResourceSliceSpec)>,
    /// Of the whole pool, once all is written.
    pub(super) generation: i64,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.updates.is_empty() && self.creates.is_empty()
    }
}

/// A write that the API server took, though it did not store all of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Echo {
    /// What was sent.
    pub(super) sent: ResourceSliceSpec,
    /// What it stored instead.
    pub(super) stored: ResourceSliceSpec,
}

/// Compares `desired`, whose generations are zero, with all slices of this driver on this node.
///
/// The generation stays if one update of one slice is enough, which no reader can see half-done; otherwise it is one more
/// than any before, in all slices (KEP-4381). `last` is the highest that was ever published.
pub(super) fn diff(desired: &[ResourceSliceSpec], current: &[&ResourceSlice], echoes: &[Echo], last: i64) -> Plan {
    let pool = desired.first().map(|spec| spec.pool.name.as_str()).unwrap_or_default();
    let (ours, others): (Vec<&ResourceSlice>, Vec<&ResourceSlice>) =
        current.iter().copied().partition(|slice| slice.spec.pool.name == pool);
    let newest = ours.iter().map(|slice| slice.spec.pool.generation).max();
    let mut deletes: Vec<ObjectMeta> = others.into_iter().map(|slice| slice.metadata.clone()).collect();
    let mut places: Vec<Option<&ResourceSlice>> = vec![None; desired.len()];
    for slice in ours {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let place = names::index_of(name).and_then(|index| places.get_mut(index));
        match place {
            Some(place @ None) if Some(slice.spec.pool.generation) == newest && !is_leaving(slice) => {
                *place = Some(slice);
            }
            // It will be gone by itself, and until then a second one may stand beside it.
            _ if is_leaving(slice) => {}
            _ => deletes.push(slice.metadata.clone()),
        }
    }
    let differs = |place: Option<&ResourceSlice>, spec: &ResourceSliceSpec| {
        place.is_some_and(|slice| !same(spec, &slice.spec, echoes))
    };
    let changed = places.iter().zip(desired).filter(|(place, spec)| differs(**place, spec)).count();
    let missing = places.iter().filter(|place| place.is_none()).count();
    let stays = missing == 0 && changed <= 1;
    let newest = newest.unwrap_or_default().max(last);
    let generation = if stays { newest } else { newest + 1 };

    let mut plan = Plan { deletes, generation, ..Plan::default() };
    for (index, (place, spec)) in places.iter().zip(desired).enumerate() {
        match place {
            Some(slice) if !stays || differs(*place, spec) => {
                plan.updates.push(updated(slice, with_generation(spec, generation)));
            }
            Some(_) => {}
            None => plan.creates.push((index, with_generation(spec, generation))),
        }
    }
    plan
}

/// The spec with the generation that its pool has.
fn with_generation(spec: &ResourceSliceSpec, generation: i64) -> ResourceSliceSpec {
    let mut spec = spec.clone();
    spec.pool.generation = generation;
    spec
}

fn updated(slice: &ResourceSlice, mut spec: ResourceSliceSpec) -> ResourceSlice {
    semantic::keep_taint_times(&mut spec, &slice.spec);
    ResourceSlice { metadata: slice.metadata.clone(), spec }
}

fn is_leaving(slice: &ResourceSlice) -> bool {
    slice.metadata.deletion_timestamp.is_some()
}

/// Whether `stored` is as good as `desired`, whatever its generation: it means the same, or it is all that this API server
/// stores of it.
fn same(desired: &ResourceSliceSpec, stored: &ResourceSliceSpec, echoes: &[Echo]) -> bool {
    let alike = semantic::is_same;
    alike(desired, stored) || echoes.iter().any(|echo| alike(desired, &echo.sent) && alike(&echo.stored, stored))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slices::{
        Pool, desired,
        testing::{driver, node, pool},
    };

    fn specs(pool: &Pool) -> Vec<ResourceSliceSpec> {
        desired::slices(&driver(), &node(), pool)
    }

    /// What the API server would then have.
    fn apply(plan: &Plan, current: &[ResourceSlice]) -> Vec<ResourceSlice> {
        let mut slices: Vec<ResourceSlice> =
            current.iter().filter(|slice| !plan.deletes.contains(&slice.metadata)).cloned().collect();
        for update in &plan.updates {
            for slice in slices.iter_mut().filter(|slice| slice.metadata == update.metadata) {
                *slice = update.clone();
            }
        }
        for (index, spec) in &plan.creates {
            let name = format!("{}x{}", names::generate_name(*index, "d", "n"), slices.len());
            let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
            slices.push(ResourceSlice { metadata, spec: spec.clone() });
        }
        slices
    }

    fn step(pool: &Pool, current: &[ResourceSlice], last: i64) -> Plan {
        diff(&specs(pool), &current.iter().collect::<Vec<_>>(), &[], last)
    }

    fn many(count: usize) -> Pool {
        let names: Vec<String> = (0..count).map(|n| format!("gpu-{n}")).collect();
        pool(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_published_is_written_once() {
        let plan = step(&many(200), &[], 0);
        assert_eq!((plan.creates.len(), plan.generation), (2, 1));
        let slices = apply(&plan, &[]);
        assert!(step(&many(200), &slices, 1).is_empty());
    }

    #[test]
    fn a_change_in_one_slice_keeps_the_generation_and_more_raise_it_in_all() {
        let slices = apply(&step(&many(200), &[], 0), &[]);
        let mut one = many(200);
        one.devices[0].allow_multiple_allocations = Some(true);
        let plan = step(&one, &slices, 1);
        assert_eq!((plan.updates.len(), plan.generation), (1, 1));
        let plan = step(&many(100), &slices, 1);
        assert_eq!((plan.deletes.len(), plan.updates.len()), (1, 1));
        let plan = step(&many(300), &slices, 1);
        assert_eq!((plan.updates.len(), plan.creates.len(), plan.generation), (2, 1, 2));
        assert!(plan.updates.iter().all(|slice| slice.spec.pool.generation == 2));
    }

    #[test]
    fn after_a_wipe_the_generation_goes_on() {
        let plan = step(&many(1), &[], 7);
        assert_eq!((plan.creates.len(), plan.generation), (1, 8));
    }

    #[test]
    fn leftovers_of_other_pools_names_and_generations_are_deleted() {
        let mut slices = apply(&step(&many(1), &[], 0), &[]);
        let mut stranger = slices[0].clone();
        stranger.metadata.name = Some("node-1-gpu.example.com-abcde".into());
        let mut other_pool = slices[0].clone();
        other_pool.metadata.name = Some("00000-other".into());
        other_pool.spec.pool.name = "old".into();
        let mut second = slices[0].clone();
        second.metadata.name = Some("00000-second".into());
        let mut older = slices[0].clone();
        older.metadata.name = Some("00000-older".into());
        older.spec.pool.generation = 0;
        slices.extend([stranger, other_pool, second, older]);
        let plan = step(&many(1), &slices, 1);
        assert_eq!((plan.deletes.len(), plan.updates.len(), plan.creates.len()), (4, 0, 0));
    }

    #[test]
    fn what_the_api_server_drops_is_not_sent_again_and_again() {
        let mut shared = many(1);
        shared.devices[0].allow_multiple_allocations = Some(true);
        let stored = apply(&step(&many(1), &[], 0), &[]);
        let echo = Echo { sent: specs(&shared).remove(0), stored: stored[0].spec.clone() };
        let current: Vec<&ResourceSlice> = stored.iter().collect();
        assert!(!diff(&specs(&shared), &current, &[], 1).is_empty());
        assert!(diff(&specs(&shared), &current, &[echo], 1).is_empty());
    }

    proptest! {
        #[test]
        fn from_any_state_one_round_leads_to_rest(before in 0usize..400, after in 0usize..400, wiped: bool) {
            let slices = apply(&step(&many(before), &[], 0), &[]);
            let slices: Vec<_> = slices.into_iter().filter(|_| !wiped).collect();
            let plan = step(&many(after), &slices, 1);
            let slices = apply(&plan, &slices);
            prop_assert!(step(&many(after), &slices, plan.generation).is_empty());
            let devices: usize = slices.iter().map(|slice| slice.spec.devices.as_ref().map_or(0, Vec::len)).sum();
            prop_assert_eq!(devices, after);
            prop_assert!(slices.iter().all(|slice| slice.spec.pool.generation == plan.generation
                && usize::try_from(slice.spec.pool.resource_slice_count).unwrap() == slices.len()));
        }
    }
}
