//! The CDI specs of claims, with what containers may read of their devices: made for a record that stands, and made anew where one is lost.
use std::{collections::HashSet, sync::Arc};

use dra_plugin::{ClaimUid, Failure};

use super::{Claims, Held, Record, State, book, broken, metadata};
use crate::{
    discovery::{Found, View},
    edits::Base,
};

/// What came of writing a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there.
    Done,
    /// Nothing was written: another driver instance has unprepared the claim, or prepared it with other devices.
    RecordGone,
}

/// What becomes of metadata that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// An earlier try has left it, perhaps of other devices.
    Goes,
    /// Containers may have it; and of a GPU that has gone since less could be told now.
    Stays,
}

impl Claims {
    /// Removes what was made for a claim beside its record: the spec first, as it names the rest.
    pub(super) fn remove_files(&self, uid: &ClaimUid) -> Result<(), book::Error> {
        self.store.remove(&self.site.cdi_kind, uid.as_str())?;
        Ok(self.metadata.remove(uid)?)
    }

    /// Writes the specs of prepared claims that are gone from the directory: a container that starts again in its pod needs
    /// them, and the kubelet doesn't ask for that.
    pub async fn restore_specs(&self) {
        let mut view = self.view.clone();
        let Ok(View::Ready(found)) =
            view.wait_for(|view| matches!(view, View::Ready(_))).await.map(|view| view.clone())
        else {
            return;
        };
        let records = self.book().all().unwrap_or_default();
        for record in records.iter().filter(|record| record.state == State::Prepared && !self.has_spec(record)) {
            self.restore_or_tell(record, &found);
        }
    }

    /// The same by names only: what a spec says is looked at when the kubelet asks.
    pub(super) fn restore_unlisted(&self, records: &[Arc<Record>], listed: &HashSet<ClaimUid>) {
        let View::Ready(found) = self.view.borrow().clone() else { return };
        let is_missing = |record: &&Arc<Record>| record.state == State::Prepared && !self.is_listed(record, listed);
        for record in records.iter().filter(is_missing) {
            self.restore_or_tell(record, &found);
        }
    }

    /// A spec that is there stays as it is, since containers that start again must get what the first ones got.
    pub(super) fn has_spec(&self, record: &Record) -> bool {
        let spec = self.store.read(&self.site.cdi_kind, record.claim.uid().as_str());
        matches!(spec, Ok(Some(spec)) if covers(&spec, record))
            && (!uses_base(record) || self.has_base())
            && self.metadata.has(record)
    }

    fn is_listed(&self, record: &Record, listed: &HashSet<ClaimUid>) -> bool {
        listed.contains(record.claim.uid()) && self.metadata.has(record)
    }

    fn has_base(&self) -> bool {
        self.store.has(&self.base.kind, Base::FILE).unwrap_or(false)
    }

    fn restore_or_tell(&self, record: &Record, found: &Found) {
        if let Err(failure) = self.restore_spec(record, found) {
            tracing::error!(claim = %record.claim, claim.uid = %record.claim.uid(), %failure,
                "the CDI spec of a prepared claim is missing and can't be written");
        }
    }

    pub(super) fn restore_spec(&self, record: &Record, found: &Found) -> Result<Written, Failure> {
        let written = self.write_spec(record, found, Before::Stays)?;
        if written == Written::Done {
            tracing::warn!(claim = %record.claim, claim.uid = %record.claim.uid(),
                "the CDI spec of a prepared claim was missing or damaged; written anew");
        }
        Ok(written)
    }

    /// Writes it while no other instance can take the record away: nobody but the sweep would find a spec without one.
    pub(super) fn write_spec(&self, record: &Record, found: &Found, before: Before) -> Result<Written, Failure> {
        // Before what needs it; one that says the same already isn't written again.
        let base = uses_base(record).then(|| self.edits.base(&self.base, found));
        let base = base.transpose().map_err(|error| broken(&error))?;
        let spec = self.edits.spec(&self.site.cdi_kind, record, found).map_err(|error| broken(&error))?;
        let told = self.metadata.documents(record, &found.inventory).map_err(|error| broken(&error))?;
        let spec = spec.with(told.iter().map(|told| told.device.clone()));
        let written = self.book().while_held(record, || {
            self.metadata.write(record, &told, before)?;
            if let Some(base) = &base {
                self.store.write(Base::FILE, base)?;
            }
            Ok(self.store.write(record.claim.uid().as_str(), &spec)?)
        });
        match written.map_err(|error| broken(&error))? {
            Some(()) => Ok(Written::Done),
            None => Ok(Written::RecordGone),
        }
    }
}

/// Whether a spec has every device that the record's answer names.
fn covers(spec: &cdi_spec::Spec, record: &Record) -> bool {
    let has = |name: &str| spec.devices.iter().any(|device| device.name.as_str() == name);
    let named = |held: &Held| has(held.cdi_name());
    record.devices.iter().all(named) && metadata::names(record).iter().all(|name| has(name))
}

/// Whether any of it is used through NVIDIA's driver on the node.
fn uses_base(record: &Record) -> bool {
    record.devices.iter().any(|held| held.vfio.is_none())
}
