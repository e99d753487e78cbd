//! Against trees laid out as driver roots are in the wild.
use std::{fs, os::unix::net::UnixListener};

use super::testing::Tree;

fn names(all: &[&str]) -> Vec<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_debian_hosts_libraries_are_found_with_their_modules_and_those_with_versions_of_their_own() {
    let tree = Tree::new();
    let dir = "usr/lib/x86_64-linux-gnu";
    tree.library(&format!("{dir}/libcuda.so.570.1"), "libcuda.so.1")
        .link(&format!("{dir}/libcuda.so.1"), "libcuda.so.570.1")
        .library(&format!("{dir}/libnvidia-encode.so.570.1"), "libnvidia-encode.so.1")
        .link(&format!("{dir}/libnvidia-encode.so"), "libnvidia-encode.so.1")
        .library(&format!("{dir}/vdpau/libvdpau_nvidia.so.570.1"), "libvdpau_nvidia.so.1")
        .library(&format!("{dir}/libnvidia-egl-gbm.so.1.1.2"), "libnvidia-egl-gbm.so.1")
        .link(&format!("{dir}/libnvidia-egl-gbm.so.1"), "libnvidia-egl-gbm.so.1.1.2")
        .library(&format!("{dir}/libcuda.so.535.9"), "libcuda.so.1")
        .library(&format!("{dir}/libc.so.6"), "libc.so.6")
        .file(&format!("{dir}/libodd.so.570.1"), b"no library");
    let expected = [
        ("libcuda.so.570.1", names(&["libcuda.so", "libcuda.so.1"])),
        ("libnvidia-egl-gbm.so.1.1.2", names(&["libnvidia-egl-gbm.so.1"])),
        ("libnvidia-encode.so.570.1", names(&["libnvidia-encode.so", "libnvidia-encode.so.1"])),
        ("vdpau/libvdpau_nvidia.so.570.1", names(&["libvdpau_nvidia.so.1"])),
    ];
    assert_eq!(tree.libraries(), expected.map(|(path, names)| (format!("{dir}/{path}"), names)));
    let modules: Vec<_> = tree.find().libraries.into_iter().filter_map(|library| library.below).collect();
    assert_eq!(modules, ["vdpau"]);
}

#[test]
fn each_kind_of_root_has_its_libraries_in_a_place_of_its_own() {
    for dir in [
        "usr/lib64",
        "usr/lib",
        "usr/local/glibc/usr/lib",
        "home/kubernetes/bin/nvidia/lib64",
        "usr/local/nvidia/lib64",
    ] {
        let tree = Tree::new();
        tree.library(&format!("{dir}/libcuda.so.570.1"), "libcuda.so.1");
        assert_eq!(tree.libraries(), [(format!("{dir}/libcuda.so.570.1"), names(&["libcuda.so", "libcuda.so.1"]))]);
    }
    let nixos = Tree::new();
    nixos
        .library("nix/store/a-nvidia-x11/lib/libcuda.so.570.1", "libcuda.so.1")
        .link("nix/store/b-graphics/lib/libcuda.so.570.1", "/nix/store/a-nvidia-x11/lib/libcuda.so.570.1")
        .link("run/opengl-driver", "/nix/store/b-graphics");
    assert_eq!(nixos.libraries()[0].0, "nix/store/a-nvidia-x11/lib/libcuda.so.570.1");
}

#[test]
fn a_place_that_only_the_roots_loader_knows_is_found_by_its_cache() {
    let tree = Tree::new();
    let library = ld_cache::Library { name: "libcuda.so.1".into(), path: "/opt/nvidia/lib/libcuda.so.1".into() };
    tree.file("etc/ld.so.cache", &ld_cache::merge(None, &[library], ld_cache::Machine::HERE).unwrap())
        .library("opt/nvidia/lib/libcuda.so.570.1", "libcuda.so.1");
    assert_eq!(tree.libraries().len(), 1);
}

#[test]
fn directories_that_are_links_to_each_other_are_read_once() {
    let tree = Tree::new();
    tree.library("usr/lib/libcuda.so.570.1", "libcuda.so.1").link("usr/lib64", "lib").link("lib", "usr/lib");
    assert_eq!(tree.libraries().len(), 1);
}

#[test]
fn firmware_is_taken_from_where_the_kernel_looks_first() {
    let tree = Tree::new();
    tree.file("lib/firmware/nvidia/570.1/gsp_ga10x.bin", b"old").file("lib/firmware/nvidia/570.1/readme", b"");
    let paths = |tree: &Tree| -> Vec<_> { tree.find().files.into_iter().map(|file| (file.file, file.path)).collect() };
    let inside = "/lib/firmware/nvidia/570.1/gsp_ga10x.bin".to_owned();
    assert_eq!(paths(&tree), [(tree.root.join(&inside[1..]), inside.clone())]);
    tree.file("lib/firmware/updates/nvidia/570.1/gsp_ga10x.bin", b"new");
    assert_eq!(paths(&tree), [(tree.root.join("lib/firmware/updates/nvidia/570.1/gsp_ga10x.bin"), inside.clone())]);
    tree.file("proc/sys/kernel/osrelease", b"6.12.9\n")
        .file("lib/firmware/updates/6.12.9/nvidia/570.1/gsp_ga10x.bin", b"");
    assert_eq!(paths(&tree)[0].0, tree.root.join("lib/firmware/updates/6.12.9/nvidia/570.1/gsp_ga10x.bin"));
    // A driver in a container tells the kernel the host's path to its own root.
    tree.file("sys/module/firmware_class/parameters/path", b"/run/nvidia/driver/lib/firmware\n");
    assert_eq!(paths(&tree), [(tree.root.join(&inside[1..]), inside)]);
}

#[test]
fn configurations_go_where_loaders_look_for_them() {
    let tree = Tree::new();
    tree.file("usr/share/glvnd/egl_vendor.d/10_nvidia.json", b"{}")
        .file("etc/OpenCL/vendors/nvidia.icd", b"libnvidia-opencl.so.1")
        .file("vulkan/icd.d/nvidia_icd.json", b"{}");
    let paths: Vec<_> = tree.find().files.into_iter().map(|file| file.path).collect();
    let expected = [
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        "/etc/OpenCL/vendors/nvidia.icd",
        "/etc/vulkan/icd.d/nvidia_icd.json",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn a_daemons_socket_is_one_and_a_file_in_its_place_is_none() {
    let tree = Tree::new();
    tree.file("run/nvidia-fabricmanager/socket", b"");
    fs::create_dir_all(tree.root.join("run/nvidia-persistenced")).unwrap();
    let _listener = UnixListener::bind(tree.root.join("run/nvidia-persistenced/socket")).unwrap();
    let paths: Vec<_> = tree.find().sockets.into_iter().map(|socket| socket.path).collect();
    assert_eq!(paths, ["/run/nvidia-persistenced/socket"]);
}
