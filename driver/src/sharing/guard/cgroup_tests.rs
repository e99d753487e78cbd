//! Whose names are believed, and whose are not.
use proptest::prelude::*;

use super::*;

const UID: &str = "6f2a1c9e-0b7d-4c55-9b1e-2f4de0a1b2c3";
const OTHER: &str = "00000000-0000-4000-8000-000000000001";

fn systemd(uid: &str) -> String {
    uid.replace('-', "_")
}

fn v2(path: &str) -> Option<String> {
    pod_of(&format!("0::{path}\n")).map(|pod| pod.to_string())
}

#[test]
fn both_forms_of_the_kubelet_name_the_pod_in_every_quality_of_service() {
    let s = systemd(UID);
    for path in [
        format!("/kubepods/burstable/pod{UID}/4f5e"),
        format!("/kubepods/besteffort/pod{UID}/4f5e"),
        format!("/kubepods/pod{UID}/4f5e"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{s}.slice/cri-containerd-4f5e.scope"),
        format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{s}.slice/crio-4f5e.scope"),
        format!("/kubepods.slice/kubepods-pod{s}.slice/cri-containerd-4f5e.scope/sub/group"),
    ] {
        assert_eq!(v2(&path).as_deref(), Some(UID), "{path}");
    }
    assert_eq!(v2("/kubepods/burstable/pod0123456789abcdef0123456789abcdef/c").unwrap().len(), 32);
}

#[test]
fn nodes_within_containers_and_other_roots_are_seen_through() {
    let s = systemd(UID);
    for path in [
        format!("/docker/9a8b/kubelet/kubepods/besteffort/pod{UID}/c"),
        format!(
            "/system.slice/docker-9a8b.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod{s}.slice/cri-containerd-c.scope"
        ),
        format!("/../../kubepods/burstable/pod{UID}/c"),
    ] {
        assert_eq!(v2(&path).as_deref(), Some(UID), "{path}");
    }
}

/// What the kernel shows to a reader in its own cgroup namespace (`cgroup_path_ns`).
#[test]
fn a_driver_in_a_cgroup_namespace_of_its_own_sees_its_neighbours() {
    let s = systemd(UID);
    for path in [
        format!("/../../../kubepods-burstable.slice/kubepods-burstable-pod{s}.slice/cri-containerd-c.scope"),
        format!("/../../kubepods-besteffort-pod{s}.slice/cri-containerd-c.scope"),
        format!("/../../../kubepods-pod{s}.slice/cri-containerd-c.scope"),
        format!("/../../../burstable/pod{UID}/c"),
        format!("/../../pod{UID}/c"),
    ] {
        assert_eq!(v2(&path).as_deref(), Some(UID), "{path}");
    }
}

#[test]
fn the_containers_of_the_drivers_own_pod_name_nobody() {
    for path in
        ["/".to_owned(), format!("/../pod{UID}/c"), format!("/pod{UID}"), format!("/sub/kubepods-pod{UID}.slice")]
    {
        assert_eq!(v2(&path), None, "{path}");
    }
}

#[test]
fn what_a_container_makes_below_its_own_cgroup_never_wins() {
    let (mine, fake) = (systemd(UID), systemd(OTHER));
    for path in [
        format!("/kubepods/burstable/pod{UID}/c/kubepods/burstable/pod{OTHER}/c"),
        format!("/kubepods.slice/kubepods-pod{mine}.slice/c.scope/kubepods.slice/kubepods-pod{fake}.slice/c.scope"),
        format!("/kubepods.slice/kubepods-pod{mine}.slice/kubepods-pod{fake}.slice"),
        format!("/../../kubepods-besteffort-pod{mine}.slice/c.scope/kubepods-besteffort-pod{fake}.slice"),
        format!("/../../pod{UID}/c/burstable/pod{OTHER}"),
    ] {
        assert_eq!(v2(&path).as_deref(), Some(UID), "{path}");
    }
}

#[test]
fn names_that_only_look_like_a_pods_are_nobodys() {
    let s = systemd(UID);
    for path in [
        format!("/system.slice/kubepods-pod{s}.slice/x"),
        format!("/kubepods.slice/x/kubepods-pod{s}.slice"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-pod{s}.slice"),
        format!("/mykubepods/pod{UID}/c"),
        format!("/kubepods/podium/x/pod{UID}").replace("podium", "guaranteed"),
        format!("/kubepods/burstable/x/pod{UID}"),
        format!("/kubepods/pod{UID} (deleted)"),
        format!("/user.slice/kubepods-burstable-pod{s}.slice:cri-containerd:c"),
        "/kubepods/pod/c".to_owned(),
        "/kubepods/burstable".to_owned(),
        "/init.scope".to_owned(),
    ] {
        assert_eq!(v2(&path), None, "{path}");
    }
}

#[test]
fn the_controllers_of_v1_must_agree() {
    let line = |id: u32, uid: &str| format!("{id}:memory:/kubepods/pod{uid}/c\n");
    let rest = "3:cpu,cpuacct:/\n0::/system.slice/containerd.service\n1:name=systemd:/x\n";
    assert_eq!(pod_of(&format!("{}{rest}{}", line(9, UID), line(8, UID))).unwrap().as_str(), UID);
    assert_eq!(pod_of(&format!("{}{}", line(9, UID), line(8, OTHER))), None);
    assert_eq!(pod_of(""), None);
}

proptest! {
    #[test]
    fn foreign_text_never_panics_and_gives_only_plain_uids(text in "\\PC{0,200}") {
        if let Some(pod) = pod_of(&text) {
            prop_assert!(pod.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        }
    }

    #[test]
    fn nothing_below_the_containers_cgroup_changes_whose_it_is(
        below in prop::collection::vec(
            prop_oneof![
                "[a-z.]{1,12}",
                Just("..".to_owned()), Just("kubepods".to_owned()), Just("kubepods.slice".to_owned()),
                Just("burstable".to_owned()), Just(format!("pod{OTHER}")),
                Just(format!("kubepods-pod{}.slice", systemd(OTHER))),
            ], 0..6),
        form in 0..4_usize,
    ) {
        let s = systemd(UID);
        let own = [
            format!("/kubepods/pod{UID}/c"),
            format!("/kubepods.slice/kubepods-pod{s}.slice/c.scope"),
            format!("/../../pod{UID}/c"),
            format!("/../../../kubepods-pod{s}.slice/c.scope"),
        ];
        let path = format!("{}/{}", own[form], below.join("/"));
        prop_assert_eq!(v2(&path), Some(UID.to_owned()));
    }

    #[test]
    fn components_that_the_kubelet_never_writes_name_nobody(parts in prop::collection::vec("[a-z0-9_-]{0,10}(\\.slice|\\.scope)?", 0..6)) {
        let path = format!("/{}", parts.join("/"));
        prop_assume!(!path.contains("kubepods"));
        prop_assert_eq!(v2(&path), None);
    }
}
