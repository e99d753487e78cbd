//! A cluster in which there is something to see in every panel: shares in use, a GPU that is ill, one that others hand out too,
//! calls that succeed and fail, and the controller with its webhook.
use std::{
    process::{Child, Command},
    time::Duration,
};

use aliquot_tests::{
    controllers::{Replica, Stage},
    testbed::{NODE, Result, Testbed, documents},
};
use fake_apiserver::Server;
use fake_nvml::{Control, Happening, Process, Readings};
use kubelet_api::dra::v1::Claim;
use serde_json::Value;

const SHARED: &str = "gpu-0000-1b-00";
const WHOLE: &str = "gpu-0000-43-00";
const POD: &str = "11111111-1111-4111-8111-111111111111";
/// `nvmlEventTypeXidCriticalError`, and an Xid after which a GPU isn't given out.
const ILLNESS: (u64, u64) = (8, 95);
/// Looks at everything often, and believes what it has seen.
const QUICK: [(&str, &str); 3] =
    [("ALIQUOT_ILLNESS_SETTLES", "60m"), ("ALIQUOT_RESCAN_INTERVAL", "200ms"), ("ALIQUOT_GUARD_INTERVAL", "200ms")];
const CONTROLLER: [&str; 3] = ["--stuck-after=10m", "--lease-duration=3s", "--webhook-address=127.0.0.1:0"];

/// All of it.
pub(crate) struct Scene {
    pub(crate) testbed: Testbed,
    pub(crate) controller: Replica,
    whole: Claim,
    user: Child,
    _stage: Stage,
}

impl Scene {
    pub(crate) async fn start() -> Result<Self> {
        let mut testbed = Testbed::without_driver("h100x8", Server::builder()).await?;
        testbed.start_driver(&QUICK)?;
        testbed.ready().await?;
        testbed.share("mine", SHARED, &[("trainer", POD)]).await?;
        let whole = testbed.allocated("whole", &[("gpu", WHOLE)]).await?;
        let user = Command::new("sleep").arg("600").spawn()?;
        let (stage, controller) = controller().await?;
        let scene = Self { testbed, controller, whole, user, _stage: stage };
        let uuid = |index: usize| scene.testbed.node.profile().gpus[index].uuid.clone();
        scene.testbed.node.place(scene.user.id(), Some(POD))?;
        scene.testbed.kubelet.device_plugins().offer("nvidia.com/gpu", &[&uuid(5)])?;
        scene.fall_ill(uuid(0), uuid(7)).await?;
        Ok(scene)
    }

    /// A claim comes and goes, so that rates have something to show.
    pub(crate) async fn work(&self) -> Result<()> {
        self.testbed.prepare(&self.whole).await??;
        Ok(self.testbed.unprepare(&self.whole).await??)
    }

    /// One GPU is busy; the other reports its illness until that is heard: events before the watch began are lost.
    async fn fall_ill(&self, busy: String, ill: String) -> Result<()> {
        let pid = self.user.id();
        let process = Process { pid, used: Some(4 << 30), graphics: false };
        let readings = Readings {
            busy: Some([87, 12]),
            memory_used: 4 << 30,
            throttled: Some(0x4),
            processes: Some([(pid, 30)].into()),
            ..Readings::default()
        };
        let mut control = Control {
            processes: [(busy.clone(), vec![process])].into(),
            readings: [(busy, readings)].into(),
            ..Control::default()
        };
        let series = format!("aliquot_gpu_xid_errors_total{{uuid=\"{ill}\",xid=\"{}\"}}", ILLNESS.1);
        for _ in 0..100 {
            control.events.push(Happening { gpu: ill.clone(), kind: ILLNESS.0, data: ILLNESS.1 });
            self.testbed.node.control(&control)?;
            for _ in 0..10 {
                if self.testbed.metric(&series).await?.is_some() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Err(format!("no event was heard on {NODE}; the driver's log:\n{}", self.testbed.log()).into())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.user.kill();
        let _ = self.user.wait();
    }
}

/// One replica, in a cluster of its own, with what is deployed for its webhook.
async fn controller() -> Result<(Stage, Replica)> {
    let stage = Stage::start().await?;
    stage.permit_webhook()?;
    let objects = documents::<Value>(include_str!("../../../deploy/base/webhook.yaml"))?;
    for (kind, resource) in
        [("Secret", "secrets"), ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")]
    {
        stage.api.seed(resource, objects.iter().filter(|object| object["kind"] == kind).cloned());
    }
    let replica = stage.replica("a", &CONTROLLER)?;
    replica.ready().await?;
    replica.until_metric("aliquot_controller_leader", 1.0).await?;
    Ok((stage, replica))
}
