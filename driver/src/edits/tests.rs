//! Specs as runtimes read them, word by word.
use aliquot_model::{DrmNode, Inventory};
use serde_json::json;

use super::*;
use crate::{
    claim::testing::record,
    discovery::installation::{Installation, Library, Placed},
    roots::tests::roots,
};

fn library(path: &str, below: Option<&'static str>, names: &[&str]) -> Library {
    Library { file: path.into(), below, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

fn found() -> Found {
    let installation = Installation {
        version: "570.1".into(),
        libraries: vec![
            library("/driver/usr/lib64/libGLX_nvidia.so.570.1", None, &["libGLX_nvidia.so.0"]),
            library("/driver/usr/lib64/libcuda.so.570.1", None, &["libcuda.so", "libcuda.so.1"]),
            library("/driver/usr/lib64/vdpau/libvdpau_nvidia.so.570.1", Some("vdpau"), &["libvdpau_nvidia.so.1"]),
        ],
        binaries: vec!["/driver/usr/bin/nvidia-smi".into()],
        files: vec![Placed { file: "/driver/etc/x.icd".into(), path: "/etc/OpenCL/vendors/nvidia.icd".into() }],
        sockets: vec![Placed { file: "/driver/run/s".into(), path: "/run/nvidia-persistenced/socket".into() }],
    };
    Found { installation, ..Found::default() }
}

/// Edits over a procfs with the table of devices.
fn edits(hook: Option<Hook>) -> (Edits, tempfile::TempDir) {
    let proc = tempfile::tempdir().unwrap();
    std::fs::write(proc.path().join("devices"), "Character devices:\n195 nvidia\n511 nvidia-uvm\n").unwrap();
    let roots = Roots { proc: proc.path().into(), dev: "/nodev".into(), ..roots("/driver", "/run/nvidia/driver") };
    (Edits::new(roots, hook), proc)
}

fn hook() -> Hook {
    Hook { path: "/plugin/aliquot-hook".into(), params: Some("/plugin/params".into()), log: "/plugin/hook.log".into() }
}

fn base(hook: Option<Hook>) -> serde_json::Value {
    let (edits, _proc) = edits(hook);
    let base = Base::of(&Kind::new("gpu.example.com", "claim").unwrap()).unwrap();
    assert_eq!(base.cdi_id, "gpu.example.com/driver=node");
    serde_json::to_value(edits.base(&base, &found()).unwrap()).unwrap()
}

#[test]
fn the_nodes_spec_has_each_file_once_and_a_hook_for_its_names() {
    let spec = base(Some(hook()));
    let edits = &spec["devices"][0]["containerEdits"];
    assert_eq!((&spec["cdiVersion"], &spec["kind"]), (&json!("0.5.0"), &json!("gpu.example.com/driver")));
    assert_eq!(edits["env"], json!(["NVIDIA_VISIBLE_DEVICES=void"]));
    let mounts: Vec<_> =
        edits["mounts"].as_array().unwrap().iter().map(|mount| (&mount["hostPath"], &mount["containerPath"])).collect();
    let dir = LIBRARY_DIR;
    let expected = [
        ("/run/nvidia/driver/usr/lib64/libGLX_nvidia.so.570.1", format!("{dir}/libGLX_nvidia.so.570.1")),
        ("/run/nvidia/driver/usr/lib64/libcuda.so.570.1", format!("{dir}/libcuda.so.570.1")),
        (
            "/run/nvidia/driver/usr/lib64/vdpau/libvdpau_nvidia.so.570.1",
            format!("{dir}/vdpau/libvdpau_nvidia.so.570.1"),
        ),
        ("/run/nvidia/driver/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi".into()),
        ("/run/nvidia/driver/etc/x.icd", "/etc/OpenCL/vendors/nvidia.icd".into()),
        ("/run/nvidia/driver/run/s", "/run/nvidia-persistenced/socket".into()),
    ];
    let expected: Vec<_> = expected.iter().map(|(host, path)| (json!(host), json!(path))).collect();
    assert_eq!(mounts, expected.iter().map(|(host, path)| (host, path)).collect::<Vec<_>>());
    for mount in edits["mounts"].as_array().unwrap() {
        let options = mount["options"].to_string();
        assert!(
            options.contains("nosuid")
                && options.contains("nodev")
                && (options.contains("\"ro\"") || options.contains("noexec"))
        );
    }
    let hook = &edits["hooks"][0];
    assert_eq!((&hook["hookName"], &hook["path"]), (&json!("createContainer"), &json!("/plugin/aliquot-hook")));
    assert_eq!(hook["env"], json!(["PATH=/nowhere"]));
    let args = [
        "aliquot-hook prepare-container --log /plugin/hook.log --params /plugin/params --driver-version 570.1"
            .to_owned(),
        format!("--library-dir {dir} --library-dir /usr/lib64"),
        format!("--link {dir}/libGLX_nvidia.so.570.1::{dir}/libGLX_indirect.so.0"),
        format!("--link {dir}/libGLX_nvidia.so.570.1::/usr/lib64/libGLX_indirect.so.0"),
        format!("--link {dir}/vdpau/libvdpau_nvidia.so.570.1::{dir}/vdpau/libvdpau_nvidia.so.1"),
        format!("--link {dir}/vdpau/libvdpau_nvidia.so.570.1::/usr/lib64/vdpau/libvdpau_nvidia.so.1"),
        "--library libGLX_nvidia.so.0=libGLX_nvidia.so.570.1".to_owned(),
        "--library libcuda.so=libcuda.so.570.1 --library libcuda.so.1=libcuda.so.570.1".to_owned(),
    ];
    let told: Vec<&str> = hook["args"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str).collect();
    assert_eq!(told.join(" "), args.join(" "));
}

#[test]
fn without_a_hook_each_library_is_mounted_by_its_names_where_loaders_look() {
    let spec = base(None);
    let edits = &spec["devices"][0]["containerEdits"];
    assert_eq!(edits.get("hooks"), None);
    let paths: Vec<_> =
        edits["mounts"].as_array().unwrap().iter().filter_map(|mount| mount["containerPath"].as_str()).collect();
    let libraries = ["libGLX_nvidia.so.0", "libcuda.so", "libcuda.so.1", "vdpau/libvdpau_nvidia.so.1"];
    for path in libraries.iter().flat_map(|name| [format!("{LIBRARY_DIR}/{name}"), format!("/usr/lib64/{name}")]) {
        assert!(paths.contains(&path.as_str()), "{path}");
    }
    assert_eq!(paths.len(), 2 * libraries.len() + 3);
}

#[test]
fn a_claims_spec_has_its_gpus_nodes_and_nothing_of_the_driver() {
    let (edits, _proc) = edits(Some(hook()));
    let mut found = found();
    let record = record("u1", &["gpu-0"]);
    let gpu = aliquot_model::Gpu {
        uuid: record.devices[0].gpu.clone(),
        drm: vec![
            DrmNode { name: "card1".into(), major: 226, minor: 1 },
            DrmNode { name: "renderD129".into(), major: 226, minor: 129 },
        ],
        ..crate::offer::tests::gpu(0x41)
    };
    found.inventory = Inventory::new(vec![gpu], vec![]);
    let kind = Kind::new("gpu.example.com", "claim").unwrap();
    let spec = serde_json::to_value(edits.spec(&kind, &record, &found).unwrap()).unwrap();
    let edits = &spec["devices"][0]["containerEdits"];
    let nodes: Vec<_> = edits["deviceNodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (&node["path"], &node["major"], &node["minor"]))
        .collect();
    let minor = json!(record.devices[0].minor);
    assert_eq!(
        nodes,
        [
            (&json!(format!("/dev/nvidia{minor}")), &json!(195), &minor),
            (&json!("/dev/dri/card1"), &json!(226), &json!(1)),
            (&json!("/dev/dri/renderD129"), &json!(226), &json!(129)),
        ]
    );
    let args = edits["hooks"][0]["args"].to_string();
    for link in
        ["../card1::/dev/dri/by-path/pci-0000:41:00.0-card", "../renderD129::/dev/dri/by-path/pci-0000:41:00.0-render"]
    {
        assert!(args.contains(link), "{args}");
    }
    assert_eq!((spec.get("containerEdits"), edits.get("mounts")), (None, None));
}
