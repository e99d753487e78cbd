//! What the sweep sees of the node's claims, and how it removes one.
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dra_plugin::{ClaimRef, ClaimUid};

use super::{Claims, Error, Quarantined, Record, State, book};
use crate::fault::{self, Point};

/// Everything of this driver's on the node that stands for a claim.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The records.
    pub(crate) records: Vec<Arc<Record>>,
    /// Files that can't be used as records.
    pub(crate) quarantined: Vec<Quarantined>,
    /// CDI specs and device metadata without either.
    pub(crate) specs: Vec<ClaimUid>,
    /// When the kubelet last had this process prepare a claim, where it did.
    pub(crate) asked: HashMap<ClaimUid, Instant>,
}

/// When the kubelet last asked for each claim.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<HashMap<ClaimUid, Instant>>);

impl Asked {
    pub(super) fn note(&self, uid: &ClaimUid) {
        self.lock().insert(uid.clone(), Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimUid, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claims {
    /// What there is now. Writes the specs of prepared claims that are gone from their directory, and tells of records that
    /// can't be used.
    pub(crate) fn look_after(&self) -> Result<Kept, Error> {
        let (records, quarantined) = {
            let mut book = self.book();
            (book.all()?, book.quarantined()?)
        };
        self.tell_quarantined(&quarantined);
        let listed: HashSet<ClaimUid> =
            self.store.list(&self.site.cdi_kind)?.into_iter().filter_map(|spec| ClaimUid::new(spec.id).ok()).collect();
        self.restore_unlisted(&records, &listed);
        let known: HashSet<&ClaimUid> =
            records.iter().map(|record| record.claim.uid()).chain(quarantined.iter().map(|file| &file.uid)).collect();
        let listed =
            listed.into_iter().chain(self.metadata.claims().map_err(book::Error::Dir)?).collect::<BTreeSet<_>>();
        let mut specs: Vec<ClaimUid> = listed.into_iter().filter(|uid| !known.contains(uid)).collect();
        specs.retain(|uid| !self.book().mentions(uid));
        let asked = {
            let mut asked = self.asked.lock();
            asked.retain(|uid, _| known.contains(uid));
            asked.clone()
        };
        Ok(Kept { records, quarantined, specs, asked })
    }

    /// The CDI kind of claims, as it is written before a device's name.
    pub(crate) fn cdi_kind(&self) -> String {
        format!("{}/{}", self.site.cdi_kind.vendor(), self.site.cdi_kind.class())
    }

    /// Whether the kubelet has asked for a claim, or its record has changed, since it was looked at.
    pub(crate) fn has_moved(&self, uid: &ClaimUid, asked: Option<Instant>, record: Option<&Record>) -> bool {
        let is_as_seen = || matches!(self.book().find(uid), Ok(now) if now.as_deref() == record);
        self.asked.lock().get(uid).copied() != asked || !is_as_seen()
    }

    /// Undoes a claim as the kubelet's unprepare does; false if its record isn't the one that was judged any more. To be
    /// called in the claim's turn.
    pub(crate) async fn remove_stale(&self, claim: &ClaimRef, judged: Option<&Record>) -> Result<bool, Error> {
        fault::point(Point::UnprepareBegun);
        let mut judged = judged.cloned();
        if let Some(record) = &mut judged {
            self.let_go(record).await?;
            if record.taken().next().is_some() {
                record.state = State::Preparing;
            }
        }
        let files = || self.remove_files(claim.uid());
        let is_removed = self.book().release_if_still(claim.uid(), judged.as_ref(), files)?;
        fault::point(Point::Released);
        self.changed.send_replace(());
        Ok(is_removed)
    }

    /// Removes a spec and metadata that no record stands behind; false if one does by now.
    pub(crate) fn remove_spec(&self, uid: &ClaimUid) -> Result<bool, Error> {
        Ok(self.book().alone(|book| {
            let is_orphan = !book.mentions(uid);
            if is_orphan {
                self.remove_files(uid)?;
            }
            Ok(is_orphan)
        })?)
    }
}
