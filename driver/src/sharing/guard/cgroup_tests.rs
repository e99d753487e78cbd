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

/// As seen by a driver with these cgroups, on a node whose first process has these.
fn seen(own: &str, first: &str, root: Option<&str>, path: &str) -> Option<String> {
    let kubepods = Kubepods::find(&format!("0::{own}\n"), &format!("0::{first}\n"), root.map(Path::new));
    kubepods.pod_of(&format!("0::{path}\n")).map(|pod| pod.to_string())
}

/// As seen by a driver in a container in the cgroup `own` of which it has made a namespace.
fn from_within(own: &str, root: Option<&str>, path: &str) -> Option<String> {
    seen("/", &relative(own, "/init.scope"), root, &relative(own, path))
}

/// What the kernel shows of a cgroup to a reader whose namespace begins at `from` (`cgroup_path_ns`).
fn relative(from: &str, to: &str) -> String {
    let names = |path: &str| path.split('/').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect::<Vec<_>>();
    let (from, to) = (names(from), names(to));
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let all: Vec<String> =
        vec!["..".to_owned(); from.len() - common].into_iter().chain(to[common..].to_vec()).collect();
    format!("/{}", all.join("/"))
}

/// Where a driver may run, and the containers of others beside it, in each form that the kubelet uses.
fn places(above: &str, uid: &str) -> [Vec<String>; 2] {
    let (s, stem) = (systemd(uid), above.rsplit('/').next().and_then(|last| last.strip_suffix(".slice")));
    let k = stem.map_or_else(|| "kubepods".to_owned(), |stem| format!("{stem}-kubepods"));
    [
        ["pod", "burstable/pod", "besteffort/pod"].map(|qos| format!("{above}/kubepods/{qos}{uid}/c")).into(),
        vec![
            format!("{above}/{k}.slice/{k}-pod{s}.slice/cri-containerd-c.scope"),
            format!("{above}/{k}.slice/{k}-burstable.slice/{k}-burstable-pod{s}.slice/crio-c.scope/container"),
            format!("{above}/{k}.slice/{k}-besteffort.slice/{k}-besteffort-pod{s}.slice/cri-containerd-c.scope"),
        ],
    ]
}

/// Above the kubelet's cgroups, on the host and on nodes in containers.
const ABOVE: [&str; 4] = ["", "/docker/9a8b/kubelet", "/system.slice/docker-9a8b.scope/kubelet.slice", "/k3s"];

#[test]
fn a_driver_in_a_pod_knows_all_pods_of_its_kubelet_wherever_that_has_them() {
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for above in ABOVE {
        own.extend(places(above, UID));
        theirs.extend(places(above, OTHER));
    }
    for (own, theirs) in own.iter().zip(&theirs) {
        for (driver, pod) in own.iter().flat_map(|driver| theirs.iter().map(move |pod| (driver, pod))) {
            assert_eq!(seen(driver, "/init.scope", None, pod).as_deref(), Some(OTHER), "{driver}: {pod}");
            assert_eq!(from_within(driver, None, pod).as_deref(), Some(OTHER), "{driver}: {pod}");
        }
    }
}

#[test]
fn a_driver_of_the_host_is_told_where_a_kubelet_has_its_pods() {
    let s = systemd(UID);
    let own = "/system.slice/aliquot.service";
    for (root, path) in [
        (None, format!("/kubepods/pod{UID}/c")),
        (Some("/"), format!("/kubepods/pod{UID}/c")),
        (Some("/kubelet"), format!("/kubelet/kubepods/burstable/pod{UID}/c")),
        (Some("/kubelet"), format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{s}.slice/c.scope")),
        (
            Some("/my-nodes/a"),
            format!(
                "/my_nodes.slice/my_nodes-a.slice/my_nodes-a-kubepods.slice/my_nodes-a-kubepods-pod{s}.slice/c.scope"
            ),
        ),
        (
            Some("/kubelet.slice"),
            format!("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{s}.slice/c.scope"),
        ),
    ] {
        assert_eq!(seen(own, "/init.scope", root, &path).as_deref(), Some(UID), "{root:?} {path}");
        assert_eq!(from_within(own, root, &path).as_deref(), Some(UID), "{root:?} {path}");
    }
    assert_eq!(seen(own, "/", Some("/kubelet"), &format!("/kubepods/pod{UID}/c")), None);
    assert_eq!(seen(own, "/", None, &format!("/kubelet/kubepods/pod{UID}/c")), None);
}

/// Places in which somebody who isn't the kubelet may make cgroups, and name them as he likes.
const DELEGATED: [&str; 4] = [
    "/user.slice/user-1000.slice/user@1000.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice",
    "/system.slice/docker-5c0f.scope",
    "/machine.slice/libpod-77.scope",
];

#[test]
fn a_cgroup_that_a_user_of_the_host_names_like_a_pods_is_nobodys() {
    let victims =
        ["", "/kubelet.slice", "/app.slice"].map(|above| places(above, OTHER)).into_iter().flatten().flatten();
    for victim in victims {
        for delegated in DELEGATED {
            let path = format!("{delegated}{victim}");
            for own in ["/system.slice/aliquot.service", &places("", UID)[0][0], &places("", UID)[1][1]] {
                for root in [None, Some("/kubelet")] {
                    assert_eq!(seen(own, "/init.scope", root, &path), None, "{own}: {path}");
                    assert_eq!(from_within(own, root, &path), None, "{own}: {path}");
                }
            }
        }
    }
    // However many steps it takes, and without knowing how many it takes.
    for steps in 0..6 {
        for path in [
            format!("/{}user.slice/user-1000.slice/kubepods/pod{OTHER}/x", "../".repeat(steps)),
            format!("/{}system.slice/docker-abc.scope/kubepods/pod{OTHER}", "../".repeat(steps)),
        ] {
            assert_eq!(seen("/", "/../../../../init.scope", None, &path), None, "{path}");
            assert_eq!(v2(&path), None, "{path}");
        }
    }
}

#[test]
fn a_path_that_leaves_the_kubelets_cgroups_comes_back_by_the_nodes_root_only() {
    let own = format!("/kubepods/burstable/pod{UID}/c");
    let at = |steps: usize| {
        let path = format!("/{}kubepods/pod{OTHER}/c", "../".repeat(steps));
        seen("/", &relative(&own, "/init.scope"), None, &path)
    };
    assert_eq!([0, 1, 2, 3, 5].map(at), [const { None }; 5]);
    assert_eq!(at(4).as_deref(), Some(OTHER));
}

#[test]
fn of_a_node_within_a_pod_the_inner_kubelet_counts() {
    let outer = format!("/kubepods/pod{OTHER}/c");
    let own = format!("{outer}/kubepods/burstable/pod{OTHER}/c");
    assert_eq!(seen(&own, "/init.scope", None, &format!("{outer}/kubepods/pod{UID}/c")).as_deref(), Some(UID));
    assert_eq!(seen(&own, "/init.scope", None, &format!("/kubepods/pod{UID}/c")), None);
}

#[test]
fn the_containers_of_the_drivers_own_pod_name_nobody() {
    for path in
        ["/".to_owned(), format!("/../pod{UID}/c"), format!("/pod{UID}"), format!("/sub/kubepods-pod{UID}.slice")]
    {
        assert_eq!(v2(&path), None, "{path}");
        assert_eq!(seen("/", "/../../../init.scope", None, &path), None, "{path}");
    }
    assert_eq!(seen("/", "/../../../init.scope", None, &format!("/kubepods/pod{UID}/c")), None, "below the driver's");
}

#[test]
fn what_a_container_makes_below_its_own_cgroup_never_wins() {
    let (mine, fake) = (systemd(UID), systemd(OTHER));
    for path in [
        format!("/kubepods/burstable/pod{UID}/c/kubepods/burstable/pod{OTHER}/c"),
        format!("/kubepods.slice/kubepods-pod{mine}.slice/c.scope/kubepods.slice/kubepods-pod{fake}.slice/c.scope"),
        format!("/kubepods.slice/kubepods-pod{mine}.slice/kubepods-pod{fake}.slice"),
    ] {
        assert_eq!(v2(&path).as_deref(), Some(UID), "{path}");
    }
    for path in [
        format!("/../../kubepods-besteffort-pod{mine}.slice/c.scope/kubepods-besteffort-pod{fake}.slice"),
        format!("/../../pod{UID}/c/burstable/pod{OTHER}"),
    ] {
        assert_eq!(seen("/", "/../../../../init.scope", None, &path).as_deref(), Some(UID), "{path}");
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
fn a_driver_that_sees_its_own_pod_only_knows_it_by_the_first_process() {
    let alone = |own: &str, first: &str| {
        let (own, first) = (format!("0::{own}\n"), format!("0::{first}\n"));
        Kubepods::find(&own, &first, None).is_alone(&own, &first)
    };
    for pods in ABOVE.map(|above| places(above, UID)).into_iter().flatten().flatten() {
        // The first process is the container's own, or the one that keeps the pod's namespaces, or the node's.
        assert!(alone("/", "/") && alone(&pods, &pods));
        assert!(alone(&pods, &format!("{}/pause.scope", pods.rsplit_once("/c").unwrap().0)), "{pods}");
        assert!(!alone(&pods, "/init.scope") && !alone("/", &relative(&pods, "/init.scope")), "{pods}");
    }
    assert!(alone("/", "/../cri-containerd-pause.scope"));
    assert!(!alone("/system.slice/aliquot.service", "/init.scope"));
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
        above in prop::sample::select(&ABOVE[..]),
        form in 0..2_usize,
        (driver, pod) in (0..3_usize, 0..3_usize),
    ) {
        let driver = &places(above, OTHER)[form][driver];
        let path = format!("{}/{}", places(above, UID)[form][pod], below.join("/"));
        prop_assert_eq!(seen(driver, "/init.scope", None, &path), Some(UID.to_owned()));
        prop_assert_eq!(from_within(driver, None, &path), Some(UID.to_owned()));
    }

    /// Whatever a user of the host, or a container outside of any pod, makes below what is delegated to him.
    #[test]
    fn nothing_outside_of_the_kubelets_cgroups_is_a_pods(
        names in prop::collection::vec(
            prop_oneof![
                "[a-z.]{1,12}",
                Just("kubepods".to_owned()), Just("kubepods.slice".to_owned()), Just("kubelet.slice".to_owned()),
                Just("kubelet-kubepods.slice".to_owned()), Just("burstable".to_owned()), Just(format!("pod{OTHER}")),
                Just("kubepods-burstable.slice".to_owned()),
                Just(format!("kubepods-pod{}.slice", systemd(OTHER))),
                Just(format!("kubepods-burstable-pod{}.slice", systemd(OTHER))),
            ], 0..8),
        delegated in prop::sample::select(&DELEGATED[..]),
        above in prop::sample::select(&ABOVE[..]),
        form in 0..2_usize,
        driver in 0..3_usize,
        root in prop::option::of(Just("/kubelet")),
    ) {
        let path = format!("{delegated}/{}", names.join("/"));
        let driver = &places(above, UID)[form][driver];
        prop_assert_eq!(seen(driver, "/init.scope", root, &path), None);
        prop_assert_eq!(from_within(driver, root, &path), None);
        prop_assert_eq!(seen("/system.slice/aliquot.service", "/init.scope", root, &path), None);
    }

    #[test]
    fn components_that_the_kubelet_never_writes_name_nobody(parts in prop::collection::vec("[a-z0-9_-]{0,10}(\\.slice|\\.scope)?", 0..6)) {
        let path = format!("/{}", parts.join("/"));
        prop_assume!(!path.contains("kubepods"));
        prop_assert_eq!(v2(&path), None);
    }
}
