//! What an error does, and what it doesn't.
use aliquot_tests::{
    objects::{pod, templates},
    testbed::apply,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_program_is_counted_and_nothing_else() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    let before = ward.writes();
    for count in 1..=3 {
        ward.reports(0, 31)?;
        ward.testbed.until_metric(&ward.heard(0, 31), Some(count)).await?;
    }
    assert_eq!((ward.tainted(), ward.writes()), (BTreeMap::new(), before));
    assert_eq!(ward.testbed.events("GPUUnhealthy").len(), 0);
    ward.until_health(FIRST, HealthStatus::Healthy).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_hardware_keeps_new_claims_off_its_gpu_only_and_its_pods_go_on() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    let claim = ward.testbed.allocated("before", &[("gpu", FIRST)]).await?;
    let ids = ward.testbed.prepare(&claim).await?.unwrap();
    ward.reports(0, 95)?;
    ward.until_tainted(&[FIRST]).await?;
    assert!(ward.tainted().values().all(|taint| *taint == ("xid-95".to_owned(), "NoSchedule".to_owned())));
    assert!(ward.testbed.published().contains(&format!("{FIRST}-admin")));
    let (object, note) = ward.testbed.event("GPUUnhealthy").await?;
    assert_eq!(object, format!("Node {NODE}"));
    for words in ["0000:1b:00.0", "Xid 95", TAINT, "pods that hold it go on", "nvidia-smi --gpu-reset"] {
        assert!(note.contains(words), "{words}: {note}");
    }
    for device in of(&[FIRST]) {
        let message = ward.until_health(&device, HealthStatus::Unhealthy).await?;
        assert!(message.contains("Xid 95"), "{message}");
    }
    ward.until_health(SECOND, HealthStatus::Healthy).await?;
    let series = format!("aliquot_gpu_ill{{uuid=\"{}\",action=\"reset-gpu\"}}", ward.uuid(0));
    ward.testbed.until_metric(&series, Some(1)).await?;
    // Whoever has it keeps it, and its containers can be started anew.
    assert_eq!(ward.testbed.prepare(&claim).await?.unwrap(), ids);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_gives_claims_other_gpus() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    apply(&ward.testbed.client, &templates()).await?;
    ward.reports(0, 95)?;
    ward.until_tainted(&[FIRST]).await?;
    for number in 0..7 {
        ward.testbed.run_pod(pod(&format!("p{number}"), &["whole"])).await?;
    }
    let waiting = ward.testbed.create_pod(pod("p7", &["whole"])).await?;
    let refusal = ward.testbed.scheduler.schedule(&waiting).await.unwrap_err().to_string();
    assert!(refusal.contains("is tainted"), "{refusal}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_an_ill_gpu_stays_as_it_is() -> Result<()> {
    let mut ward = Ward::start(&SLOW).await?;
    ward.reports(0, 95)?;
    ward.until_tainted(&[FIRST]).await?;
    ward.testbed.event("GPUUnhealthy").await?;
    let before = ward.writes();
    for count in 2..=4 {
        ward.reports(0, 95)?;
        ward.testbed.until_metric(&ward.heard(0, 95), Some(count)).await?;
    }
    assert_eq!(ward.writes(), before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_evicted_where_that_is_wanted_and_nothing_can_run_any_more() -> Result<()> {
    let environment = [SLOW.as_slice(), &[("ALIQUOT_EVICT_FROM_ILL_GPUS", "fatal")]].concat();
    let mut ward = Ward::start(&environment).await?;
    let claim = ward.testbed.allocated("claim", &[("gpu", FIRST)]).await?;
    ward.testbed.prepare(&claim).await?.unwrap();
    ward.reports(0, 79)?;
    ward.reports(1, 95)?;
    ward.until_tainted(&[FIRST, SECOND]).await?;
    let effect = |gpu: &str| ward.tainted()[gpu].1.clone();
    assert_eq!((effect(FIRST).as_str(), effect(SECOND).as_str()), ("NoExecute", "NoSchedule"));
    // The device has to stay in the slice, or nobody is evicted from it; but nobody can look at what isn't there.
    let (first, second) = (ward.uuid(0), ward.uuid(1));
    ward.control.removed = vec![first, second];
    ward.testbed.node.control(&ward.control)?;
    ward.until_tainted(&[FIRST]).await?;
    assert_eq!(ward.testbed.whole().len(), 7);
    assert!(!ward.testbed.published().contains(&format!("{FIRST}-admin")));
    ward.testbed.unprepare(&claim).await?.unwrap();
    ward.testbed.until("it goes with its last holder", || ward.testbed.whole().len() == 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_taints_are_not_stored_an_ill_gpu_is_left_out_but_for_those_who_look_after_it() -> Result<()> {
    let api = Server::builder().drop_field("resourceslices", "spec.devices[].taints");
    let mut ward = Ward::start_with(api, &SLOW).await?;
    assert_eq!(ward.testbed.whole().len(), 8);
    ward.reports(0, 95)?;
    let of_first = || ward.testbed.published().into_iter().filter(|name| name.starts_with(FIRST)).collect::<Vec<_>>();
    let admin = [format!("{FIRST}-admin")];
    ward.testbed.until("only its device for administration is there", || of_first() == admin).await?;
    assert_eq!(ward.testbed.whole().len(), 7);
    Ok(())
}
