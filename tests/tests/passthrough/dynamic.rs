//! GPUs that are taken from NVIDIA's driver for a virtual machine's claim, by the real driver on a node with a kernel.
use std::{fs, time::Duration};

use aliquot_tests::{
    kernel::{Disorder, Holder, Kernel},
    passthrough::DYNAMIC,
};

use super::*;

const GPU: &str = "0000:1b:00.0";
const AUDIO: &str = "0000:1b:00.1";
const MACHINE: &str = "gpu-0000-1b-00-vfio";
const WHOLE: &str = "gpu-0000-1b-00";

/// Eight GPUs of which one, with its audio function, has an IOMMU group.
struct Bench {
    kernel: Kernel,
    testbed: Testbed,
}

impl Bench {
    async fn set(budget: &str) -> Result<Self> {
        let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
        testbed.node.plug(Function::gpu(GPU, "nvidia", GROUP))?;
        testbed.node.plug(Function::audio(AUDIO, "snd_hda_intel", GROUP))?;
        let kernel = Kernel::boot(&testbed.node, false)?;
        let policy = testbed.node.path("policy.yaml");
        fs::write(&policy, DYNAMIC)?;
        testbed.start_driver(&[
            ("ALIQUOT_PREPARE_BUDGET", budget),
            ("ALIQUOT_POLICY", policy.to_str().ok_or("the path is no text")?),
        ])?;
        testbed.ready().await?;
        offered(&testbed, MACHINE).await?;
        Ok(Self { kernel, testbed })
    }

    async fn claim_of(&self, name: &str, device: &str) -> Result<Claim> {
        let result = json!({"driver": DRIVER, "pool": format!("{DRIVER}/{NODE}"), "device": device, "request": "gpu"});
        self.testbed.allocated_as(name, json!({"devices": {"results": [result], "config": []}})).await
    }

    fn driver_of(&self, pci: &str) -> Option<String> {
        self.testbed.node.driver_of(pci)
    }

    fn is_with_host(&self) -> bool {
        (self.driver_of(GPU).as_deref(), self.driver_of(AUDIO).as_deref()) == (Some("nvidia"), Some("snd_hda_intel"))
    }

    fn is_with_vfio(&self) -> bool {
        [GPU, AUDIO].iter().all(|pci| self.driver_of(pci).as_deref() == Some("vfio-pci"))
    }

    /// All that is published, with what it draws on.
    fn slices(&self) -> Vec<Value> {
        self.testbed.devices().iter().map(|device| serde_json::to_value(device).unwrap()).collect()
    }

    fn is_clean(&self) -> Result<()> {
        assert!(self.is_with_host(), "{:?} {:?}", self.driver_of(GPU), self.driver_of(AUDIO));
        assert_eq!((self.testbed.specs()?.len(), self.testbed.records()?.len()), (0, 0));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_the_gpu_from_nvidias_driver_and_gives_it_back_and_the_slices_stay() -> Result<()> {
    let bench = Bench::set("20s").await?;
    let before = bench.slices();
    let draws = |name: &str| before.iter().find(|device| device["name"] == name).unwrap()["consumesCounters"].clone();
    assert!(draws(MACHINE).is_array() && draws(MACHINE) == draws(WHOLE), "{}", draws(MACHINE));
    let claim = bench.claim_of("vm", MACHINE).await?;
    let ids = prepare(&bench.testbed, &claim).await?.unwrap();
    assert!(matches!(&ids[..], [id] if id.ends_with(MACHINE)), "{ids:?}");
    assert!(bench.is_with_vfio() && bench.testbed.node.path("dev/vfio/12").exists());
    let again = prepare(&bench.testbed, &claim).await?.unwrap();
    assert_eq!(again, ids);
    // Longer than a change of the slices would take.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let names = |slices: &[Value]| slices.iter().map(|device| device["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&bench.slices()), names(&before));

    bench.testbed.unprepare(&claim).await?.unwrap();
    bench.is_clean()?;
    let writes = bench.kernel.writes();
    let at = |write: &str| writes.iter().position(|written| written.starts_with(write));
    let (reset, left) = (at(&format!("{GPU}/reset 1")), at("vfio-pci/unbind"));
    assert!(reset.is_some() && reset < left, "the machine's traces go before anybody else can see them: {writes:?}");
    let whole = bench.claim_of("whole", WHOLE).await?;
    prepare(&bench.testbed, &whole).await?.unwrap();
    bench.testbed.until("the slices are as before", || bench.slices() == before).await?;
    assert!(!bench.testbed.log().contains("VfioGPULost") && !bench.testbed.log().contains("a GPU is gone"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_next_waits_until_the_gpu_is_back() -> Result<()> {
    let bench = Bench::set("20s").await?;
    let (machine, whole) = (bench.claim_of("vm", MACHINE).await?, bench.claim_of("whole", WHOLE).await?);
    prepare(&bench.testbed, &machine).await?.unwrap();
    let next = prepare(&bench.testbed, &whole);
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(bench.is_with_vfio(), "the first one has it still");
        bench.testbed.unprepare(&machine).await
    };
    let (next, left) = tokio::join!(next, leaving);
    left?.unwrap();
    let ids = next?.unwrap();
    assert!(ids.iter().any(|id| id.ends_with(WHOLE)), "{ids:?}");
    assert!(bench.is_with_host());
    let other = bench.claim_of("vm2", MACHINE).await?;
    bench.testbed.unprepare(&whole).await?.unwrap();
    prepare(&bench.testbed, &other).await?.unwrap();
    assert!(bench.is_with_vfio());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_somebody_uses_is_left_to_him() -> Result<()> {
    let bench = Bench::set("20s").await?;
    let user = Holder::of(&bench.testbed.node, "nvidia0")?;
    let claim = bench.claim_of("vm", MACHINE).await?;
    let error = prepare(&bench.testbed, &claim).await?.unwrap_err();
    assert!(error.contains(&format!("{GPU} is in use by")), "{error}");
    bench.is_clean()?;
    drop(user);
    prepare(&bench.testbed, &claim).await?.unwrap();
    assert!(bench.is_with_vfio());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_takes_its_time_is_gone_on_with_and_nobody_else_waits() -> Result<()> {
    let bench = Bench::set("1s").await?;
    bench.kernel.order("nvidia/unbind", Disorder::Hang);
    let claim = bench.claim_of("vm", MACHINE).await?;
    let error = prepare(&bench.testbed, &claim).await?.unwrap_err();
    assert!(error.contains("is still being taken from NVIDIA's driver"), "{error}");
    let other = bench.claim_of("other", "gpu-0000-43-00").await?;
    prepare(&bench.testbed, &other).await?.unwrap();
    let whole = bench.claim_of("whole", WHOLE).await?;
    let error = prepare(&bench.testbed, &whole).await?.unwrap_err();
    assert!(error.contains("default/vm") || error.contains("another claim"), "{error}");
    bench.kernel.release();
    bench.testbed.until("the GPU is with vfio", || bench.is_with_vfio()).await?;
    prepare(&bench.testbed, &claim).await?.unwrap();
    bench.testbed.unprepare(&claim).await?.unwrap();
    assert!(bench.is_with_host());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_taken_is_given_back_where_the_kernel_refuses_the_rest() -> Result<()> {
    let bench = Bench::set("20s").await?;
    let claim = bench.claim_of("vm", MACHINE).await?;
    bench.kernel.order(&format!("pci/drivers_probe {AUDIO}"), Disorder::Refuse(rustix::io::Errno::NODEV));
    let error = prepare(&bench.testbed, &claim).await?.unwrap_err();
    assert!(error.contains(AUDIO), "{error}");
    bench.is_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_started_anew_knows_what_is_away_and_gives_it_back() -> Result<()> {
    let mut bench = Bench::set("20s").await?;
    let claim = bench.claim_of("vm", MACHINE).await?;
    prepare(&bench.testbed, &claim).await?.unwrap();
    let names = |bench: &Bench| bench.slices().iter().map(|device| device["name"].clone()).collect::<Vec<_>>();
    let before = names(&bench);
    bench.testbed.kill_driver()?;
    let policy = bench.testbed.node.path("policy.yaml");
    bench.testbed.restart_driver(&[("ALIQUOT_POLICY", policy.to_str().unwrap())]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(names(&bench), before);
    assert!(bench.is_with_vfio());
    bench.testbed.unprepare(&claim).await?.unwrap();
    bench.is_clean()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_is_refused_three_times_is_kept_from_claims_and_the_node_is_told() -> Result<()> {
    let bench = Bench::set("20s").await?;
    let claim = bench.claim_of("vm", MACHINE).await?;
    let tainted = || {
        let of = |device: &Value| device["taints"][0]["key"] == format!("{DRIVER}/not-moved");
        bench.slices().iter().filter(|device| of(device)).map(|device| device["name"].clone()).collect::<Vec<_>>()
    };
    for tries in 1..=3 {
        bench.kernel.order(&format!("pci/drivers_probe {AUDIO}"), Disorder::Refuse(rustix::io::Errno::NODEV));
        assert_eq!(tainted().len(), 0, "after {} tries", tries - 1);
        prepare(&bench.testbed, &claim).await?.unwrap_err();
        bench.is_clean()?;
        if tries < 3 {
            // What fails sooner counts as the same failure.
            tokio::time::sleep(Duration::from_millis(10_100)).await;
        }
    }
    let all = [MACHINE, WHOLE, "gpu-0000-1b-00-shared"].map(Value::from);
    bench.testbed.until("all of the GPU is tainted", || all.iter().all(|name| tainted().contains(name))).await?;
    assert_eq!(tainted().len(), all.len());
    let told = |event: &Value| event["note"].as_str().is_some_and(|note| note.contains(GPU) && note.contains(AUDIO));
    bench.testbed.until("the node is told", || bench.testbed.events("GPUNotMoved").iter().any(told)).await
}
