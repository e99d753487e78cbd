//! What is not removed: whatever is live, and whatever nobody can prove to be gone.
use std::time::SystemTime;

use aliquot_tests::objects::{pod, templates};
use aliquot_tests::testbed::apply;
use fake_apiserver::{Fault, Trouble};
use fake_kubelet::ListTrouble;

use super::*;

fn claims_in(trouble: Trouble) -> Fault {
    Fault { verb: "get".into(), resource: "resourceclaims".into(), times: usize::MAX, trouble }
}

fn is_whole(testbed: &Testbed) -> bool {
    testbed.records().is_ok_and(|records| records.len() == 1) && testbed.specs().is_ok_and(|specs| specs.len() == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_claims_nobody_is_asked_for_anything() -> Result<()> {
    let testbed = started(&[]).await?;
    let claim = forgotten(&testbed, "a", ONE).await?;
    rounds(&testbed, 2).await?;
    testbed.unprepare(&claim).await?.unwrap();
    let (lists, gets) = (testbed.kubelet.lists(), asked(&testbed));
    tokio::time::sleep(GRACE).await;
    // One round may have been on its way.
    assert!(testbed.kubelet.lists() <= lists + 1 && asked(&testbed) <= gets + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_in_trouble_proves_nothing() -> Result<()> {
    let testbed = started(&[]).await?;
    forgotten(&testbed, "a", ONE).await?;
    delete(&testbed, "a").await?;
    for trouble in [
        Trouble::Error(500, None),
        Trouble::Error(403, None),
        Trouble::Error(404, None),
        Trouble::Error(410, None),
        Trouble::Error(429, Some(1)),
        Trouble::Garbage,
    ] {
        testbed.api.heal();
        testbed.api.inject(claims_in(trouble.clone()));
        rounds(&testbed, ENOUGH).await?;
        assert!(is_whole(&testbed), "{trouble:?}\n{}", testbed.log());
    }
    testbed.api.heal();
    swept(&testbed).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_in_trouble_proves_nothing() -> Result<()> {
    let testbed = started(&[]).await?;
    testbed.kubelet.trouble_list(ListTrouble::Refused);
    forgotten(&testbed, "a", ONE).await?;
    delete(&testbed, "a").await?;
    rounds(&testbed, ENOUGH).await?;
    assert!(is_whole(&testbed), "refused");
    assert_eq!(asked(&testbed), 1, "nobody else is asked for what can't be proven: only the prepare read the claim");
    testbed.kubelet.trouble_list(ListTrouble::Silence);
    rounds(&testbed, 2).await?;
    assert!(is_whole(&testbed), "hung");
    std::fs::remove_file(testbed.node.path("kubelet/pod-resources/kubelet.sock"))?;
    testbed.kubelet.trouble_list(ListTrouble::None);
    tokio::time::sleep(GRACE * 2).await;
    assert!(is_whole(&testbed), "no socket");
    testbed.kubelet.restart()?;
    swept(&testbed).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_uses_stays_whatever_the_api_server_says() -> Result<()> {
    let testbed = started(&[]).await?;
    apply(&testbed.client, &templates()).await?;
    let (made, _) = testbed.run_pod(pod("a", &["whole"])).await?;
    let name = claims(&testbed).list(&kube::api::ListParams::default()).await?.items.remove(0).metadata.name.unwrap();
    allocate(&testbed, &name, Value::Null).await?;
    let gets = asked(&testbed);
    rounds(&testbed, ENOUGH).await?;
    assert!(is_whole(&testbed));
    assert_eq!(asked(&testbed), gets, "what is in use is not asked for");
    testbed.kubelet.stop_pod(made.metadata.uid.as_deref().unwrap()).await?;
    assert!(holds_nothing(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_of_its_pod_still_uses_stays_until_that_has_ended() -> Result<()> {
    let testbed = started(&[]).await?;
    let claim = testbed.allocated("a", &[("gpu", ONE)]).await?;
    let pods = json!({"status": {"reservedFor": [{"resource": "pods", "name": "a", "uid": "pod-uid-1"}]}});
    claims(&testbed).patch_status("a", &PatchParams::default(), &Patch::Merge(pods)).await?;
    testbed.prepare(&claim).await?.unwrap();
    let mut child = std::process::Command::new("sleep").arg("600").spawn()?;
    testbed.node.place(child.id(), Some("pod-uid-1"))?;
    let process = fake_nvml::Process { pid: child.id(), used: Some(1 << 30), graphics: false };
    let processes = [(testbed.node.profile().gpus[0].uuid.clone(), vec![process])].into();
    testbed.node.control(&fake_nvml::Control { processes, ..fake_nvml::Control::default() })?;
    delete(&testbed, "a").await?;
    testbed
        .until("it was found in use", || testbed.log().contains("a container or process on this node uses it"))
        .await?;
    assert!(is_whole(&testbed));
    child.kill()?;
    child.wait()?;
    swept(&testbed).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_no_container_references_stays_while_it_is_allocated_here() -> Result<()> {
    let testbed = started(&[]).await?;
    forgotten(&testbed, "a", ONE).await?;
    let gets = asked(&testbed);
    rounds(&testbed, 2 * ENOUGH).await?;
    assert!(is_whole(&testbed));
    assert!(asked(&testbed) - gets < 8, "asked for {} times in {} rounds", asked(&testbed) - gets, 2 * ENOUGH);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepare_that_comes_in_between_wins() -> Result<()> {
    let testbed = started(&[]).await?;
    let claim = forgotten(&testbed, "a", ONE).await?;
    for _ in 0..5 {
        allocate(&testbed, "a", Value::Null).await?;
        testbed.until_metric("aliquot_claims_suspect", Some(1)).await?;
        allocate(&testbed, "a", on(NODE, ONE)).await?;
        testbed.prepare(&claim).await?.unwrap();
        assert!(is_whole(&testbed));
    }
    rounds(&testbed, ENOUGH).await?;
    assert!(is_whole(&testbed));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_change_nothing() -> Result<()> {
    let testbed = started(&[]).await?;
    forgotten(&testbed, "a", ONE).await?;
    // What a jump of the wall clock leaves behind: files of the year 2000, and of the future.
    let epoch = SystemTime::UNIX_EPOCH;
    for seconds in [946_684_800, 4_102_444_800] {
        for path in testbed.records()?.iter().chain(&testbed.specs()?) {
            std::fs::File::options().append(true).open(path)?.set_modified(epoch + Duration::from_secs(seconds))?;
        }
        rounds(&testbed, ENOUGH).await?;
        assert!(is_whole(&testbed));
    }
    let begun = Instant::now();
    delete(&testbed, "a").await?;
    swept(&testbed).await?;
    assert!(begun.elapsed() >= GRACE);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_report_mode_it_is_only_told_and_once() -> Result<()> {
    let testbed = started(&[("ALIQUOT_SWEEP", "report")]).await?;
    let claim = forgotten(&testbed, "a", ONE).await?;
    delete(&testbed, "a").await?;
    testbed.until_metric("aliquot_claims_stale", Some(1)).await?;
    let (regarding, note) = testbed.event("StaleClaim").await?;
    assert_eq!(regarding, format!("Node {NODE}"));
    assert!(note.contains(&claim.uid) && note.contains("--sweep=act"), "{note}");
    let writes = testbed.api.writes();
    rounds(&testbed, ENOUGH).await?;
    assert!(is_whole(&testbed));
    assert_eq!(testbed.api.writes(), writes, "it is told once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn turned_off_it_looks_at_nothing() -> Result<()> {
    let testbed = started(&[("ALIQUOT_SWEEP", "off")]).await?;
    forgotten(&testbed, "a", ONE).await?;
    delete(&testbed, "a").await?;
    tokio::time::sleep(GRACE * 3).await;
    assert!(is_whole(&testbed));
    assert_eq!(testbed.kubelet.lists(), 0);
    Ok(())
}
