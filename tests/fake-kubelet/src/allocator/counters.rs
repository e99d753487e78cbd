//! Counters that the devices of a pool share (KEP-4815).
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device, ResourceSliceSpec};

use super::quantity::Quantity;

/// Amounts by counter set and counter. Below nothing is where devices in use draw more than there is.
pub(super) type Counters = BTreeMap<(String, String), Quantity>;

/// What a pool's slices offer, or why the pool is not valid.
pub(super) fn offered<'a>(slices: impl Iterator<Item = &'a ResourceSliceSpec>) -> Result<Counters, String> {
    let mut offered = Counters::new();
    let mut sets = BTreeSet::new();
    for set in slices.flat_map(|slice| slice.shared_counters.iter().flatten()) {
        if !sets.insert(&set.name) {
            return Err(format!("duplicate counter set name {}", set.name));
        }
        for (name, counter) in &set.counters {
            let value = Quantity::try_from(&counter.value).map_err(|error| error.to_string())?;
            offered.insert((set.name.clone(), name.clone()), value);
        }
    }
    Ok(offered)
}

/// What a device draws on those that are offered, or why its pool is not valid.
pub(super) fn drawn(device: &Device, offered: &Counters) -> Result<Counters, String> {
    let mut drawn = Counters::new();
    for consumption in device.consumes_counters.iter().flatten() {
        let set = &consumption.counter_set;
        for (name, counter) in &consumption.counters {
            let key = (set.clone(), name.clone());
            if !offered.contains_key(&key) {
                return Err(format!("device {}: counter {name} not found in counter set {set}", device.name));
            }
            let value = Quantity::try_from(&counter.value).map_err(|error| error.to_string())?;
            drawn.insert(key, value);
        }
    }
    Ok(drawn)
}

/// What a device in use leaves of them.
pub(super) fn draw(left: &mut Counters, drawn: &Counters) {
    for (key, amount) in drawn {
        if let Some(left) = left.get_mut(key) {
            *left = *left - *amount;
        }
    }
}

/// Whether devices can draw together. The scheduler looks at all counters of the pool: one that is overdrawn, as after
/// a change of what is published, stops those too that do not draw on it.
pub(super) fn suffice(left: &Counters, drawn: &[&Counters]) -> bool {
    left.iter().all(|(key, left)| drawn.iter().filter_map(|drawn| drawn.get(key)).copied().sum::<Quantity>() <= *left)
}
