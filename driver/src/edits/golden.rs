//! The node's spec and a claim's, to the letter, for each kind of root that a driver is installed in.
//!
//! They are in `golden/`, for x86-64 as most paths name it. A mismatch prints the difference; when it is meant,
//! `UPDATE_EXPECT=1 cargo test -p aliquot-driver --lib golden` writes them anew, to be read before they are committed.
#![cfg(target_arch = "x86_64")]

use std::os::unix::net::UnixListener;

use aliquot_model::{DrmNode, Gpu, Inventory};
use cdi_spec::{Kind, Spec};
use expect_test::expect_file;
use serde::Serialize;

use super::{Base, Edits};
use crate::{
    claim::testing::record,
    discovery::{
        Found,
        installation::testing::{Tree, VERSION},
    },
    hook::Hook,
    roots::Roots,
};

/// Libraries by their names without `.so` and what follows, and their SONAMEs.
const LIBRARIES: [(&str, &str); 7] = [
    ("libcuda", "libcuda.so.1"),
    ("libnvidia-ml", "libnvidia-ml.so.1"),
    ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
    ("libnvidia-encode", "libnvidia-encode.so.1"),
    ("libnvidia-allocator", "libnvidia-allocator.so.1"),
    ("libGLX_nvidia", "libGLX_nvidia.so.0"),
    ("vdpau/libvdpau_nvidia", "libvdpau_nvidia.so.1"),
];

/// The driver's libraries in one directory, with the links that its installer and `ldconfig` make.
fn libraries(tree: &Tree, dir: &str) {
    for (stem, soname) in LIBRARIES {
        let file = format!("{stem}.so.{VERSION}");
        let name = file.rsplit('/').next().unwrap();
        let below = stem.rsplit_once('/').map_or_else(String::new, |(below, _)| format!("{below}/"));
        tree.library(&format!("{dir}/{file}"), soname).link(&format!("{dir}/{below}{soname}"), name);
    }
    tree.library(&format!("{dir}/libnvidia-egl-gbm.so.1.1.2"), "libnvidia-egl-gbm.so.1")
        .link(&format!("{dir}/libnvidia-egl-gbm.so.1"), "libnvidia-egl-gbm.so.1.1.2")
        .library(&format!("{dir}/libc.so.6"), "libc.so.6");
}

fn programs(tree: &Tree, dir: &str) {
    for name in ["nvidia-smi", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-modprobe"] {
        tree.file(&format!("{dir}/{name}"), b"");
    }
}

fn firmware(tree: &Tree, dir: &str) {
    tree.file(&format!("{dir}/nvidia/{VERSION}/gsp_ga10x.bin"), b"")
        .file(&format!("{dir}/nvidia/{VERSION}/gsp_tu10x.bin"), b"");
}

fn graphics(tree: &Tree) {
    tree.file("usr/share/glvnd/egl_vendor.d/10_nvidia.json", b"{}")
        .file("usr/share/vulkan/icd.d/nvidia_icd.json", b"{}")
        .file("etc/OpenCL/vendors/nvidia.icd", b"libnvidia-opencl.so.1");
}

/// In this order, whatever `serde_json` makes of maps.
#[derive(Serialize)]
struct Specs {
    node: Spec,
    claim: Spec,
}

/// The two specs of a tree, whose temporary paths are those of a host.
fn specs(tree: &Tree, on_host: &str, hook: Option<Hook>) -> String {
    for (path, text) in
        [("proc/devices", "Character devices:\n195 nvidia\n511 nvidia-uvm\n"), ("dev/nvidia-modeset", "")]
    {
        tree.file(path, text.as_bytes());
    }
    let roots = Roots { dev: tree.root.join("dev"), ..tree.roots(on_host) };
    let drm = |name: &str, minor| DrmNode { name: name.to_owned(), major: 226, minor };
    let record = record("d8cd2f14-9cc1-4f5d-8e6a-2a5b3a8f2a10", &["gpu-0000-41-00"]);
    let gpu = Gpu {
        uuid: record.devices[0].gpu.clone(),
        drm: vec![drm("card1", 1), drm("renderD129", 129)],
        ..crate::offer::tests::gpu(0x41)
    };
    let found = Found { inventory: Inventory::new(vec![gpu], vec![]), installation: tree.find(), ..Found::default() };
    let (edits, kind) = (Edits::new(roots, hook), Kind::new("gpu.example.com", "claim").unwrap());
    let node = edits.base(&Base::of(&kind).unwrap(), &found).unwrap();
    let claim = edits.spec(&kind, &record, &found).unwrap();
    let text = serde_json::to_string_pretty(&Specs { node, claim }).unwrap() + "\n";
    // Device nodes are found where this process sees them.
    text.replace(&tree.root.join("dev").display().to_string(), "/dev")
}

fn hook() -> Hook {
    Hook {
        path: "/var/lib/aliquot/gpu.example.com/aliquot-hook".into(),
        params: Some("/var/lib/kubelet/plugins/gpu.example.com/params".into()),
        log: "/var/lib/kubelet/plugins/gpu.example.com/hook.log".into(),
    }
}

/// A tree with its two specs, held against those in the file of this name.
fn holds(name: &str, tree: &Tree, on_host: &str, hook: Option<Hook>) {
    let specs = specs(tree, on_host, hook);
    assert!(specs.contains("libcuda.so.570.1") && specs.contains("nvidia-smi"), "{name}: the driver isn't found");
    expect_file![format!("golden/{name}.json")].assert_eq(&specs);
}

/// Ubuntu's packages, and NVIDIA's own for Debian, on a merged `/usr`, with the persistence daemon.
fn ubuntu(tree: &Tree) {
    tree.link("lib", "usr/lib").link("bin", "usr/bin");
    libraries(tree, "usr/lib/x86_64-linux-gnu");
    programs(tree, "usr/bin");
    firmware(tree, "usr/lib/firmware");
    graphics(tree);
}

/// Debian's own packages keep several drivers beside each other and choose by its alternatives.
#[test]
fn debian() {
    let tree = Tree::new();
    tree.link("lib", "usr/lib").link("bin", "usr/bin");
    libraries(&tree, "usr/lib/x86_64-linux-gnu/nvidia/current");
    tree.file("usr/lib/nvidia/current/nvidia-smi", b"")
        .link("etc/alternatives/nvidia--nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi")
        .link("usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi")
        .link("etc/alternatives/glx--libcuda", "/usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1")
        .link("usr/lib/x86_64-linux-gnu/libcuda.so.1", "/etc/alternatives/glx--libcuda");
    firmware(&tree, "usr/lib/firmware");
    graphics(&tree);
    holds("debian", &tree, "/", Some(hook()));
}

#[test]
fn ubuntu_with_a_daemon() {
    let tree = Tree::new();
    ubuntu(&tree);
    tree.file("run/nvidia-persistenced/pid", b"");
    let _listener = UnixListener::bind(tree.root.join("run/nvidia-persistenced/socket")).unwrap();
    holds("ubuntu", &tree, "/", Some(hook()));
}

#[test]
fn ubuntu_without_a_hook() {
    let tree = Tree::new();
    ubuntu(&tree);
    holds("ubuntu-without-hook", &tree, "/", None);
}

/// 32-bit libraries are in `/usr/lib`.
#[test]
fn red_hat() {
    let tree = Tree::new();
    tree.link("lib64", "usr/lib64").link("lib", "usr/lib").link("bin", "usr/bin");
    libraries(&tree, "usr/lib64");
    programs(&tree, "usr/bin");
    firmware(&tree, "usr/lib/firmware");
    graphics(&tree);
    holds("red-hat", &tree, "/", Some(hook()));
}

/// Each of the directories of libraries and of programs is one.
#[test]
fn arch() {
    let tree = Tree::new();
    tree.link("lib64", "usr/lib").link("lib", "usr/lib").link("usr/lib64", "lib");
    tree.link("bin", "usr/bin").link("sbin", "usr/bin").link("usr/sbin", "bin");
    libraries(&tree, "usr/lib");
    programs(&tree, "usr/bin");
    firmware(&tree, "usr/lib/firmware");
    graphics(&tree);
    holds("arch", &tree, "/", Some(hook()));
}

/// The GPU operator's driver container: Ubuntu below `/run/nvidia/driver`, which the kernel is told for firmware.
#[test]
fn driver_container() {
    let tree = Tree::new();
    ubuntu(&tree);
    tree.file("sys/module/firmware_class/parameters/path", b"/run/nvidia/driver/lib/firmware\n");
    holds("driver-container", &tree, "/run/nvidia/driver", Some(hook()));
}

/// Before 1.13: a C library of its own below `/usr/local/glibc`, programs in `/usr/local/bin`.
#[test]
fn talos() {
    let tree = Tree::new();
    libraries(&tree, "usr/local/glibc/usr/lib");
    programs(&tree, "usr/local/bin");
    firmware(&tree, "lib/firmware");
    holds("talos", &tree, "/", Some(hook()));
}

/// Container-Optimized OS: all that may be executed is in one directory of the stateful partition.
#[test]
fn gke() {
    let tree = Tree::new();
    libraries(&tree, "home/kubernetes/bin/nvidia/lib64");
    programs(&tree, "home/kubernetes/bin/nvidia/bin");
    tree.file("home/kubernetes/bin/nvidia/vulkan/icd.d/nvidia_icd.json", b"{}");
    holds("gke", &tree, "/", Some(hook()));
}

/// Links from places that are known into the store, and no loader's cache.
#[test]
fn nixos() {
    let tree = Tree::new();
    let (library, graphics) = ("nix/store/aaaa-nvidia-x11-570.1-6.12.9/lib", "nix/store/bbbb-graphics-drivers/lib");
    libraries(&tree, library);
    for (stem, _) in LIBRARIES {
        let file = format!("{stem}.so.{VERSION}");
        tree.link(&format!("{graphics}/{file}"), &format!("/{library}/{file}"));
    }
    tree.link("run/opengl-driver", "/nix/store/bbbb-graphics-drivers");
    programs(&tree, "nix/store/cccc-nvidia-x11-570.1-6.12.9-bin/bin");
    tree.link("nix/store/dddd-system-path/bin", "/nix/store/cccc-nvidia-x11-570.1-6.12.9-bin/bin")
        .link("run/current-system/sw", "/nix/store/dddd-system-path");
    firmware(&tree, "nix/store/eeee-firmware/lib/firmware");
    tree.file("sys/module/firmware_class/parameters/path", b"/nix/store/eeee-firmware/lib/firmware\n");
    holds("nixos", &tree, "/", Some(hook()));
}
