//! The real driver under the rules of its role, made to do all that it ever does.
use std::process::{Child, Command};

use aliquot_tests::{
    objects::{pod, templates},
    policies::{file, policy, prepared, replace},
    testbed::{ACCOUNT, DRIVER, NODE, Testbed, apply},
};
use fake_apiserver::{Fault, Trouble};
use fake_nvml::{Control, Process};
use serde_json::json;

use super::*;

/// A child of the test that the simulated GPU says uses its memory.
struct Hog(Child);

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn guard(grace: &str) -> String {
    format!("[{{shares: {{guard: {{mode: evict, grace: {grace}}}}}}}]")
}

fn trouble(testbed: &Testbed, verb: &str, resource: &str, code: u16, times: usize) {
    let trouble = Trouble::Error(code, Some(1));
    testbed.api.inject(Fault { verb: verb.to_owned(), resource: resource.to_owned(), times, trouble });
}

fn has_asked(testbed: &Testbed, verb: &str, resource: &str) -> bool {
    testbed.api.asked(ACCOUNT).iter().any(|asked| asked.verb == verb && asked.resource == resource)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_uses_all_that_its_role_grants_and_nothing_else() -> Result<()> {
    let mut testbed = prepared("t4x1", &guard("100ms")).await?;
    testbed.permit_guard()?;
    apply(&testbed.client, &templates()).await?;
    // A slice from another time, which isn't wanted any more.
    let stale = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "stale"},
        "spec": {"driver": DRIVER, "nodeName": NODE, "pool": {"name": "old", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gone"}]}});
    apply(&testbed.client, &[stale]).await?;
    let policy_file = file(&testbed);
    testbed.start_driver(&[("ALIQUOT_POLICY", policy_file.to_str().unwrap()), ("ALIQUOT_GUARD_INTERVAL", "50ms")])?;
    testbed.ready().await?;
    let is_there = |name: &str| testbed.api.peek("resourceslices", "", name).is_some();
    testbed.until("the stale slice is deleted", || !is_there("stale")).await?;

    // A slice that is changed, by someone else too: it is read again.
    trouble(&testbed, "update", "resourceslices", 409, 1);
    replace(&testbed, policy("[{shares: {count: 5, guard: {mode: evict, grace: 100ms}}}]"))?;
    testbed.until("a slice is updated", || has_asked(&testbed, "get", "resourceslices")).await?;

    // A pod that uses too much; its eviction is told, and told again.
    let hog = testbed.run_pod(pod("hog", &["share"])).await?.0;
    trouble(&testbed, "create", "pods/eviction", 429, 3);
    let process = Hog(Command::new("sleep").arg("600").spawn()?);
    testbed.node.place(process.0.id(), hog.metadata.uid.as_deref())?;
    let gpu = testbed.node.profile().gpus[0].uuid.clone();
    let used = Process { pid: process.0.id(), used: Some(12 << 30), graphics: false };
    testbed.node.control(&Control { processes: [(gpu, vec![used])].into(), ..Control::default() })?;
    testbed.until("the pod is evicted", || testbed.api.peek("pods", "default", "hog").is_none()).await?;
    testbed.until("an event is counted", || has_asked(&testbed, "patch", "events")).await?;

    testbed.until("the claim says what it was given", || has_asked(&testbed, "associated-node:patch", DRIVERS)).await?;

    let whose = |asked: &Asked| asked.name.clone().filter(|_| asked.resource == DRIVERS);
    let used = testbed.api.asked(ACCOUNT).into_iter().map(|asked| Asked { name: whose(&asked), ..asked });
    let (used, granted) = (used.collect::<BTreeSet<_>>(), granted()?);
    let unused: Vec<_> = granted.difference(&used).collect();
    let refused: Vec<_> = used.difference(&granted).collect();
    assert!(unused.is_empty() && refused.is_empty(), "never used: {unused:?}\nrefused: {refused:?}\n{}", testbed.log());
    // So whichever permission is taken away, something that the driver did would be refused.
    for permission in &granted {
        let rules = without(permission)?;
        let needed = used.iter().filter(|asked| !rules.iter().any(|rule| rule.grants(asked))).collect::<Vec<_>>();
        assert_eq!(needed, [permission]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_missing_is_told_with_what_it_is_for() -> Result<()> {
    let mut testbed = prepared("t4x1", &guard("100ms")).await?;
    let create = granted()?.into_iter().find(|asked| asked.verb == "create" && asked.resource == "resourceslices");
    testbed.api.permit(ACCOUNT, without(&create.unwrap())?);
    testbed.start_driver(&[])?;
    testbed.until("the refusal is logged", || testbed.log().contains("cannot create resourceslices")).await?;
    assert!(testbed.published().is_empty());
    // It goes on as soon as it may.
    testbed.api.permit(ACCOUNT, all()?);
    testbed.ready().await
}
