//! Which claims' statuses are not as they should be, and what to do next about it. Pure.
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use dra_plugin::{ClaimRef, ClaimUid};
use k8s_openapi::{api::resource::v1::AllocatedDeviceStatus, jiff::Timestamp};

use super::entry::{Gpus, entries, stamped};
use crate::claim::Record;

/// The next thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    /// See what is there: an earlier process may have written it.
    Look(ClaimRef),
    /// Write all of the driver's entries.
    Write(ClaimRef, Vec<AllocatedDeviceStatus>),
}

/// What a claim's status is known to say.
#[derive(Debug, Clone, PartialEq)]
enum There {
    /// Nobody has looked, or what it is to say has changed since it was as it should be.
    Unknown,
    /// These entries of the driver's.
    Entries(Vec<AllocatedDeviceStatus>),
    /// What it should. Which entries these are is not kept: there are many claims, and hardly any is told of twice.
    AsWanted,
    /// Nothing that can be written to: the claim is gone, or has been allocated anew.
    Nowhere,
}

/// One claim.
struct Page {
    record: Arc<Record>,
    there: There,
}

impl Page {
    /// With what it should say; none while one of its GPUs has never been seen.
    fn due(&mut self, wanted: Option<Vec<AllocatedDeviceStatus>>, now: Timestamp) -> Option<Due> {
        let (claim, wanted) = (self.record.claim.clone(), wanted?);
        match &self.there {
            There::Unknown => Some(Due::Look(claim)),
            There::AsWanted | There::Nowhere => None,
            There::Entries(there) => {
                let wanted = stamped(wanted, there, now);
                if wanted.len() == there.len() && wanted.iter().all(|entry| there.contains(entry)) {
                    self.there = There::AsWanted;
                    return None;
                }
                Some(Due::Write(claim, wanted))
            }
        }
    }
}

/// What is to be told, and what is told already.
pub(super) struct Ledger {
    driver: String,
    gpus: Gpus,
    pages: HashMap<ClaimUid, Page>,
    /// The claims that may have to be told of, each once. One that fails goes to the end, so that it holds up no other.
    queue: VecDeque<ClaimUid>,
    /// Whether records have been seen: what comes later is prepared now, and told nowhere.
    is_begun: bool,
}

impl Ledger {
    /// For the driver of this name.
    pub(super) fn new(driver: String) -> Self {
        Self { driver, gpus: Gpus::default(), pages: HashMap::new(), queue: VecDeque::new(), is_begun: false }
    }

    /// What there is to tell now: of these claims, which are prepared, with these GPUs.
    pub(super) fn wants(&mut self, records: Vec<Arc<Record>>, gpus: &Gpus) {
        let is_news = self.gpus != *gpus;
        let known = if is_news { std::mem::replace(&mut self.gpus, gpus.clone()) } else { Gpus::default() };
        let driver = &self.driver;
        let has_changed = |record: &Record| entries(record, driver, &known) != entries(record, driver, gpus);
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let mut before = std::mem::take(&mut self.pages);
        let queued: HashSet<ClaimUid> = self.queue.iter().cloned().collect();
        for record in records {
            let uid = record.claim.uid().clone();
            let there = match before.remove(&uid) {
                Some(page) if page.record == record && !is_news => {
                    self.pages.insert(uid, page);
                    continue;
                }
                Some(page) if page.record == record && page.there == There::AsWanted => {
                    if !has_changed(&record) {
                        self.pages.insert(uid, page);
                        continue;
                    }
                    There::Unknown
                }
                Some(page) if page.record == record => page.there,
                None if !is_first => There::Entries(Vec::new()),
                // An earlier process prepared it, or it has been allocated anew.
                Some(_) | None => There::Unknown,
            };
            self.pages.insert(uid.clone(), Page { record, there });
            if !queued.contains(&uid) {
                self.queue.push_back(uid);
            }
        }
        self.queue.retain(|uid| self.pages.contains_key(uid));
    }

    /// Takes the next thing to do out of the ledger, which has to be told what came of it.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Due> {
        loop {
            let uid = self.queue.pop_front()?;
            let Some(page) = self.pages.get_mut(&uid) else { continue };
            let wanted = entries(&page.record, &self.driver, &self.gpus);
            if let Some(due) = page.due(wanted, now) {
                return Some(due);
            }
        }
    }

    /// The claim's status has these entries of the driver's.
    pub(super) fn is_there(&mut self, uid: &ClaimUid, there: Vec<AllocatedDeviceStatus>) {
        self.learn(uid, There::Entries(there));
        self.queue.push_front(uid.clone());
    }

    /// The claim's status can't be written any more.
    pub(super) fn is_nowhere(&mut self, uid: &ClaimUid) {
        self.learn(uid, There::Nowhere);
    }

    /// Nothing came of it.
    pub(super) fn put_back(&mut self, uid: &ClaimUid) {
        self.queue.push_back(uid.clone());
    }

    /// How many claims may still have to be told of.
    pub(super) fn missing(&self) -> usize {
        self.queue.len()
    }

    fn learn(&mut self, uid: &ClaimUid, there: There) {
        if let Some(page) = self.pages.get_mut(uid) {
            page.there = there;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aliquot_model::{Inventory, testing::gpu};
    use aliquot_params::policy::Policy;

    use super::*;
    use crate::claim::testing;

    fn gpus(buses: &[u8]) -> Gpus {
        let mut gpus = Gpus::default();
        let all = buses.iter().map(|bus| gpu(*bus)).collect();
        gpus.learn(&Inventory::new(all, vec![]), &Policy::default(), &BTreeMap::new());
        gpus
    }

    fn record(uid: &str, bus: u8) -> Arc<Record> {
        let mut record = testing::record(uid, &["gpu-0000-41-00"]);
        record.devices[0].gpu = gpu(bus).uuid;
        Arc::new(record)
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn begun() -> Ledger {
        let mut ledger = Ledger::new("gpu.example.com".into());
        ledger.wants(vec![], &gpus(&[1]));
        ledger
    }

    /// What is written of the next claim, and that it is.
    fn write(ledger: &mut Ledger) -> Option<String> {
        let Due::Write(claim, entries) = ledger.next(now())? else { panic!("looked at") };
        ledger.is_there(claim.uid(), entries);
        Some(claim.uid().to_string())
    }

    #[test]
    fn each_claim_is_written_once_and_again_when_its_gpu_changes() {
        let (mut ledger, all) = (begun(), vec![record("u1", 1), record("u2", 1)]);
        ledger.wants(all.clone(), &gpus(&[1]));
        assert_eq!((write(&mut ledger), write(&mut ledger)), (Some("u1".into()), Some("u2".into())));
        for _ in 0..2 {
            ledger.wants(all.clone(), &gpus(&[1]));
            assert_eq!((ledger.next(now()), ledger.missing()), (None, 0));
        }
        let mut gone = gpus(&[1]);
        gone.learn(&Inventory::default(), &Policy::default(), &BTreeMap::new());
        ledger.wants(all.clone(), &gone);
        for _ in &all {
            let Some(Due::Look(claim)) = ledger.next(now()) else { panic!("written over what may be there") };
            ledger.is_there(claim.uid(), vec![]);
            assert!(write(&mut ledger).is_some());
        }
        assert_eq!(ledger.next(now()), None);
    }

    #[test]
    fn a_gpu_that_changes_makes_work_for_its_own_claims_alone() {
        let (mut ledger, all) = (begun(), vec![record("u1", 1), record("u2", 2)]);
        ledger.wants(all.clone(), &gpus(&[1, 2]));
        assert!(write(&mut ledger).is_some() && write(&mut ledger).is_some() && ledger.next(now()).is_none());
        let mut one_gone = gpus(&[1, 2]);
        one_gone.learn(&Inventory::new(vec![gpu(1)], vec![]), &Policy::default(), &BTreeMap::new());
        ledger.wants(all, &one_gone);
        let Some(Due::Look(claim)) = ledger.next(now()) else { panic!("nothing is done") };
        assert_eq!((claim.uid().as_str(), ledger.next(now())), ("u2", None));
    }

    #[test]
    fn a_restart_looks_first_and_writes_nothing_that_is_there() {
        let mut before = begun();
        before.wants(vec![record("u1", 1)], &gpus(&[1]));
        let Some(Due::Write(_, there)) = before.next(now()) else { panic!("not written") };
        let mut ledger = Ledger::new("gpu.example.com".into());
        ledger.wants(vec![record("u1", 1), record("u2", 1)], &gpus(&[1]));
        let Some(Due::Look(claim)) = ledger.next(now()) else { panic!("not looked at") };
        ledger.is_there(claim.uid(), there);
        let Some(Due::Look(claim)) = ledger.next(now()) else { panic!("the first one is written again") };
        ledger.is_there(claim.uid(), vec![]);
        assert_eq!((write(&mut ledger), ledger.next(now())), (Some("u2".into()), None));
    }

    #[test]
    fn a_claim_that_is_allocated_anew_is_looked_at_and_one_that_is_gone_is_left_alone() {
        let mut ledger = begun();
        ledger.wants(vec![record("u1", 1)], &gpus(&[1, 2]));
        let Some(Due::Write(claim, _)) = ledger.next(now()) else { panic!("not written") };
        ledger.is_nowhere(claim.uid());
        ledger.wants(vec![record("u1", 1)], &gpus(&[1, 2, 3]));
        assert_eq!(ledger.next(now()), None);
        ledger.wants(vec![record("u1", 2)], &gpus(&[1, 2, 3]));
        assert!(matches!(ledger.next(now()), Some(Due::Look(_))));
    }

    #[test]
    fn one_that_fails_goes_behind_the_others_until_it_is_unprepared() {
        let (mut ledger, all) = (begun(), vec![record("u1", 1), record("u2", 1)]);
        ledger.wants(all, &gpus(&[1]));
        let Some(Due::Write(first, _)) = ledger.next(now()) else { panic!("nothing is due") };
        ledger.put_back(first.uid());
        assert_eq!((write(&mut ledger), ledger.missing()), (Some("u2".into()), 2));
        assert_eq!(write(&mut ledger), Some("u1".into()));
        ledger.put_back(first.uid());
        ledger.wants(vec![], &gpus(&[1]));
        assert_eq!((ledger.next(now()), ledger.missing()), (None, 0));
    }

    #[test]
    fn a_claim_waits_for_the_first_sight_of_its_gpu() {
        let mut ledger = Ledger::new("gpu.example.com".into());
        ledger.wants(vec![record("u1", 9)], &gpus(&[1]));
        assert_eq!(ledger.next(now()), None);
        ledger.wants(vec![record("u1", 9)], &gpus(&[1, 9]));
        assert!(matches!(ledger.next(now()), Some(Due::Look(_))));
    }
}
