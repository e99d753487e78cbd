//! The requirement's steps, in its order.
use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::{
    Cluster, Error, Offer, Report, Step,
    cluster::node,
    judge,
    pods::{Role, on},
};

/// Numbers of the nvidia module: of the first eight GPUs, and its control node.
const FORGED: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 255];

/// Takes all steps until told to stop, tells each when it is done, and leaves nothing behind.
///
/// # Errors
///
/// When the cluster isn't prepared for them; what goes wrong later fails its step.
pub async fn run(
    cluster: &Cluster,
    image: &str,
    interrupted: impl Future<Output = ()>,
    mut tell: impl FnMut(&Step),
) -> Result<Report, Error> {
    let offer = cluster.offer().await?;
    cluster.open().await?;
    let mut report = Report::default();
    let mut done = |step: Step| {
        tell(&step);
        report.steps.push(step);
    };
    let suite = Suite { cluster, offer: &offer, image };
    let stopped = tokio::select! {
        () = suite.steps(&mut done) => false,
        () = interrupted => true,
    };
    let mut step = Step::new("Afterwards: the pods and their namespace are gone");
    step.hold(cluster.close().await.map_err(|error| aliquot_daemon::report(&error)));
    if stopped {
        step.fail("the steps were broken off");
    }
    if !step.passed() {
        done(step);
    }
    Ok(report)
}

struct Suite<'a> {
    cluster: &'a Cluster,
    offer: &'a Offer,
    image: &'a str,
}

impl Suite<'_> {
    async fn steps(&self, mut done: impl FnMut(Step)) {
        let mut step = Step::new("Test 1, step 1: the environment");
        step.tell(self.offer.told());
        step.tell(format_args!("image {}", self.image));
        done(step);
        let title = "Test 1, step 2 [Accessible]: a pod that asks for a GPU has it";
        done(Step::taken(title, async |step| self.accessible(step).await).await);
        let title = "Test 1, step 3 [Isolation]: each of two pods on a node has only its own";
        done(Step::taken(title, async |step| self.isolated(step).await).await);
        let title = "Test 2, step 1: a pod that asks for no GPU finds none";
        done(Step::taken(title, async |step| self.unauthorized(step).await).await);
        let title = "Test 2, step 2: nor has it a device file, or makes one";
        done(Step::taken(title, async |step| self.no_device_files(step).await).await);
    }

    async fn accessible(&self, step: &mut Step) -> Result<(), Error> {
        let name = Role::Accessible.name();
        self.cluster.create(&Role::Accessible.pod(self.image)).await?;
        let pod = self.cluster.running(name).await?;
        self.sees_its_own(&pod, step).await?;
        self.cluster.remove(name).await
    }

    async fn isolated(&self, step: &mut Step) -> Result<(), Error> {
        let (first, second) = (Role::First.name(), Role::Second.name());
        self.cluster.create(&Role::First.pod(self.image)).await?;
        let pod = self.cluster.running(first).await?;
        let place = node(&pod).unwrap_or_default().to_owned();
        self.cluster.create(&on(&place, Role::Second.pod(self.image))).await?;
        if let Err(why) = self.cluster.scheduled(second).await?
            && self.offer.free(&place, &self.cluster.claims().await?) == 0
        {
            step.tell(format_args!("{second} isn't scheduled, as no GPU of {place} is free: {why}"));
        } else {
            let other = self.cluster.running(second).await?;
            self.sees_its_own(&other, step).await?;
        }
        // Again or for the first time, while the other one runs.
        self.sees_its_own(&pod, step).await?;
        for name in [first, second] {
            self.cluster.remove(name).await?;
        }
        Ok(())
    }

    async fn unauthorized(&self, step: &mut Step) -> Result<(), Error> {
        let name = Role::Unauthorized.name();
        self.cluster.create(&Role::Unauthorized.pod(self.image)).await?;
        self.cluster.running(name).await?;
        let output = self.cluster.exec(name, &["nvidia-smi"]).await?;
        step.tell(format_args!("{name}: nvidia-smi\n{}", output.told()));
        step.hold(judge::finds_nothing(&output));
        Ok(())
    }

    async fn no_device_files(&self, step: &mut Step) -> Result<(), Error> {
        let name = Role::Unauthorized.name();
        let output = self.cluster.exec(name, &["ls", "-la", "/dev/"]).await?;
        step.tell(format_args!("{name}: ls -la /dev/\n{}", output.told()));
        step.hold(judge::shows_no_device(&output));
        let minors = FORGED.map(|minor| minor.to_string()).join(" ");
        let script = format!("for n in {minors}; do mknod /tmp/gpu$n c 195 $n && cat /tmp/gpu$n; done");
        let output = self.cluster.exec(name, &["env", "LC_ALL=C", "sh", "-c", &script]).await?;
        step.tell(format_args!("beyond the requirement: {script}\n{}", output.told()));
        step.hold(judge::refused_all(&output, FORGED.len()));
        self.cluster.remove(name).await
    }

    /// What a pod lists is what its claim was allocated.
    async fn sees_its_own(&self, pod: &Pod, step: &mut Step) -> Result<(), Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let claim = self.cluster.claim(pod).await?;
        let held: BTreeSet<&str> = self.offer.held(&claim).into_iter().map(|gpu| gpu.uuid.as_str()).collect();
        let output = self.cluster.exec(name, &["nvidia-smi", "-L"]).await?;
        let allocated = held.iter().copied().collect::<Vec<_>>().join(", ");
        let place = node(pod).unwrap_or_default();
        step.tell(format_args!("{name} on {place}, allocated {allocated}: nvidia-smi -L\n{}", output.told()));
        step.hold(judge::lists_only(&output, &held).map_err(|why| format!("{name}: {why}")));
        Ok(())
    }
}
