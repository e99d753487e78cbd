//! The controller's permissions: it does all that its roles grant, and nothing else.
use std::collections::BTreeSet;

use aliquot_tests::{
    controllers::{ACCOUNT, Stage, claim, node, pod, slice},
    testbed::{DRIVER, Result, rules},
};
use fake_apiserver::Asked;

use super::FAST;

const BASE: &str = include_str!("../../../deploy/base/controller-rbac.yaml");
const RELEASE: &str = include_str!("../../../deploy/components/release-stuck-claims/rbac.yaml");

/// One verb on one resource each.
fn granted(file: &str, role: &str) -> Result<BTreeSet<Asked>> {
    let mut granted = BTreeSet::new();
    for rule in rules(file, role)? {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                for verb in &rule.verbs {
                    let (verb, group, resource) = (verb.clone(), group.clone(), resource.clone());
                    assert!(granted.insert(Asked { verb, group, resource, name: None }), "granted twice");
                }
            }
        }
    }
    Ok(granted)
}

/// What the controller has asked for when it has deleted a slice, told of what is stuck, and freed it where it may.
async fn asked(stage: &Stage, flags: &[&str], done: &str) -> Result<BTreeSet<Asked>> {
    stage.api.seed("nodes", [node("n1", "u1")]);
    let gone = slice(DRIVER, "gone", "u2", &[]);
    stage.api.seed("resourceslices", [slice(DRIVER, "n1", "u1", &["gpu-0000-42-00"]), gone]);
    stage.api.seed("pods", [pod("p1", "pod-1")]);
    let pods = [("p1", "pod-1"), ("p2", "pod-2")];
    stage.api.seed("resourceclaims", [claim("c1", "claim-1", ("n1", "gpu-0000-41-00"), &pods)]);
    let mut replica = stage.replica("a", &[&FAST, flags].concat())?;
    for reason in ["StaleSliceDeleted", "ClaimGPUGone", done] {
        stage.until(reason, || !stage.events(reason).is_empty()).await?;
    }
    let has = |verb: &str| stage.api.requests().contains_key(&(verb.to_owned(), "leases".to_owned()));
    stage.until("the Lease is renewed", || has("update")).await?;
    replica.stop()?;
    Ok(stage.api.asked(ACCOUNT).into_iter().map(|asked| Asked { name: None, ..asked }).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_uses_all_that_its_roles_grant_and_nothing_else() -> Result<()> {
    let stage = Stage::start().await?;
    assert_eq!(asked(&stage, &[], "ClaimReservedForGonePods").await?, granted(BASE, "aliquot-controller")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn to_release_claims_it_uses_what_the_component_grants() -> Result<()> {
    let stage = Stage::start().await?;
    stage.permit_release()?;
    let mut expected = granted(BASE, "aliquot-controller")?;
    expected.extend(granted(RELEASE, "aliquot-controller-release")?);
    // An API server asks for it by itself when the status is written.
    expected.retain(|granted| granted.resource != "resourceclaims/binding");
    assert_eq!(asked(&stage, &["--release-stuck-claims"], "ClaimReleased").await?, expected);
    Ok(())
}
