//! Containers that the hook refuses, as their users hear of it: the hook's own binary, the driver, and the API server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use aliquot_tests::{
    image::{Entry, Image},
    runtime::{ContainerSpec, Containerd, PodSpec, Runtime},
    skip::toolbox,
    testbed::{DRIVER, NODE_DEVICE, Result, Testbed},
};
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{Api, api::ListParams};
use serde_json::{Value, json};

/// Runs the installed hook on a bundle whose root is the host's, which it refuses, with a container's annotations.
fn refuse(testbed: &Testbed, annotations: &Value) -> String {
    let bundle = tempfile::tempdir().unwrap();
    fs::write(bundle.path().join("config.json"), json!({"root": {"path": "/"}}).to_string()).unwrap();
    let plugin = testbed.node.path("kubelet/plugins").join(DRIVER);
    let mut hook = Command::new(plugin.join("aliquot-hook"));
    hook.args(["prepare-container", "--log"]).arg(plugin.join("hook.log")).env_clear();
    let mut hook = hook.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let state = json!({"id": "c1", "bundle": bundle.path(), "annotations": annotations});
    hook.stdin.take().unwrap().write_all(state.to_string().as_bytes()).unwrap();
    let output = hook.wait_with_output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// Of reason `ContainerRefused`: the kind and name of what it is about, and the note.
async fn told(testbed: &Testbed) -> Vec<(String, String, String)> {
    let events: Api<Event> = Api::all(testbed.client.clone());
    let all = events.list(&ListParams::default()).await.unwrap().items.into_iter();
    all.filter(|event| event.reason.as_deref() == Some("ContainerRefused"))
        .map(|event| {
            let regarding = event.regarding.unwrap();
            (regarding.kind.unwrap(), regarding.name.unwrap(), event.note.unwrap())
        })
        .collect()
}

async fn until_told(testbed: &Testbed, times: usize) -> Vec<(String, String, String)> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let told = told(testbed).await;
        if told.len() >= times {
            return told;
        }
        assert!(std::time::Instant::now() < deadline, "{told:?}\n{}", testbed.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn of_pod(pod: &Pod) -> Value {
    let meta = &pod.metadata;
    json!({
        "io.kubernetes.cri.sandbox-namespace": meta.namespace, "io.kubernetes.cri.sandbox-name": meta.name,
        "io.kubernetes.cri.sandbox-uid": meta.uid, "io.kubernetes.cri.container-name": "main",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_container_is_told_of_on_its_pod_with_the_hooks_reason() -> Result<()> {
    let testbed = Testbed::start("a100x4").await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "i"}]}});
    let pods: Api<Pod> = Api::namespaced(testbed.client.clone(), "default");
    let pod = pods.create(&kube::api::PostParams::default(), &serde_json::from_value(pod)?).await?;
    let said = refuse(&testbed, &of_pod(&pod));
    let told = until_told(&testbed, 1).await;
    let reason = said.trim().strip_prefix("aliquot-hook: ").unwrap();
    let note = format!("container main isn't started: {reason}");
    assert_eq!(told, [("Pod".to_owned(), "pod".to_owned(), note)]);
    assert!(testbed.log().contains(reason));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_runtime_tells_no_pod_the_node_has_the_event() -> Result<()> {
    let testbed = Testbed::start("a100x4").await?;
    refuse(&testbed, &json!({"io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.name": "../x\n"}));
    let told = until_told(&testbed, 1).await;
    assert_eq!((told[0].0.as_str(), told[0].1.as_str()), ("Node", "node1"));
    assert!(told[0].2.starts_with("container c1 isn't started: "), "{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_damaged_begun_anew_or_replaced_by_a_link_stops_nothing() -> Result<()> {
    let testbed = Testbed::start("a100x4").await?;
    let log = testbed.node.path("kubelet/plugins").join(DRIVER).join("hook.log");
    fs::write(&log, [vec![0xff; 300 << 10], b"\n{}\n[]\nnull\n".to_vec()].concat())?;
    refuse(&testbed, &json!({}));
    until_told(&testbed, 1).await;
    // As though it were another file of the host.
    let other = testbed.node.path("other");
    fs::write(&other, "{\"id\":\"x\",\"reason\":\"not the hook's\"}\n")?;
    fs::remove_file(&log)?;
    symlink(&other, &log)?;
    refuse(&testbed, &json!({}));
    fs::remove_file(&log)?;
    let pod = json!({"io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.name": "p", "io.kubernetes.pod.uid": "u"});
    refuse(&testbed, &pod);
    let told = until_told(&testbed, 2).await;
    assert_eq!(told[1].1, "p", "{told:?}");
    assert!(!testbed.log().contains("not the hook's"), "{}", testbed.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runtimes_tell_the_hook_whose_container_it_is() -> Result<()> {
    const IMAGE: &str = "localhost/aliquot/fifo:1";
    let Some(toolbox) = toolbox() else { return Ok(()) };
    let testbed = Testbed::start("a100x4").await?;
    let dir = tempfile::tempdir()?;
    let containerd = Containerd::start(toolbox, &dir.path().join("containerd"), &testbed.node.path("cdi")).await?;
    let image = Image::new("").with(IMAGE, vec![("etc/ld.so.cache".to_owned(), Entry::Fifo)]);
    containerd.import(&[image]).await?;
    let claim = testbed.allocated("claim", &[("gpu", "gpu-0000-07-00")]).await?;
    let ids = [vec![NODE_DEVICE.to_owned()], testbed.prepare(&claim).await?.unwrap()].concat();
    for (at, runtime) in Runtime::ALL.into_iter().enumerate() {
        let container = ContainerSpec {
            name: "main".to_owned(),
            cdi_devices: ids.clone(),
            image: Some(IMAGE.to_owned()),
            ..ContainerSpec::default()
        };
        let name = runtime.name().to_owned();
        let pod = PodSpec { name: name.clone(), runtime, containers: vec![container], ..PodSpec::default() };
        containerd.run(&pod).await.unwrap_err();
        let told = until_told(&testbed, at + 1).await;
        let (kind, pod, note) = told.iter().find(|(_, pod, _)| *pod == name).unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!((kind.as_str(), pod.as_str()), ("Pod", name.as_str()));
        assert!(note.starts_with("container main isn't started: /etc/ld.so.cache in the container"), "{note}");
    }
    Ok(())
}
