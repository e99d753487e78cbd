//! Which GPU a pod has, as its claim's `status.devices` says it: written once, beside others' entries, and never in the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use aliquot_tests::{
    objects::{allocation, share, whole},
    policies,
    testbed::{ACCOUNT, DRIVER, Result, Testbed, rules},
};
use fake_apiserver::{Fault, Server, Trouble};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};

const FIRST: &str = "gpu-0000-1b-00";
const SHARED: &str = "gpu-0000-43-00-shared";
const RBAC: &str = include_str!("../../deploy/base/rbac.yaml");

/// What a claim's status says of its devices.
fn told(testbed: &Testbed, name: &str) -> Vec<Value> {
    let claim = testbed.api.peek("resourceclaims", "default", name).unwrap_or_default();
    claim.pointer("/status/devices").and_then(Value::as_array).cloned().unwrap_or_default()
}

async fn until_told(testbed: &Testbed, name: &str) -> Result<Vec<Value>> {
    let own = || told(testbed, name).into_iter().filter(|entry| entry["driver"] == DRIVER).collect::<Vec<_>>();
    testbed.until(&format!("{name} says what it was given"), || !own().is_empty()).await?;
    Ok(own())
}

fn patches(testbed: &Testbed) -> usize {
    testbed.api.requests().get(&("patch".to_owned(), "resourceclaims".to_owned())).copied().unwrap_or_default()
}

/// How often the log says this.
fn said(testbed: &Testbed, words: &str) -> usize {
    testbed.log().matches(words).count()
}

async fn until_missing(testbed: &Testbed, claims: u64) -> Result<()> {
    testbed.until_metric("aliquot_claim_status_missing", Some(claims)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_says_which_gpu_it_has_and_how_its_share_is_held_to_its_memory() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let claim = testbed.allocated_as("both", allocation(&[whole("gpu", FIRST), share("part", SHARED, 1, 8)])).await?;
    testbed.prepare(&claim).await??;
    let entries = until_told(&testbed, "both").await?;
    let [first, second] = entries.as_slice() else { panic!("{entries:?}") };
    let gpus = &testbed.node.profile().gpus;
    assert_eq!(
        first["data"],
        json!({"uuid": gpus[0].uuid, "pciBusID": "0000:1b:00.0", "productName": "NVIDIA H100 80GB HBM3"})
    );
    assert_eq!(first["device"], FIRST);
    let guarded = json!({"shares": 1, "memory": "8Gi", "memoryEnforcement": "guard", "memoryGuard": "observe"});
    assert_eq!((&second["device"], &second["data"]["share"]), (&json!(SHARED), &guarded));
    assert!(second["shareID"].is_string(), "{second}");
    for entry in &entries {
        let conditions: Vec<_> =
            entry["conditions"].as_array().unwrap().iter().map(|one| (&one["type"], &one["status"])).collect();
        assert_eq!(conditions, [(&json!("Ready"), &json!("True")), (&json!("Healthy"), &json!("True"))]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_written_once_and_a_restart_writes_nothing() -> Result<()> {
    let mut testbed = policies::prepared("h100x8", "[{shares: {guard: {mode: observe}}}]").await?;
    let policy = policies::file(&testbed);
    let environment = [("ALIQUOT_POLICY", policy.to_str().unwrap())];
    testbed.start_driver(&environment)?;
    testbed.ready().await?;
    let results = [share("gpu", SHARED, 1, 8)];
    for name in ["one", "two"] {
        let before = patches(&testbed);
        let claim = testbed.allocated_as(name, allocation(&results)).await?;
        let allocated = patches(&testbed);
        testbed.prepare(&claim).await??;
        until_told(&testbed, name).await?;
        assert_eq!((allocated - before, patches(&testbed) - allocated), (1, 1));
    }
    let written = patches(&testbed);
    testbed.restart_driver(&environment).await?;
    // It is told after the others were looked at.
    let claim = testbed.allocated_as("three", allocation(&[whole("gpu", FIRST)])).await?;
    testbed.prepare(&claim).await??;
    until_told(&testbed, "three").await?;
    assert_eq!(patches(&testbed), written + 2, "one is the allocation itself");
    // What changes of all shares is written once for each.
    policies::replace(&testbed, policies::policy("[{shares: {guard: {mode: evict}}}]"))?;
    let has_changed = |name: &str| told(&testbed, name)[0].pointer("/data/share/memoryGuard") == Some(&json!("evict"));
    testbed.until("both say the new guard", || has_changed("one") && has_changed("two")).await?;
    assert_eq!(patches(&testbed), written + 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_other_drivers_stay() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let foreign = json!({"driver": "nic.example.com", "pool": "p", "device": "nic-0", "request": "nic"});
    let claim = testbed.allocated_as("mixed", allocation(&[foreign, whole("gpu", FIRST)])).await?;
    let claims: Api<ResourceClaim> = Api::namespaced(testbed.client.clone(), "default");
    let entry = json!({"driver": "nic.example.com", "pool": "p", "device": "nic-0", "data": {"address": "10.0.0.1"}});
    let status = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "mixed"},
        "status": {"devices": [entry]}});
    claims.patch_status("mixed", &PatchParams::apply("nic"), &Patch::Apply(&status)).await?;
    testbed.prepare(&claim).await??;
    until_told(&testbed, "mixed").await?;
    assert!(told(&testbed, "mixed").contains(&entry), "{:?}", told(&testbed, "mixed"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_said_once_and_claims_are_prepared_all_the_same() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    let mut rules = rules(RBAC, ACCOUNT)?;
    rules.retain(|rule| rule.resources != ["resourceclaims/driver"]);
    testbed.api.permit(ACCOUNT, rules);
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    for (name, device) in [("one", FIRST), ("two", "gpu-0000-43-00")] {
        let claim = testbed.allocated(name, &[("gpu", device)]).await?;
        testbed.prepare(&claim).await??;
        until_missing(&testbed, if name == "one" { 1 } else { 2 }).await?;
    }
    let refused = "refuses status.devices of claims";
    testbed.until("the refusal is said", || said(&testbed, refused) == 1).await?;
    assert!(said(&testbed, "associated-node:patch on resourceclaims/driver") == 1, "{}", testbed.log());
    testbed.until_metric("aliquot_claim_status_writes_total{outcome=\"refused\"}", Some(1)).await?;
    assert!(told(&testbed, "one").is_empty() && told(&testbed, "two").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stores_no_such_field_is_written_to_once() -> Result<()> {
    let server = Server::builder().drop_field("resourceclaims", "status.devices");
    let mut testbed = Testbed::without_driver("h100x8", server).await?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    let first = testbed.allocated("one", &[("gpu", FIRST)]).await?;
    testbed.prepare(&first).await??;
    testbed.until("it is said", || said(&testbed, "stores no status.devices") == 1).await?;
    let second = testbed.allocated("two", &[("gpu", "gpu-0000-43-00")]).await?;
    let before = patches(&testbed);
    testbed.prepare(&second).await??;
    until_missing(&testbed, 2).await?;
    assert_eq!((patches(&testbed), said(&testbed, "stores no status.devices")), (before, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_gone_is_no_trouble_and_one_that_fails_is_tried_again() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let claims: Api<ResourceClaim> = Api::namespaced(testbed.client.clone(), "default");
    let gone = testbed.allocated("gone", &[("gpu", FIRST)]).await?;
    let trouble =
        Fault { verb: "patch".into(), resource: "resourceclaims".into(), times: 1, trouble: Trouble::Error(500, None) };
    let kept = testbed.allocated("kept", &[("gpu", "gpu-0000-43-00")]).await?;
    testbed.api.inject(trouble);
    testbed.prepare(&gone).await??;
    claims.delete("gone", &DeleteParams::default()).await?;
    testbed.prepare(&kept).await??;
    until_told(&testbed, "kept").await?;
    until_missing(&testbed, 0).await?;
    assert!(!testbed.log().contains("WARN"), "{}", testbed.log());
    Ok(())
}
