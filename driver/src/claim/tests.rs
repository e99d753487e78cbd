//! Two driver instances on one node, as a rolling update has them: what one begins after a look, and the other ends first.
use std::{collections::HashSet, path::Path};

use super::{
    book::{Commit, Reservation},
    specs::Written,
    testing::record,
    *,
};
use crate::{
    args::{Identity, OtherPlugins},
    health::Health,
    others::Others,
    roots::{Roots, tests::roots},
};

/// The directories of a node without GPUs.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("devices"), "Character devices:\n195 nvidia\n511 nvidia-uvm\n").unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// A driver's claims, whose GPUs have been read.
    fn instance(&self) -> Claims {
        let roots = Roots { proc: self.0.path().into(), dev: "/nodev".into(), ..roots("/driver", "/driver") };
        let identity = Identity { driver_name: "gpu.example.com".into(), node_name: "node1".into() };
        let around = Around {
            view: watch::channel(View::Ready(found())).1,
            read: watch::channel(std::time::Instant::now()).1,
            policy: watch::channel(InForce::default()).1,
            notices: Notices::new().0,
            gate: Others::new(Path::new("/nokubelet"), &identity, OtherPlugins::Ignore).gate(),
            health: health::Gate::new(watch::channel(Health::default()).1),
            resets: tokio::sync::mpsc::unbounded_channel().0,
            binder: crate::binding::Binder::new(roots.clone(), watch::channel(None).1),
        };
        let kind = cdi_spec::Kind::new("gpu.example.com", "claim").unwrap();
        let site = Site { pool: "gpu.example.com/node1".into(), cdi_kind: kind };
        let store = cdi_spec::Store::open(&self.path("cdi")).unwrap();
        Claims::open(site, "boot-1".into(), self.0.path(), store, Edits::new(roots, None), around).unwrap()
    }

    fn claims_specs(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path("cdi")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with("gpu.example.com-claim_")).collect()
    }
}

fn found() -> Arc<Found> {
    Arc::new(Found::default())
}

/// A prepared claim whose spec somebody has deleted.
fn without_spec(claims: &Claims) -> Arc<Record> {
    let claim = Arc::new(record("u1", &["gpu-0"]));
    assert_eq!(claims.book().reserve(&claim).unwrap(), Reservation::Held);
    assert_eq!(claims.book().commit(&claim, || true).unwrap(), Commit::Done);
    claims.book().find(claim.claim.uid()).unwrap().unwrap()
}

#[test]
fn a_lost_spec_is_written_anew_for_a_record_that_stands() {
    let node = Node::new();
    let claims = node.instance();
    let seen = without_spec(&claims);
    assert!(!claims.has_spec(&seen));
    assert_eq!(claims.restore_spec(&seen, &found()).unwrap(), Written::Done);
    assert!(claims.has_spec(&seen));
}

#[tokio::test]
async fn a_claim_that_another_instance_unprepares_after_the_look_gets_no_spec() {
    let node = Node::new();
    let (old, new) = (node.instance(), node.instance());
    let seen = without_spec(&old);
    new.remove(&seen.claim).await.unwrap();
    assert_eq!(old.restore_spec(&seen, &found()).unwrap(), Written::RecordGone);
    old.restore_unlisted(&[seen], &HashSet::new());
    assert_eq!(node.claims_specs(), [""; 0]);
}

#[tokio::test]
async fn nor_the_spec_of_the_devices_that_it_had_before_it_was_prepared_anew() {
    let node = Node::new();
    let (old, new) = (node.instance(), node.instance());
    let seen = without_spec(&old);
    new.remove(&seen.claim).await.unwrap();
    new.book().reserve(&Arc::new(record("u1", &["gpu-1"]))).unwrap();
    assert_eq!(old.restore_spec(&seen, &found()).unwrap(), Written::RecordGone);
    assert_eq!(node.claims_specs(), [""; 0]);
}

#[test]
fn a_record_that_was_deleted_by_hand_is_believed_no_longer() {
    let node = Node::new();
    let claims = node.instance();
    let seen = without_spec(&claims);
    std::fs::remove_file(node.path("claims/u1.json")).unwrap();
    assert!(claims.book().find(seen.claim.uid()).unwrap().is_some(), "nobody told of it");
    assert_eq!(claims.restore_spec(&seen, &found()).unwrap(), Written::RecordGone);
    assert!(claims.book().find(seen.claim.uid()).unwrap().is_none());
}
