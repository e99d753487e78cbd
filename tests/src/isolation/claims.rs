//! Containers with claims of each kind, and whatever a pod's author can write to get more than they hold.
use std::collections::BTreeMap;

use super::{
    Tally,
    seen::Own,
    stage::{How, Scene, container},
};
use crate::{
    runtime::{ContainerSpec, PodSpec, Runtime},
    testbed::Result,
};

/// The environment of a pod that wants every GPU, and of one that wants to be loaded by whoever runs on the host.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("NVIDIA_VISIBLE_DEVICES", "all"),
    ("NVIDIA_DRIVER_CAPABILITIES", "all"),
    ("NVIDIA_DISABLE_REQUIRE", "true"),
    ("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7"),
    ("LD_PRELOAD", "/tmp/evil.so"),
    ("LD_LIBRARY_PATH", "/tmp:/proc/self/cwd"),
    ("GLIBC_TUNABLES", "glibc.malloc.mxfast=glibc.malloc.mxfast=A"),
];

pub(super) async fn run(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let before = (tally.attempts, tally.containers);
    instrument(scene, runtime, tally).await?;
    kinds(scene, runtime, tally).await?;
    hostile(scene, runtime, tally).await?;
    unprepared(scene, runtime, tally).await?;
    let (attempts, containers) = (tally.attempts - before.0, tally.containers - before.1);
    tally.note(format_args!("claims of each kind, hostile pods: {attempts} attempts in {containers} containers"));
    Ok(())
}

/// Whether a refusal would show: what may open everything is refused nothing.
async fn instrument(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let spec = ContainerSpec { privileged: true, ..container("all", &[]) };
    let pod = scene.run("instrument", runtime, vec![spec]).await?;
    let seen = scene.probe(&pod, "all").await?;
    if seen.open() < seen.forged() || seen.forged() == 0 {
        let (open, forged) = (seen.open(), seen.forged());
        tally.fault(format_args!("a privileged container was refused {} of {forged} numbers", forged - open));
    }
    Ok(pod.remove().await?)
}

/// One pod with a container for each kind of claim, and one without.
async fn kinds(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let whole = scene.hold(How::Whole, &[0]).await?;
    let share = scene.hold(How::Share, &[1]).await?;
    let both = scene.hold(How::Whole, &[2, 3]).await?;
    let shares = scene.hold(How::Share, &[4, 5]).await?;
    let together = [share.ids.clone(), both.ids.clone()].concat();
    let specs = [
        (container("whole", &whole.ids), whole.own.clone()),
        (container("share", &share.ids), share.own.clone()),
        (container("several", &both.ids), both.own.clone()),
        (container("shares", &shares.ids), shares.own.clone()),
        // Of a claim with several requests a container may use one.
        (container("request", &both.ids[..1]), scene.own(&[2])),
        (container("claims", &together), share.own_with(&both)),
        (container("bare", &[]), Own::default()),
    ];
    let pod = scene.run("kinds", runtime, specs.iter().map(|(spec, _)| spec.clone()).collect()).await?;
    for (spec, own) in &specs {
        scene.judge(&pod, &spec.name, &spec.name, own, tally).await?;
    }
    let links =
        pod.exec("whole", &["sh", "-c", "cd /dev/dri/by-path && for l in *; do test -c $l || exit 1; done"]).await?;
    if links.status != 0 {
        tally.fault(format_args!("the links by place in a container lead nowhere: {}", links.stderr));
    }
    pod.remove().await?;
    for held in [whole, share, both, shares] {
        scene.release(&held).await?;
    }
    Ok(())
}

/// A pod whose author knows another claim's devices by name.
async fn hostile(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let own = scene.hold(How::Whole, &[0]).await?;
    let others = scene.hold(How::Whole, &[1]).await?;
    let guessed = others.ids.first().ok_or("a claim without devices")?;
    let env: Vec<(String, String)> = ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let annotations: BTreeMap<String, String> = [
        ("cdi.k8s.io/guessed", guessed.as_str()),
        ("cdi.k8s.io/all", "nvidia.com/gpu=all"),
        ("nvidia.cdi.k8s.io/guessed", guessed),
        ("nvidia.cdi.k8s.io/container.own", guessed),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let containers = vec![
        ContainerSpec { env: env.clone(), ..container("own", &own.ids) },
        ContainerSpec { env: env.clone(), ..container("bare", &[]) },
    ];
    let pod = PodSpec { name: "hostile".to_owned(), annotations, runtime, containers, ..PodSpec::default() };
    let pod = scene.run_as(&pod).await?;
    scene.judge(&pod, "own", "a hostile pod's container", &own.own, tally).await?;
    scene.judge(&pod, "bare", "a hostile pod's container without a claim", &Own::default(), tally).await?;
    let told = pod.exec("own", &["sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"]).await?;
    if told.stdout.trim() != "void" {
        tally.fault(format_args!("a legacy runtime on the node would be told {told:?}"));
    }
    pod.remove().await?;
    // The kubelet alone says these, and it is trusted: what comes of them is told and isn't counted.
    let one = [("cdi.k8s.io/guessed".to_owned(), guessed.clone())].into();
    for (words, spec) in [
        ("a container's annotation", ContainerSpec { annotations: one, ..container("one", &[]) }),
        ("a CDI device by name", container("one", std::slice::from_ref(guessed))),
    ] {
        match scene.run("kubelet", runtime, vec![spec]).await {
            Ok(pod) => {
                let open = scene.probe(&pod, "one").await?.open();
                tally.note(format_args!("{words}, which only the kubelet writes: {open} devices can be opened"));
                pod.remove().await?;
            }
            Err(error) => tally.note(format_args!("{words}, which only the kubelet writes: {error}")),
        }
    }
    scene.release(&own).await?;
    scene.release(&others).await
}

/// A name that was a claim's.
async fn unprepared(scene: &Scene<'_>, runtime: Runtime, tally: &mut Tally) -> Result<()> {
    let held = scene.hold(How::Whole, &[0]).await?;
    let pod = scene.run("before", runtime, vec![container("one", &held.ids)]).await?;
    scene.judge(&pod, "one", "a container before its claim's end", &held.own, tally).await?;
    pod.remove().await?;
    scene.release(&held).await?;
    let again = scene.run("after", runtime, vec![container("one", &held.ids)]).await;
    let refused = matches!(&again, Err(error) if held.ids.iter().any(|id| error.to_string().contains(id)));
    tally.attempt(format_args!("{} after its claim's end", held.ids.join(" ")), again.is_ok());
    if !refused && let Err(error) = again {
        tally.fault(format_args!("a name of a claim that has ended isn't refused by its name: {error}"));
    }
    Ok(())
}
