//! The book as several driver instances, crashes and hands have it.
use super::{
    super::record::tests::{passed, record, share},
    *,
};

fn open(dir: &tempfile::TempDir) -> Book {
    Book::open(&dir.path().join("claims"), "boot-1".into()).unwrap()
}

fn uid(text: &str) -> ClaimUid {
    ClaimUid::new(text).unwrap()
}

#[test]
fn of_two_claims_for_one_device_the_second_hears_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = open(&dir);
    assert_eq!(book.reserve(&record("u1", &["gpu-0"]).into()).unwrap(), Reservation::Held);
    let taken = book.reserve(&record("u2", &["gpu-1", "gpu-0"]).into()).unwrap();
    assert!(
        matches!(taken, Reservation::Clashes(Clash::Held { device, by, .. }) if device.as_str() == "gpu-0" && by.uid().as_str() == "u1")
    );
    assert!(book.find(&uid("u2")).unwrap().is_none());
    book.release(&uid("u1"), || Ok(())).unwrap();
    assert_eq!(book.reserve(&record("u2", &["gpu-1", "gpu-0"]).into()).unwrap(), Reservation::Held);
}

#[test]
fn a_virtual_machines_gpu_is_found_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = open(&dir);
    book.reserve(&record("u1", &["gpu-0000-42-00"]).into()).unwrap();
    let machine = Arc::new(passed("u2", &["0000:41:00.0", "0000:42:00.0"]));
    assert!(matches!(book.reserve(&machine).unwrap(), Reservation::Clashes(Clash::Held { .. })));
    book.release(&uid("u1"), || Ok(())).unwrap();
    assert_eq!(book.reserve(&machine).unwrap(), Reservation::Held);
    let next = open(&dir).reserve(&record("u3", &["gpu-0000-42-00"]).into()).unwrap();
    assert!(matches!(next, Reservation::Clashes(Clash::Held { .. })));
}

#[test]
fn two_instances_see_each_others_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut old, mut new) = (open(&dir), open(&dir));
    old.reserve(&record("u1", &["gpu-0"]).into()).unwrap();
    assert!(matches!(new.reserve(&record("u2", &["gpu-0"]).into()).unwrap(), Reservation::Clashes(_)));
    new.release(&uid("u1"), || Ok(())).unwrap();
    assert!(old.find(&uid("u1")).unwrap().is_none());
    assert_eq!(old.reserve(&record("u3", &["gpu-0"]).into()).unwrap(), Reservation::Held);
    assert_eq!(old.commit(&record("u3", &["gpu-0"]), || true).unwrap(), Commit::Done);
    assert_eq!(new.find(&uid("u3")).unwrap().unwrap().state, State::Prepared);
}

#[test]
fn ten_shares_are_held_and_an_eleventh_only_when_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = open(&dir);
    for n in 0..10 {
        assert_eq!(book.reserve(&share(&format!("u{n}"), "gpu-0", 1, 8).into()).unwrap(), Reservation::Held);
    }
    let more = Arc::new(share("u10", "gpu-0", 1, 8));
    assert!(matches!(book.reserve(&more).unwrap(), Reservation::Clashes(Clash::Full { .. })));
    book.release(&uid("u3"), || Ok(())).unwrap();
    assert_eq!(open(&dir).reserve(&more).unwrap(), Reservation::Held);
}

#[test]
fn what_is_held_of_a_device_is_the_sum_of_its_shares() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = open(&dir);
    book.reserve(&share("u1", "gpu-0", 1, 8).into()).unwrap();
    book.reserve(&share("u2", "gpu-0", 2, 5).into()).unwrap();
    book.reserve(&record("u3", &["gpu-1"]).into()).unwrap();
    let mut admin = record("u4", &["gpu-2"]);
    admin.devices[0].admin_access = true;
    book.reserve(&admin.into()).unwrap();
    let held: Vec<_> =
        book.holdings().unwrap().into_iter().map(|held| (held.shares, held.memory.bytes() >> 30)).collect();
    assert_eq!(held, [(3, 13), (0, 0)]);
}

#[test]
fn what_one_instance_has_prepared_another_neither_takes_back_nor_abandons() {
    let dir = tempfile::tempdir().unwrap();
    let (mut slow, mut new) = (open(&dir), open(&dir));
    let claim = Arc::new(record("u1", &["gpu-0"]));
    slow.reserve(&claim).unwrap();
    new.reserve(&claim).unwrap();
    assert_eq!(new.commit(&claim, || true).unwrap(), Commit::Done);
    slow.reserve(&claim).unwrap();
    assert_eq!(new.find(&uid("u1")).unwrap().unwrap().state, State::Prepared);
    assert!(!slow.abandon(&claim, || panic!("the spec is another's")).unwrap());
    // Allocated anew, it has another's devices no more.
    let anew = Arc::new(record("u1", &["gpu-1"]));
    slow.reserve(&anew).unwrap();
    assert_eq!(new.find(&uid("u1")).unwrap().unwrap().state, State::Preparing);
    // Now those who have its old devices are late.
    assert_eq!(new.commit(&claim, || true).unwrap(), Commit::Gone);
    assert!(!new.abandon(&claim, || panic!("the spec is another's")).unwrap());
    assert!(slow.abandon(&anew, || Ok(())).unwrap());
    assert!(new.find(&uid("u1")).unwrap().is_none());
}

#[test]
fn what_nobody_waits_for_is_not_prepared_unless_another_instance_has_done_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut slow, mut new) = (open(&dir), open(&dir));
    let claim = Arc::new(record("u1", &["gpu-0"]));
    assert_eq!(slow.commit(&claim, || true).unwrap(), Commit::Gone);
    slow.reserve(&claim).unwrap();
    assert_eq!(slow.commit(&claim, || false).unwrap(), Commit::Unheard);
    assert_eq!(new.find(&uid("u1")).unwrap().unwrap().state, State::Preparing);
    new.commit(&claim, || true).unwrap();
    assert_eq!(slow.commit(&claim, || false).unwrap(), Commit::Done);
}

#[test]
fn records_of_another_boot_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir).reserve(&record("u1", &["gpu-0"]).into()).unwrap();
    let mut book = Book::open(&dir.path().join("claims"), "boot-2".into()).unwrap();
    assert!(book.all().unwrap().is_empty());
    assert!(!dir.path().join("claims/u1.json").exists());
}

#[test]
fn a_broken_record_costs_its_own_claim_and_heals_when_it_is_prepared_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = open(&dir);
    book.reserve(&record("u1", &["gpu-0"]).into()).unwrap();
    book.reserve(&record("u2", &["gpu-1"]).into()).unwrap();
    std::fs::write(dir.path().join("claims/u1.json"), "{").unwrap();
    let mut book = open(&dir);
    assert!(book.find(&uid("u1")).unwrap().is_none());
    assert!(book.find(&uid("u2")).unwrap().is_some());
    assert_eq!(book.quarantined().unwrap().len(), 1);
    book.reserve(&record("u1", &["gpu-0"]).into()).unwrap();
    assert!(book.quarantined().unwrap().is_empty());
    assert!(open(&dir).find(&uid("u1")).unwrap().is_some());
}

#[test]
fn releasing_a_broken_record_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut book = open(&dir);
    std::fs::write(dir.path().join("claims/u1.json"), "garbage").unwrap();
    book.release(&uid("u1"), || Ok(())).unwrap();
    assert!(!dir.path().join("claims/u1.json").exists());
}
