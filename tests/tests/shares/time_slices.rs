//! Time slices: set by the driver's own nvidia-smi for those who ask, one for each GPU, and given back.
use std::collections::BTreeSet;

use super::*;

/// Parameters with a wish.
fn wish(kind: &str, interval: &str, required: bool) -> Value {
    json!({"apiVersion": "gpu.aliquot.dev/v1alpha1", "kind": kind, "sharing":
        {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval, "required": required}}})
}

fn config(source: &str, parameters: &Value) -> Value {
    json!({"source": source, "requests": [], "opaque": {"driver": DRIVER, "parameters": parameters}})
}

/// A claim to a tenth of the GPU, with parameters.
async fn claim(testbed: &Testbed, name: &str, configs: &[Value]) -> Result<Claim> {
    let devices = json!({"results": [share("gpu", T4_SHARE, 1, 1)], "config": configs});
    testbed.allocated_as(name, json!({ "devices": devices })).await
}

pub(super) async fn wishing(testbed: &Testbed, name: &str, interval: &str) -> Result<Claim> {
    claim(testbed, name, &[config("FromClaim", &wish("ShareConfig", interval, false))]).await
}

/// The lengths that were set, in order.
pub(super) fn set(testbed: &Testbed) -> Vec<u8> {
    testbed.node.time_slices().into_iter().map(|(_, length)| length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_has_the_time_slice_of_those_who_ask_until_the_last_has_left() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let short = wishing(&testbed, "first", "Short").await?;
    let same = wishing(&testbed, "same", "Short").await?;
    let long = wishing(&testbed, "other", "Long").await?;
    let plain = claim(&testbed, "plain", &[]).await?;
    testbed.prepare(&short).await?.unwrap();
    assert_eq!(testbed.node.time_slices(), [(testbed.node.profile().gpus[0].uuid.clone(), 1)]);
    testbed.prepare(&plain).await?.unwrap();
    testbed.prepare(&same).await?.unwrap();
    let error = testbed.prepare(&long).await?.unwrap_err();
    for words in ["asks for time slice Long", "default/", "set Short", "the kubelet tries again"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(error.contains("default/first") || error.contains("default/same"), "{error}");
    assert_eq!((set(&testbed), testbed.records()?.len()), (vec![1], 3), "the refused claim changed nothing");
    testbed.unprepare(&short).await?.unwrap();
    assert_eq!(set(&testbed), [1], "another one asks for the same");
    testbed.unprepare(&same).await?.unwrap();
    assert_eq!(set(&testbed), [1, 0]);
    testbed.prepare(&long).await?.unwrap();
    testbed.unprepare(&plain).await?.unwrap();
    testbed.unprepare(&long).await?.unwrap();
    assert_eq!(set(&testbed), [1, 0, 3, 0]);
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_another_time_slice_hears_whose_stands_in_the_way() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let short = wishing(&testbed, "first", "Short").await?;
    let long = wishing(&testbed, "other", "Long").await?;
    testbed.prepare(&short).await?.unwrap();
    let error = testbed.prepare(&long).await?.unwrap_err();
    assert!(error.contains("default/first") && error.contains(&short.uid), "{error}");
    testbed.unprepare(&short).await?.unwrap();
    testbed.prepare(&long).await?.unwrap();
    assert_eq!(set(&testbed), [1, 0, 3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claims_parameters_come_before_its_classs() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let (medium, long) = (wish("ShareConfig", "Medium", false), wish("ShareConfig", "Long", false));
    let of_class = config("FromClass", &long);
    for (name, configs, length) in [
        ("class", vec![of_class.clone()], 3),
        ("both", vec![of_class.clone(), config("FromClaim", &medium)], 2),
        // The order in the list has no say.
        ("turned", vec![config("FromClaim", &medium), of_class], 2),
    ] {
        let claim = claim(&testbed, name, &configs).await?;
        let before = set(&testbed).len();
        testbed.prepare(&claim).await?.unwrap();
        testbed.unprepare(&claim).await?.unwrap();
        assert_eq!(set(&testbed)[before..], [length, 0], "{name}");
    }
    // Parameters of a whole GPU for this very request would do nothing.
    let mut wrong = config("FromClaim", &wish("GpuConfig", "Short", false));
    wrong["requests"] = json!(["gpu"]);
    let claim = claim(&testbed, "wrong", &[wrong]).await?;
    let error = testbed.prepare(&claim).await?.unwrap_err();
    assert!(error.contains("GpuConfig") && error.contains("takes a ShareConfig"), "{error}");
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_gpu_has_its_time_slice_set_too() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    let configs = [config("FromClaim", &wish("GpuConfig", "Long", false))];
    let devices = json!({"results": [whole("gpu", T4)], "config": configs});
    let claim = testbed.allocated_as("whole", json!({ "devices": devices })).await?;
    testbed.prepare(&claim).await?.unwrap();
    testbed.unprepare(&claim).await?.unwrap();
    assert_eq!(set(&testbed), [3, 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_cannot_be_set_the_pod_starts_and_hears_of_it() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    testbed.node.refuse_time_slices(3)?;
    let mut template = template("wishing", &json!({"deviceClassName": "share.gpu.aliquot.dev"}));
    let parameters = wish("ShareConfig", "Short", false);
    template["spec"]["spec"]["devices"]["config"] = json!([{"opaque": {"driver": DRIVER, "parameters": parameters}}]);
    aliquot_tests::testbed::apply(&testbed.client, &[template]).await?;
    let (pod, _) = testbed.run_pod(pod("wishing", &["wishing"])).await?;
    let (object, note) = testbed.event("TimeSliceNotSet").await?;
    assert_eq!(object, "Pod wishing");
    let uuid = &testbed.node.profile().gpus[0].uuid;
    assert!(note.contains(uuid) && note.contains("Short") && note.contains("starts without it"), "{note}");
    testbed.stop_pod(&pod).await?;
    let insisting = config("FromClaim", &wish("ShareConfig", "Short", true));
    let claim = claim(&testbed, "insisting", &[insisting]).await?;
    let error = testbed.prepare(&claim).await?.unwrap_err();
    assert!(error.contains("can't be set to Short") && error.contains("required: true"), "{error}");
    assert_eq!(set(&testbed), Vec::<u8>::new());
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_insists_is_not_content_with_what_another_one_only_wished_for() -> Result<()> {
    let testbed = Testbed::start("t4x1").await?;
    testbed.node.refuse_time_slices(3)?;
    let wishing = wishing(&testbed, "wishing", "Short").await?;
    testbed.prepare(&wishing).await?.unwrap();
    let insisting = config("FromClaim", &wish("ShareConfig", "Short", true));
    // The first request has no wish of its own.
    let only = |mut config: Value, request: &str| {
        config["requests"] = json!([request]);
        config
    };
    let devices = json!({"results": [share("a", T4_SHARE, 1, 1), share("b", T4_SHARE, 1, 1)],
        "config": [only(insisting, "b")]});
    let insisting = testbed.allocated_as("insisting", json!({ "devices": devices })).await?;
    let error = testbed.prepare(&insisting).await?.unwrap_err();
    assert!(error.contains("can't be set to Short") && error.contains("required: true"), "{error}");
    testbed.node.allow_time_slices()?;
    testbed.prepare(&insisting).await?.unwrap();
    assert_eq!(set(&testbed).last(), Some(&1));
    testbed.unprepare(&insisting).await?.unwrap();
    testbed.unprepare(&wishing).await?.unwrap();
    assert_eq!(set(&testbed).last(), Some(&0));
    nothing_is_left(&testbed)
}

/// Everything after which a crash could leave a GPU with the wrong time slice.
const PREPARE: [&str; 3] = ["reserved", "time-slice-set", "spec-placed"];
const UNPREPARE: [&str; 3] = ["time-slice-restored", "spec-removed", "released"];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_prepare_the_next_call_sets_it_right() -> Result<()> {
    let mut testbed = Testbed::start("t4x1").await?;
    for point in PREPARE {
        for again in [true, false] {
            let claim = wishing(&testbed, &format!("{point}-{again}"), "Medium").await?;
            testbed.restart_driver(&[("ALIQUOT_FAULT", &format!("{point}=kill"))]).await?;
            assert!(testbed.prepare(&claim).await.is_err(), "{point}: the driver is to die in the call");
            testbed.driver_ended().await?;
            testbed.restart_driver(&[]).await?;
            if again {
                testbed.prepare(&claim).await?.unwrap();
                assert_eq!(set(&testbed).last(), Some(&2), "{point}");
            }
            testbed.unprepare(&claim).await?.unwrap();
            assert!([None, Some(&0)].contains(&set(&testbed).last()), "{point}, again: {again}");
            nothing_is_left(&testbed)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_an_unprepare_the_next_one_gives_it_back() -> Result<()> {
    let mut testbed = Testbed::start("t4x1").await?;
    for point in UNPREPARE {
        let claim = wishing(&testbed, point, "Medium").await?;
        testbed.prepare(&claim).await?.unwrap();
        testbed.restart_driver(&[("ALIQUOT_FAULT", &format!("{point}=kill"))]).await?;
        assert!(testbed.unprepare(&claim).await.is_err(), "{point}: the driver is to die in the call");
        testbed.driver_ended().await?;
        testbed.restart_driver(&[]).await?;
        testbed.unprepare(&claim).await?.unwrap();
        assert_eq!(set(&testbed).last(), Some(&0), "{point}");
        nothing_is_left(&testbed)?;
    }
    let lengths: BTreeSet<u8> = set(&testbed).into_iter().collect();
    assert_eq!(lengths, BTreeSet::from([0, 2]));
    Ok(())
}
