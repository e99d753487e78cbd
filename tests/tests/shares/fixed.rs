//! API servers that don't store what whole and shared at once take: a fixed form, told and never half-offered.
use std::time::Duration;

use fake_apiserver::{Fault, Trouble};
use fake_kubelet::allocator::{Features, Scheduler};
use fake_nvml::Control;

use super::*;

/// A policy file, which the caller keeps.
fn policy(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, format!("apiVersion: gpu.aliquot.dev/v1alpha1\nkind: Policy\nrules: {text}\n")).unwrap();
    (dir, file.to_str().unwrap().to_owned())
}

/// No version of any slice offers a device of which several claims could have parts: as it would be stored here, the
/// first claim would get all of it.
fn never_shared(testbed: &Testbed) -> Result<()> {
    for devices in testbed.ever_published()? {
        assert!(devices.iter().all(|name| !name.ends_with("-shared")), "{devices:?}");
    }
    Ok(())
}

async fn is_told(testbed: &Testbed) -> Result<()> {
    let (object, note) = testbed.event("SharesFixed").await?;
    assert_eq!(object, format!("Node {NODE}"));
    assert!(note.contains("DRAConsumableCapacity") && note.contains("DRAPartitionableDevices"), "{note}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_gates_gpus_are_whole_unless_the_policy_says_shares() -> Result<()> {
    let mut testbed = Testbed::without_driver("t4x1", old_server()).await?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    assert_eq!(testbed.published(), [T4.to_owned(), format!("{T4}-admin")]);
    is_told(&testbed).await?;
    never_shared(&testbed)?;
    let claim = sharing(&testbed, "claim", &[whole("gpu", T4)]).await?;
    testbed.prepare(&claim).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_field_alone_is_enough_for_the_fixed_form() -> Result<()> {
    for path in GATED {
        let mut testbed = Testbed::without_driver("t4x1", Server::builder().drop_field("resourceslices", path)).await?;
        testbed.start_driver(&[])?;
        testbed.ready().await?;
        assert_eq!(testbed.published(), [T4.to_owned(), format!("{T4}-admin")], "{path}");
        never_shared(&testbed)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_number_of_shares_has_one_holder_each() -> Result<()> {
    let (_dir, file) = policy("[{fallback: shares, shares: {count: 3, memory: {default: 4Gi}}}]");
    let mut testbed = Testbed::without_driver("t4x1", old_server()).await?;
    testbed.start_driver(&[("ALIQUOT_POLICY", &file)])?;
    testbed.ready().await?;
    let slots = [0, 1, 2].map(|number| format!("{T4}-share-{number}"));
    assert_eq!(testbed.published(), [slots.as_slice(), &[format!("{T4}-admin")]].concat());
    is_told(&testbed).await?;
    // A scheduler of that age counts neither capacity nor counters.
    let old = Features { consumable_capacity: false, partitionable_devices: false, ..Features::default() };
    let scheduler = Scheduler::new(testbed.client.clone(), NODE).with_features(old);
    aliquot_tests::testbed::apply(&testbed.client, &templates()).await?;
    let mut pods = Vec::new();
    for number in 0..3 {
        let pod = testbed.create_pod(pod(&format!("pod{number}"), &["share"])).await?;
        let spec = scheduler.schedule(&pod).await?;
        let ids = testbed.kubelet.run_pod(spec).await?.containers["main"].clone();
        assert_eq!(testbed.nodes_of(&ids)?, ["/dev/nvidia0"]);
        let env = testbed.env_of(&ids)?;
        assert_eq!((env["ALIQUOT_SHARES"].as_str(), env["ALIQUOT_SHARE_MEMORY_BYTES"].parse()), ("1", Ok(4 * GI)));
        pods.push(pod);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(testbed.published().len(), 4, "those that are free are still there");
    }
    let fourth = testbed.create_pod(pod("fourth", &["share"])).await?;
    let error = scheduler.schedule(&fourth).await.unwrap_err().to_string();
    assert!(error.contains("is in use"), "{error}");
    testbed.stop_pod(&pods[1]).await?;
    let spec = scheduler.schedule(&fourth).await?;
    testbed.kubelet.run_pod(spec).await?;
    assert_eq!(testbed.records()?.len(), 3);
    never_shared(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_shares_are_not_cut_anew_under_those_who_hold_some() -> Result<()> {
    let rules = |count| aliquot_tests::policies::policy(&format!("[{{offer: [shares], shares: {{count: {count}}}}}]"));
    let (dir, file) = policy("[{offer: [shares], shares: {count: 3}}]");
    let mut testbed = Testbed::without_driver("t4x1", old_server()).await?;
    testbed.start_driver(&[("ALIQUOT_POLICY", &file)])?;
    testbed.ready().await?;
    let slots = || testbed.published().iter().filter(|name| name.contains("-share-")).count();
    let claim = sharing(&testbed, "claim", &[whole("gpu", &format!("{T4}-share-1"))]).await?;
    testbed.prepare(&claim).await?.unwrap();
    std::fs::write(dir.path().join("policy.yaml"), rules(5))?;
    testbed.until("none is offered beside the larger one", || slots() == 0).await?;
    testbed.unprepare(&claim).await?.unwrap();
    testbed.until("there are five", || slots() == 5).await?;
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_are_switched_off_leave_shares_in_use_alone_until_they_go() -> Result<()> {
    let mut testbed = Testbed::start("l40sx2").await?;
    let (first, second) = ("gpu-0000-17-00", "gpu-0000-ca-00");
    let shared = format!("{first}-shared");
    let claim = sharing(&testbed, "claim", &[share("gpu", &shared, 2, 8)]).await?;
    let ids = testbed.prepare(&claim).await?.unwrap();
    let old = old_server().start().await?;
    let kubeconfig = testbed.node.path("old-kubeconfig");
    std::fs::write(&kubeconfig, old.kubeconfig())?;
    let client = kube::Client::try_from(kube::Config::new(old.url().parse()?))?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    aliquot_tests::testbed::apply(&client, &[node]).await?;
    testbed.restart_driver(&[("KUBECONFIG", kubeconfig.to_str().unwrap())]).await?;
    let names = || {
        let slices = old.peek_all("resourceslices");
        let devices = slices.iter().filter_map(|slice| slice["spec"]["devices"].as_array()).flatten();
        devices.filter_map(|device| device["name"].as_str().map(ToOwned::to_owned)).collect::<Vec<_>>()
    };
    testbed.until("the other GPU is offered whole", || names().contains(&second.to_owned())).await?;
    assert!(!names().contains(&first.to_owned()), "a share of it is in use: {:?}", names());
    assert_eq!(testbed.prepare(&claim).await?.unwrap(), ids, "what runs stays as it is");
    testbed.unprepare(&claim).await?.unwrap();
    testbed.until("this one is, too", || names().contains(&first.to_owned())).await?;
    let ever = json!(old.history("resourceslices")).to_string();
    assert!(!ever.contains("-shared"), "as it would be stored here, one claim could get all of it");
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_are_switched_off_while_the_driver_runs_are_seen_at_the_next_write() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    assert!(testbed.published().contains(&T4_SHARE.to_owned()));
    testbed.api.drop_field("resourceslices", "spec.devices[].allowMultipleAllocations");
    let slices: kube::Api<k8s_openapi::api::resource::v1::ResourceSlice> = kube::Api::all(testbed.client.clone());
    slices.delete_collection(&kube::api::DeleteParams::default(), &kube::api::ListParams::default()).await?;
    is_told(&testbed).await?;
    testbed.until("the GPU is offered whole", || testbed.published() == [T4.to_owned(), format!("{T4}-admin")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_comes_before_the_first_reading_is_prepared_by_the_policys_file() -> Result<()> {
    let (_dir, file) = policy("[{shares: {count: 20}}]");
    for round in 0..5 {
        let mut testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
        let results = [share("gpu", T4_SHARE, 12, 1)];
        let claim = testbed.allocated_as(&format!("early-{round}"), allocation(&results)).await?;
        testbed.node.control(&Control { hang: [("nvmlDeviceGetName".into(), 300)].into(), ..Control::default() })?;
        testbed.start_driver(&[("ALIQUOT_POLICY", &file)])?;
        testbed.kubelet.wait_registered(DRIVER).await?;
        testbed.prepare(&claim).await?.unwrap();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_are_switched_on_later_are_seen_without_a_restart() -> Result<()> {
    let mut testbed = Testbed::without_driver("t4x1", old_server()).await?;
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    is_told(&testbed).await?;
    let holder = sharing(&testbed, "holder", &[whole("gpu", T4)]).await?;
    testbed.prepare(&holder).await?.unwrap();
    let before = testbed.api.writes();
    for path in GATED {
        testbed.api.store_field("resourceslices", path);
    }
    let both = [T4_SHARE.to_owned(), T4.to_owned(), format!("{T4}-admin")];
    testbed.until("the GPU is offered in shares, too", || testbed.published() == both).await?;
    assert!(testbed.event("SharesOffered").await?.1.contains("whole and as shares at once"));
    assert!(testbed.api.writes() > before && testbed.events("SharesFixed").len() == 1);
    // Who was there holds it still, for the scheduler as well.
    let counters = testbed.devices().iter().filter(|device| device.consumes_counters.is_some()).count();
    assert_eq!(counters, 2);
    Ok(())
}

/// Trouble for every question what the server stores.
fn unasked(testbed: &Testbed, trouble: Trouble, times: usize) {
    let fault = Fault { verb: "dry-run".into(), resource: "resourceslices".into(), times, trouble };
    testbed.api.inject(fault);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_may_not_be_asked_yet_says_nothing_of_shares() -> Result<()> {
    for (code, status) in [(403, "HTTP status 403"), (400, "HTTP status 400")] {
        let mut testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
        unasked(&testbed, Trouble::Error(code, None), usize::MAX);
        testbed.start_driver(&[])?;
        let (object, note) = testbed.event("SharesUnknown").await?;
        assert_eq!(object, format!("Node {NODE}"));
        assert!(note.contains(status) && note.contains("it is asked again"), "{note}");
        assert!(testbed.published().is_empty());
        testbed.api.heal();
        let both = [T4_SHARE.to_owned(), T4.to_owned(), format!("{T4}-admin")];
        testbed.until("the GPU is offered both ways", || testbed.published() == both).await?;
        assert!(testbed.events("SharesFixed").is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_busy_to_be_asked_gets_the_time_it_wants_and_is_complained_of_once() -> Result<()> {
    let mut testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
    unasked(&testbed, Trouble::Error(429, Some(2)), 4);
    testbed.start_driver(&[])?;
    testbed.until("it is logged", || testbed.log().contains("can't be asked what it stores")).await?;
    let asked = || testbed.api.requests().get(&("dry-run".to_owned(), "resourceslices".to_owned())).copied();
    // The pool's two slices are asked about at once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked(), Some(2));
    testbed.ready().await?;
    assert_eq!((asked(), testbed.log().matches("can't be asked what it stores").count()), (Some(6), 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_form_of_the_fields_is_told_with_what_it_said() -> Result<()> {
    let mut testbed = Testbed::without_driver("t4x1", Server::builder()).await?;
    unasked(&testbed, Trouble::Error(422, None), 2);
    testbed.start_driver(&[])?;
    testbed.ready().await?;
    is_told(&testbed).await?;
    assert_eq!(testbed.published(), [T4.to_owned(), format!("{T4}-admin")]);
    let both = [T4_SHARE.to_owned(), T4.to_owned(), format!("{T4}-admin")];
    testbed.until("a replica that is newer has answered", || testbed.published() == both).await
}
