//! What claims get: the real driver between the API stand-in and the kubelet stand-in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
use std::time::{Duration, Instant};

use aliquot_tests::testbed::{DRIVER, NODE, Result, Testbed, apply, documents, pods_and_others};
use fake_apiserver::{Fault, Server, Trouble};
use serde_json::json;

const ONE: &str = "gpu-0000-1b-00";
const TWO: &str = "gpu-0000-43-00";

/// Runs the pods of an example file and says which device nodes each container gets, by pod and container.
async fn example(testbed: &Testbed, text: &str) -> Result<Vec<(String, Vec<String>)>> {
    let objects: Vec<serde_json::Value> = documents(text)?;
    let (pods, others) = pods_and_others(objects);
    apply(&testbed.client, &others).await?;
    let mut seen = Vec::new();
    for pod in pods {
        let (pod, running) = testbed.run_pod(pod).await?;
        for (container, ids) in running.containers {
            let name = format!("{}/{container}", pod.metadata.name.clone().unwrap_or_default());
            seen.push((name, testbed.nodes_of(&ids)?));
        }
    }
    Ok(seen)
}

fn said(seen: &[(String, Vec<String>)]) -> Vec<(&str, Vec<&str>)> {
    seen.iter().map(|(name, nodes)| (name.as_str(), nodes.iter().map(String::as_str).collect())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_gives_each_container_what_it_asks_for() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let seen = example(&testbed, include_str!("../../deploy/examples/one-gpu.yaml")).await?;
    assert_eq!(said(&seen), [("one-gpu/main", vec!["/dev/nvidia7"])]);
    let seen = example(&testbed, include_str!("../../deploy/examples/two-containers.yaml")).await?;
    assert_eq!(
        said(&seen),
        [("two-containers/left", vec!["/dev/nvidia6"]), ("two-containers/right", vec!["/dev/nvidia5"])]
    );
    let seen = example(&testbed, include_str!("../../deploy/examples/shared-claim.yaml")).await?;
    assert_eq!(said(&seen), [("shared-a/main", vec!["/dev/nvidia4"]), ("shared-b/main", vec!["/dev/nvidia4"])]);
    let seen = example(&testbed, include_str!("../../deploy/examples/big-memory.yaml")).await?;
    assert_eq!(said(&seen), [("big-memory/main", vec!["/dev/nvidia3"])]);
    let seen = example(&testbed, include_str!("../../deploy/examples/first-available.yaml")).await?;
    assert_eq!(said(&seen), [("first-available/main", vec!["/dev/nvidia2"])]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_pod_of_a_shared_claim_takes_its_spec_and_record_along() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let objects: Vec<serde_json::Value> = documents(include_str!("../../deploy/examples/shared-claim.yaml"))?;
    apply(&testbed.client, &objects[..1]).await?;
    let (first, _) = testbed.run_pod(objects[1].clone()).await?;
    let (second, _) = testbed.run_pod(objects[2].clone()).await?;
    testbed.stop_pod(&first).await?;
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (1, 1));
    testbed.stop_pod(&second).await?;
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_another_claim_holds_is_waited_for() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let holder = testbed.allocated("holder", &[("gpu", ONE)]).await?;
    let next = testbed.allocated("next", &[("gpu", ONE)]).await?;
    let other = testbed.allocated("other", &[("gpu", TWO)]).await?;
    testbed.prepare(&holder).await?.unwrap();
    let waiting = testbed.prepare(&next);
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = Instant::now();
        // The wait holds up nobody else.
        testbed.prepare(&other).await?.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        testbed.unprepare(&holder).await?.unwrap();
        Result::Ok(Instant::now())
    };
    let (prepared, released) = tokio::join!(waiting, release);
    assert_eq!(testbed.nodes_of(&prepared?.unwrap())?, ["/dev/nvidia0"]);
    assert!(released?.elapsed() < Duration::from_secs(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_stays_held_is_refused_by_the_name_of_its_holder() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    testbed.start_driver(&[("ALIQUOT_PREPARE_BUDGET", "400ms")])?;
    testbed.ready().await?;
    let holder = testbed.allocated("holder", &[("gpu", ONE)]).await?;
    let next = testbed.allocated("next", &[("a", TWO), ("b", ONE)]).await?;
    testbed.prepare(&holder).await?.unwrap();
    let error = testbed.prepare(&next).await?.unwrap_err();
    assert!(error.contains(ONE) && error.contains("default/holder") && error.contains(&holder.uid), "{error}");
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (1, 1), "nothing is left of the refused claim");
    // An unprepare of the waiting claim ends its wait.
    testbed.unprepare(&next).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_gets_what_others_hold() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let holder = testbed.allocated("holder", &[("gpu", ONE)]).await?;
    testbed.prepare(&holder).await?.unwrap();
    let pool = format!("{DRIVER}/{NODE}");
    let result =
        |device| json!({"driver": DRIVER, "pool": pool, "device": device, "request": "all", "adminAccess": true});
    let allocation = json!({"devices": {"results": [result(ONE), result(TWO)]}});
    let admin = testbed.allocated_as("admin", allocation).await?;
    let ids = testbed.prepare(&admin).await?.unwrap();
    assert_eq!(testbed.nodes_of(&ids)?, ["/dev/nvidia0", "/dev/nvidia1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_drivers_devices_in_a_claim_are_none_of_ours() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let allocation = json!({"devices": {
        "results": [
            {"driver": "nic.example.com", "pool": "p", "device": "nic-0", "request": "nic"},
            {"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": ONE, "request": "gpu"}],
        "config": [{"source": "FromClaim", "requests": [], "opaque": {"driver": "nic.example.com", "parameters": {"a": 1}}}],
    }});
    let claim = testbed.allocated_as("both", allocation).await?;
    let ids = testbed.prepare(&claim).await?.unwrap();
    assert_eq!((ids.len(), testbed.nodes_of(&ids)?), (1, vec!["/dev/nvidia0".to_owned()]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_prepared_says_why_and_leaves_nothing() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let pool = format!("{DRIVER}/{NODE}");
    let gpu = json!([{"driver": DRIVER, "pool": pool, "device": ONE, "request": "gpu"}]);
    let parameters = json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": "GpuConfig", "mode": "fast"});
    let config = json!([{"source": "FromClass", "opaque": {"driver": DRIVER, "parameters": parameters}}]);
    for (name, allocation, words) in [
        (
            "gone",
            json!({"results": [{"driver": DRIVER, "pool": pool, "device": "gpu-0000-77-00", "request": "gpu"}]}),
            vec!["gpu-0000-77-00", "not on this node"],
        ),
        (
            "path",
            json!({"results": [{"driver": DRIVER, "pool": pool, "device": "../../etc", "request": "gpu"}]}),
            vec!["../../etc", "not on this node"],
        ),
        (
            "pool",
            json!({"results": [{"driver": DRIVER, "pool": "elsewhere", "device": ONE, "request": "gpu"}]}),
            vec!["elsewhere", "delete the claim"],
        ),
        ("config", json!({"results": gpu, "config": config}), vec!["DeviceClass", "mode is no field of GpuConfig"]),
        (
            "none",
            json!({"results": [{"driver": "nic.example.com", "pool": "p", "device": "n", "request": "nic"}]}),
            vec!["holds no device of driver"],
        ),
    ] {
        let claim = testbed.allocated_as(name, json!({ "devices": allocation })).await?;
        let error = testbed.prepare(&claim).await?.unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
    }
    let mut other = testbed.allocated("other", &[("gpu", ONE)]).await?;
    other.uid = "00000000-0000-4000-8000-000000000000".to_owned();
    let error = testbed.prepare(&other).await?.unwrap_err();
    assert!(error.contains("created again") && error.contains(&other.uid), "{error}");
    other.name = "missing".to_owned();
    assert!(testbed.prepare(&other).await?.unwrap_err().contains("does not exist"));
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_claim_in_a_call_does_not_fail_the_others() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let good = testbed.allocated("good", &[("gpu", ONE)]).await?;
    let bad = testbed.allocated("bad", &[("gpu", "gpu-0000-77-00")]).await?;
    let answer = testbed.kubelet.client(DRIVER)?.prepare(vec![good.clone(), bad.clone()]).await?;
    assert!(answer.claims[&good.uid].error.is_empty() && !answer.claims[&bad.uid].error.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_and_unprepare_may_come_twice_and_at_once() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    let claim = testbed.allocated("claim", &[("gpu", ONE)]).await?;
    let (first, second) = tokio::join!(testbed.prepare(&claim), testbed.prepare(&claim));
    let ids = first?.unwrap();
    assert_eq!(second?.unwrap(), ids);
    let written = std::fs::metadata(&testbed.specs()?[0])?.modified()?;
    let reads = || testbed.api.requests().get(&("get".to_owned(), "resourceclaims".to_owned())).copied();
    let before = reads();
    assert_eq!(testbed.prepare(&claim).await?.unwrap(), ids);
    assert_eq!(std::fs::metadata(&testbed.specs()?[0])?.modified()?, written, "the spec is left alone");
    assert_eq!(reads(), before, "the API server is not asked again");
    let (first, second) = tokio::join!(testbed.unprepare(&claim), testbed.unprepare(&claim));
    assert!(first?.is_ok() && second?.is_ok() && testbed.unprepare(&claim).await?.is_ok());
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_stumbles_costs_time_and_not_the_claim() -> Result<()> {
    let testbed = Testbed::start("h100x8").await?;
    for (number, trouble) in
        [Trouble::Error(500, None), Trouble::Error(429, Some(1)), Trouble::Garbage].into_iter().enumerate()
    {
        let claim = testbed.allocated(&format!("claim{number}"), &[("gpu", ONE)]).await?;
        let fault = Fault { verb: "get".into(), resource: "resourceclaims".into(), times: 1, trouble: trouble.clone() };
        testbed.api.inject(fault);
        let begun = Instant::now();
        testbed.prepare(&claim).await?.unwrap();
        if matches!(trouble, Trouble::Error(429, _)) {
            assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
        }
        testbed.unprepare(&claim).await?.unwrap();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_stays_silent_is_named_before_the_kubelet_gives_up() -> Result<()> {
    let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
    testbed.start_driver(&[("ALIQUOT_PREPARE_BUDGET", "500ms")])?;
    testbed.ready().await?;
    let claim = testbed.allocated("claim", &[("gpu", ONE)]).await?;
    for trouble in [Trouble::Silence, Trouble::Error(503, None), Trouble::Garbage] {
        testbed.api.inject(Fault { verb: "get".into(), resource: "resourceclaims".into(), times: 1000, trouble });
        let begun = Instant::now();
        let error = testbed.prepare(&claim).await?.unwrap_err();
        assert!(error.contains("API server") && error.contains("default/claim"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        testbed.api.heal();
    }
    testbed.prepare(&claim).await?.unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_needs_no_api_server_also_after_a_restart() -> Result<()> {
    let mut testbed = Testbed::start("h100x8").await?;
    let claim = testbed.allocated("claim", &[("gpu", ONE)]).await?;
    let first = testbed.prepare(&claim).await?.unwrap();
    let spec = std::fs::read(&testbed.specs()?[0])?;
    assert!(testbed.stop_driver()?.success());
    testbed.api.inject(Fault {
        verb: String::new(),
        resource: "resourceclaims".into(),
        times: 1000,
        trouble: Trouble::Silence,
    });
    testbed.start_driver(&[])?;
    testbed.until("the driver is back", || testbed.log().matches("serving the kubelet").count() == 2).await?;
    testbed.ready().await?;
    assert_eq!(testbed.prepare(&claim).await?.unwrap(), first);
    assert_eq!(std::fs::read(&testbed.specs()?[0])?, spec, "byte for byte");
    testbed.unprepare(&claim).await?.unwrap();
    assert_eq!((testbed.specs()?.len(), testbed.records()?.len()), (0, 0));
    Ok(())
}
