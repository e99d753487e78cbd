//! Many pods that come and go in any order, of any size, with crashes in between: no GPU is ever held twice.
use std::collections::BTreeSet;

use aliquot_tests::{random::Random, testbed::apply};
use fake_kubelet::allocator::{ScheduleError, Unallocatable};
use k8s_openapi::api::core::v1::Pod;

use super::*;

/// No GPU is held whole by two, nor whole and in shares, nor beyond what it offers.
fn nothing_is_held_twice(testbed: &Testbed, step: &str) -> Result<()> {
    for (gpu, held) in testbed.holds()? {
        assert!(held.is_held_once(), "{step}: {gpu} {held:?}");
    }
    Ok(())
}

/// A claim of one or two requests: whole GPUs, or shares of random sizes.
fn claim(name: &str, random: &mut Random) -> Value {
    let request = |(n, random): (u64, &mut Random)| {
        let exactly = match random.below(4) {
            0 => json!({"deviceClassName": "gpu.aliquot.dev"}),
            1 => json!({"deviceClassName": "share.gpu.aliquot.dev"}),
            _ => {
                let (shares, memory) = (1 + random.below(4), 1 + random.below(20_000));
                json!({"deviceClassName": "share.gpu.aliquot.dev",
                    "capacity": {"requests": {"shares": shares.to_string(), "memory": format!("{memory}Mi")}}})
            }
        };
        json!({"name": format!("r{n}"), "exactly": exactly})
    };
    let mut requests = vec![request((0, random))];
    if random.below(4) == 0 {
        requests.push(request((1, random)));
    }
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": {"requests": requests}}})
}

async fn delete<K>(testbed: &Testbed, name: &str) -> Result<()>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    kube::Api::<K>::namespaced(testbed.client.clone(), "default")
        .delete(name, &kube::api::DeleteParams::default())
        .await?;
    Ok(())
}

/// Makes a claim and a pod, and runs it if there is room: none if there is not.
async fn begin(testbed: &Testbed, step: usize, random: &mut Random) -> Result<Option<Pod>> {
    let name = format!("p{step}");
    apply(&testbed.client, &[claim(&name, random)]).await?;
    let mut pod = pod(&name, &[""]);
    pod["spec"]["resourceClaims"] = json!([{"name": "c0", "resourceClaimName": name}]);
    let pod = testbed.create_pod(pod).await?;
    match testbed.scheduler.schedule(&pod).await {
        Ok(spec) => {
            testbed.kubelet.run_pod(spec).await?;
            Ok(Some(pod))
        }
        Err(ScheduleError::Unallocatable { source: Unallocatable::NoDevices(_), .. }) => {
            delete::<Pod>(testbed, &name).await?;
            delete::<k8s_openapi::api::resource::v1::ResourceClaim>(testbed, &name).await?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn end(testbed: &Testbed, pod: &Pod) -> Result<()> {
    testbed.stop_pod(pod).await?;
    delete::<k8s_openapi::api::resource::v1::ResourceClaim>(testbed, pod.metadata.name.as_deref().unwrap()).await
}

/// Random operations on a node; the driver is killed now and then.
async fn run(profile: &str, seed: u64, steps: usize) -> Result<()> {
    let mut testbed = Testbed::start(profile).await?;
    let mut random = Random(seed);
    let mut pods: Vec<Pod> = Vec::new();
    let (mut begun, mut refused) = (0, 0);
    for step in 0..steps {
        if !pods.is_empty() && random.below(5) < 2 {
            let at = usize::try_from(random.below(pods.len() as u64))?;
            end(&testbed, &pods.swap_remove(at)).await?;
        } else if let Some(pod) = begin(&testbed, step, &mut random).await? {
            pods.push(pod);
            begun += 1;
        } else {
            refused += 1;
        }
        if random.below(120) == 0 {
            testbed.kill_driver()?;
            testbed.restart_driver(&[]).await?;
            testbed.kubelet.wait_registered(DRIVER).await?;
        }
        nothing_is_held_twice(&testbed, &format!("{profile}, seed {seed}, step {step}"))?;
        let held: BTreeSet<_> = testbed.records()?.into_iter().collect();
        assert_eq!((held.len(), testbed.specs()?.len()), (pods.len(), pods.len()), "seed {seed}, step {step}");
    }
    for pod in pods {
        end(&testbed, &pod).await?;
    }
    assert!(begun > steps / 5 && refused > steps / 50, "too little happened: {begun} begun, {refused} refused");
    nothing_is_left(&testbed)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_two_gpus_nothing_is_ever_held_twice_and_nothing_is_left() -> Result<()> {
    run("l40sx2", 1, 300).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_eight_gpus_nothing_is_ever_held_twice_and_nothing_is_left() -> Result<()> {
    run("h100x8", 2, 400).await
}
