//! What other DRA drivers publish of this node, from their slices.
use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::ResourceSlice;

use super::{
    id::{self, Named},
    judge::DraDevice,
};

/// The devices of other drivers that name a GPU, by slice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Published {
    slices: BTreeMap<String, BTreeMap<DraDevice, Named>>,
    /// What a listing has brought so far.
    listing: BTreeMap<String, BTreeMap<DraDevice, Named>>,
}

impl Published {
    /// Of these slices, for the driver of this name.
    pub(crate) fn of<'a>(ours: &str, slices: impl IntoIterator<Item = &'a ResourceSlice>) -> Self {
        let mut published = Self::default();
        slices.into_iter().for_each(|slice| published.put(ours, slice));
        published
    }

    /// Takes a slice as it is now.
    pub(super) fn put(&mut self, ours: &str, slice: &ResourceSlice) {
        insert(&mut self.slices, ours, slice);
    }

    pub(super) fn remove(&mut self, slice: &ResourceSlice) {
        self.slices.remove(name(slice));
    }

    pub(super) fn begin_listing(&mut self) {
        self.listing.clear();
    }

    pub(super) fn listed(&mut self, ours: &str, slice: &ResourceSlice) {
        insert(&mut self.listing, ours, slice);
    }

    /// What wasn't listed is gone.
    pub(super) fn end_listing(&mut self) {
        self.slices = std::mem::take(&mut self.listing);
    }

    /// Every device with what it names.
    pub(super) fn devices(&self) -> impl Iterator<Item = (&DraDevice, &Named)> {
        self.slices.values().flatten()
    }

    /// What a device names, if a slice has it.
    pub(super) fn named(&self, device: &DraDevice) -> Option<&Named> {
        self.slices.values().find_map(|devices| devices.get(device))
    }
}

/// Slices without GPUs are not kept: most of a node's are other things.
fn insert(slices: &mut BTreeMap<String, BTreeMap<DraDevice, Named>>, ours: &str, slice: &ResourceSlice) {
    let driver = &slice.spec.driver;
    let devices = slice.spec.devices.iter().flatten().filter(|_| driver != ours);
    let named = devices.filter_map(|device| {
        let (pool, name) = (slice.spec.pool.name.clone(), device.name.clone());
        Some((DraDevice { driver: driver.clone(), pool, name }, id::of_device(driver, device)?))
    });
    let named: BTreeMap<DraDevice, Named> = named.collect();
    if named.is_empty() {
        slices.remove(name(slice));
    } else {
        slices.insert(name(slice).to_owned(), named);
    }
}

fn name(slice: &ResourceSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    pub(crate) fn slice(name: &str, driver: &str, pci: &str) -> ResourceSlice {
        let device = json!({"name": "d", "attributes": {"resource.kubernetes.io/pciBusID": {"string": pci}}});
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let spec = json!({"driver": driver, "pool": pool, "devices": [device]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn drivers(published: &Published) -> BTreeSet<&str> {
        published.devices().map(|(device, _)| device.driver.as_str()).collect()
    }

    #[test]
    fn slices_of_this_driver_and_of_other_things_are_not_kept() {
        let nic = slice("b", "nic.example.com", "no place");
        let published = Published::of("ours.example.com", [&slice("a", "ours.example.com", "0000:41:00.0"), &nic]);
        assert_eq!(published, Published::default());
    }

    #[test]
    fn what_a_new_listing_lacks_is_gone() {
        let (a, b) = (slice("a", "a.example.com", "0000:41:00.0"), slice("b", "b.example.com", "0000:41:00.0"));
        let mut published = Published::of("ours.example.com", [&a, &b]);
        published.begin_listing();
        published.listed("ours.example.com", &b);
        assert_eq!(drivers(&published).len(), 2, "until it has ended");
        published.end_listing();
        assert_eq!(drivers(&published), BTreeSet::from(["b.example.com"]));
        published.remove(&b);
        assert_eq!(drivers(&published), BTreeSet::new());
    }

    #[test]
    fn a_slice_that_no_longer_names_a_gpu_is_let_go() {
        let mut published = Published::of("ours", [&slice("a", "a.example.com", "0000:41:00.0")]);
        published.put("ours", &slice("a", "a.example.com", "no place"));
        assert_eq!(published, Published::default());
    }
}
