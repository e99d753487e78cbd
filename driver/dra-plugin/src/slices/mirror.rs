//! The slices as the API server has them, from its watch and from the answers to our own writes.
use std::collections::{HashMap, HashSet};

use k8s_openapi::api::resource::v1::ResourceSlice;

/// All slices of one driver on one node, by UID.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    slices: HashMap<String, ResourceSlice>,
    /// What a listing has brought so far.
    listing: HashMap<String, ResourceSlice>,
    /// UIDs that are gone for good: a late event about one must not bring it back.
    gone: HashSet<String>,
    is_complete: bool,
}

impl Mirror {
    /// Whether a whole listing has been seen; before that, nothing can be said to be missing.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &ResourceSlice> {
        self.slices.values()
    }

    pub(super) fn begin_listing(&mut self) {
        self.listing.clear();
    }

    pub(super) fn listed(&mut self, slice: ResourceSlice) {
        self.listing.insert(uid(&slice), slice);
    }

    /// What wasn't listed is gone, and UIDs are never used again.
    pub(super) fn end_listing(&mut self) {
        self.slices = std::mem::take(&mut self.listing);
        self.gone.clear();
        self.is_complete = true;
    }

    /// Takes a slice from the watch or from an answer, unless a later version of it is known.
    pub(super) fn put(&mut self, slice: ResourceSlice) {
        let uid = uid(&slice);
        let is_older = self.slices.get(&uid).is_some_and(|known| version(known) > version(&slice));
        if !is_older && !self.gone.contains(&uid) {
            self.slices.insert(uid, slice);
        }
    }

    pub(super) fn remove(&mut self, uid: &str) {
        self.slices.remove(uid);
        self.gone.insert(uid.to_owned());
    }
}

pub(super) fn uid(slice: &ResourceSlice) -> String {
    slice.metadata.uid.clone().unwrap_or_default()
}

/// Resource versions can be compared as numbers (KEP-5504).
fn version(slice: &ResourceSlice) -> u64 {
    slice.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn slice(uid: &str, version: &str) -> ResourceSlice {
        let metadata =
            ObjectMeta { uid: Some(uid.into()), resource_version: Some(version.into()), ..ObjectMeta::default() };
        ResourceSlice { metadata, ..ResourceSlice::default() }
    }

    #[test]
    fn a_late_event_never_undoes_what_is_known() {
        let mut mirror = Mirror::default();
        mirror.put(slice("a", "10"));
        mirror.put(slice("a", "9"));
        assert_eq!(mirror.slices().next().unwrap().metadata.resource_version.as_deref(), Some("10"));
        mirror.remove("a");
        mirror.put(slice("a", "10"));
        assert_eq!(mirror.slices().count(), 0);
    }

    #[test]
    fn nothing_is_known_to_be_missing_before_the_first_listing_has_ended() {
        let mut mirror = Mirror::default();
        mirror.begin_listing();
        mirror.listed(slice("a", "1"));
        assert!(!mirror.is_complete());
        mirror.end_listing();
        assert!(mirror.is_complete() && mirror.slices().count() == 1);
    }
}
