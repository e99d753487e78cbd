//! What the records' files say, in memory: by claim, and by GPU.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use aliquot_model::GpuUuid;
use dra_plugin::ClaimUid;

use super::{Quarantined, Record};

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) records: HashMap<ClaimUid, Arc<Record>>,
    /// Files that can't be used as records: what they hold stays held.
    pub(super) quarantined: BTreeMap<ClaimUid, Quarantined>,
    /// The claims that hold something of a GPU, other than for administration, so that a reservation looks at these only.
    pub(super) users: BTreeMap<GpuUuid, BTreeSet<ClaimUid>>,
}

impl Index {
    /// The records of those who hold something at all.
    pub(super) fn using(&self) -> impl Iterator<Item = &Arc<Record>> {
        let uids: BTreeSet<&ClaimUid> = self.users.values().flatten().collect();
        uids.into_iter().filter_map(|uid| self.records.get(uid))
    }

    /// The records of those who hold something of a GPU that this one holds something of.
    pub(super) fn beside(&self, record: &Record) -> Vec<&Record> {
        let users = record.devices.iter().filter_map(|held| self.users.get(&held.gpu)).flatten();
        let uids: BTreeSet<&ClaimUid> = users.collect();
        uids.into_iter().filter_map(|uid| self.records.get(uid)).map(Arc::as_ref).collect()
    }

    pub(super) fn insert(&mut self, record: Arc<Record>) {
        for held in record.devices.iter().filter(|held| !held.admin_access) {
            self.users.entry(held.gpu.clone()).or_default().insert(record.claim.uid().clone());
        }
        self.records.insert(record.claim.uid().clone(), record);
    }

    pub(super) fn forget(&mut self, uid: &ClaimUid) {
        self.quarantined.remove(uid);
        if let Some(record) = self.records.remove(uid) {
            for held in &record.devices {
                if let Some(users) = self.users.get_mut(&held.gpu) {
                    users.remove(uid);
                    if users.is_empty() {
                        self.users.remove(&held.gpu);
                    }
                }
            }
        }
    }
}
