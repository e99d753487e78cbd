//! Policies and pods that come and go in any order: no GPU is ever held twice, whatever was published meanwhile.
use aliquot_tests::{holds::Held, random::Random};
use fake_kubelet::{
    PrepareError,
    allocator::{ScheduleError, Unallocatable},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

/// Rules for a node with two GPUs.
const POLICIES: [&str; 6] = [
    "[]",
    "[{offer: [whole]}]",
    "[{offer: [shares], shares: {count: 3}}]",
    "[{offer: [shares], shares: {count: 10, order: spread}}]",
    "[{match: {pciAddress: '0000:17:00.0'}, offer: [whole]}, {offer: [shares]}]",
    "[{match: {pciAddress: '0000:17:00.0'}, offer: []}, {offer: [whole]}]",
];

/// What came of a pod.
enum Began {
    Runs(Box<Pod>),
    NoRoom,
    /// The scheduler saw slices from before the policy changed, and the node knew better.
    Refused,
}

async fn remove(testbed: &Testbed, pod: &Pod) -> Result<()> {
    testbed.stop_pod(pod).await
}

async fn begin(testbed: &Testbed, name: &str, template: &str) -> Result<Began> {
    let pod = testbed.create_pod(pod(name, &[template])).await?;
    let spec = match testbed.scheduler.schedule(&pod).await {
        Ok(spec) => spec,
        Err(ScheduleError::Unallocatable { source: Unallocatable::NoDevices(_), .. }) => {
            remove(testbed, &pod).await?;
            return Ok(Began::NoRoom);
        }
        Err(error) => return Err(error.into()),
    };
    match testbed.kubelet.run_pod(spec).await {
        Ok(_) => Ok(Began::Runs(Box::new(pod))),
        Err(PrepareError::Call(error)) => {
            let text = error.to_string();
            assert!(text.contains("try") || text.contains("holds") || text.contains("held"), "{text}");
            remove(testbed, &pod).await?;
            Ok(Began::Refused)
        }
        Err(error) => Err(error.into()),
    }
}

async fn run(seed: u64, steps: usize) -> Result<()> {
    let mut testbed = under("l40sx2", "[]").await?;
    apply(&testbed.client, &templates()).await?;
    let large = json!({"deviceClassName": "share.gpu.aliquot.dev",
        "capacity": {"requests": {"shares": "2", "memory": "9Gi"}}});
    apply(&testbed.client, &[template("large", &large)]).await?;
    let mut random = Random(seed);
    let mut pods: Vec<Pod> = Vec::new();
    let (mut begun, mut full) = (0, 0);
    for step in 0..steps {
        match random.below(10) {
            0 | 1 => {
                let at = usize::try_from(random.below(POLICIES.len() as u64))?;
                replace(&testbed, policy(POLICIES[at]))?;
            }
            2 => replace(&testbed, policy("[{offer: [whole, mig]}]"))?,
            3 if step % 4 == 0 => restart(&mut testbed).await?,
            // So that some changes are taken before the next pod comes.
            3 => tokio::time::sleep(Duration::from_millis(random.below(200))).await,
            4 | 5 if !pods.is_empty() => {
                let at = usize::try_from(random.below(pods.len() as u64))?;
                remove(&testbed, &pods.swap_remove(at)).await?;
            }
            n => {
                let template = ["share", "share", "large", "whole"][usize::try_from(n % 4)?];
                match begin(&testbed, &format!("p{step}"), template).await? {
                    Began::Runs(pod) => {
                        pods.push(*pod);
                        begun += 1;
                    }
                    Began::NoRoom => full += 1,
                    Began::Refused => {}
                }
            }
        }
        for (gpu, held) in testbed.holds()? {
            // The number of shares may have been larger when the first of them came.
            let held = Held { offered: (held.offered.0.max(10), held.offered.1), ..held };
            assert!(held.is_held_once(), "seed {seed}, step {step}: {gpu} {held:?}");
        }
        assert_eq!(testbed.records()?.len(), pods.len(), "seed {seed}, step {step}");
    }
    for pod in pods {
        remove(&testbed, &pod).await?;
    }
    assert!(begun > steps / 10 && full > 0, "too little happened: {begun} begun, {full} without room");
    replace(&testbed, policy("[{offer: [whole]}]"))?;
    let all_whole = || testbed.whole().len() == 2 && testbed.published().iter().all(|name| !name.contains("-share"));
    testbed.until("all are whole at the end", all_whole).await?;
    assert_eq!((testbed.specs()?, testbed.records()?), (vec![], vec![]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_policies_and_pods_do_no_gpu_is_held_twice() -> Result<()> {
    run(1, 100).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_in_any_other_order() -> Result<()> {
    run(2, 100).await
}
