//! What the records' files say, in memory: by claim, and by GPU.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use aliquot_model::{DeviceName, GpuUuid};
use dra_plugin::ClaimUid;

use super::{Held, Quarantined, Record};

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) records: HashMap<ClaimUid, Arc<Record>>,
    /// Files that can't be used as records: what they hold stays held.
    pub(super) quarantined: BTreeMap<ClaimUid, Quarantined>,
    /// The claims that hold something of a GPU, other than for administration, so that a reservation looks at these only.
    pub(super) users: BTreeMap<Key, BTreeSet<ClaimUid>>,
}

/// By what the users of a GPU are found. A virtual machine's GPU has no UUID on this side, and so only its place in common
/// with those who hold it otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Gpu(GpuUuid),
    Place(String),
}

fn keys(held: &Held) -> impl Iterator<Item = Key> {
    let gpus = held.vfio.iter().flat_map(|passed| &passed.gpus).map(|pci| DeviceName::whole(*pci).to_string());
    let places = gpus.chain([held.device.gpu().to_owned()]).map(Key::Place);
    std::iter::once(Key::Gpu(held.gpu.clone())).chain(places)
}

impl Index {
    /// The records of those who hold something at all.
    pub(super) fn using(&self) -> impl Iterator<Item = &Arc<Record>> {
        let uids: BTreeSet<&ClaimUid> = self.users.values().flatten().collect();
        uids.into_iter().filter_map(|uid| self.records.get(uid))
    }

    /// The records of those who hold something of a GPU that this one holds something of.
    pub(super) fn beside(&self, record: &Record) -> Vec<&Record> {
        let users = record.devices.iter().flat_map(keys).filter_map(|key| self.users.get(&key));
        let uids: BTreeSet<&ClaimUid> = users.flatten().collect();
        uids.into_iter().filter_map(|uid| self.records.get(uid)).map(Arc::as_ref).collect()
    }

    pub(super) fn insert(&mut self, record: Arc<Record>) {
        for held in record.devices.iter().filter(|held| !held.admin_access) {
            for key in keys(held) {
                self.users.entry(key).or_default().insert(record.claim.uid().clone());
            }
        }
        self.records.insert(record.claim.uid().clone(), record);
    }

    pub(super) fn forget(&mut self, uid: &ClaimUid) {
        self.quarantined.remove(uid);
        if let Some(record) = self.records.remove(uid) {
            for key in record.devices.iter().flat_map(keys) {
                if let Some(users) = self.users.get_mut(&key) {
                    users.remove(uid);
                    if users.is_empty() {
                        self.users.remove(&key);
                    }
                }
            }
        }
    }
}
