//! Who is told what, word by word.
use aliquot_model::{Gpu, testing};
use dra_plugin::{ClaimRef, DeviceResult};

use super::*;
use crate::{claim::testing as records, edits::Base};

fn inventory() -> Inventory {
    let gpu = Gpu { uuid: "GPU-gpu-0000-41-00".parse().unwrap(), ..testing::gpu(0x41) };
    Inventory::new(vec![gpu], vec![]).with_vfio(vec![testing::vfio(0x42)])
}

fn writer(dir: &Path, whom: DeviceMetadata) -> Writer {
    Writer { whom, ..Writer::open(dir).unwrap() }
}

fn claim(requests: &[&str]) -> AllocatedClaim {
    let result = |request: &&str| DeviceResult {
        request: RequestName::parse(request),
        pool: "gpu.example.com/node1".into(),
        device: "gpu-0000-41-00".into(),
        admin_access: false,
        share_id: None,
        consumed_capacity: BTreeMap::new(),
    };
    let (results, claim) = (requests.iter().map(result).collect(), ClaimRef::new("default", "claim", "u1").unwrap());
    AllocatedClaim { claim, results, configs: vec![], reserved_for: vec![], pod_claim: Some("mine".into()) }
}

/// A record that is told, and each of its files as JSON.
fn told(mut record: Record, requests: &[&str]) -> (Record, Vec<serde_json::Value>) {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path(), DeviceMetadata::All);
    record.metadata = writer.of(&claim(requests), &record.devices);
    let documents = writer.documents(&record, &inventory()).unwrap();
    writer.write(&record, &documents, Before::Goes).unwrap();
    assert!(writer.has(&record));
    let json = documents.iter().map(|told| serde_json::from_slice(&told.bytes).unwrap()).collect();
    (record, json)
}

#[test]
fn a_share_is_told_what_is_published_and_what_of_it_is_the_claims() {
    let mut record = records::share("u1", "gpu-0000-41-00", 2, 16);
    record.devices[0].share.as_mut().unwrap().hard = true;
    let (_, files) = told(record, &["gpu/small"]);
    let (request, device) = (&files[0]["requests"][0], &files[0]["requests"][0]["devices"][0]);
    assert_eq!((&request["name"], &files[0]["podClaimName"]), (&"gpu/small".into(), &"mine".into()));
    assert_eq!((&device["driver"], &device["name"]), (&"gpu.example.com".into(), &"gpu-0000-41-00-shared".into()));
    let expected = [
        ("uuid", serde_json::json!({"string": "GPU-gpu-0000-41-00"})),
        ("type", serde_json::json!({"string": "share"})),
        ("productName", serde_json::json!({"string": "NVIDIA H100 80GB HBM3"})),
        ("resource.kubernetes.io/pciBusID", serde_json::json!({"string": "0000:41:00.0"})),
        ("shareID", serde_json::json!({"string": "share-u1"})),
        ("shares", serde_json::json!({"int": 2})),
        ("memoryBytes", serde_json::json!({"int": 16_u64 << 30})),
        ("memoryEnforcement", serde_json::json!({"string": "hard"})),
    ];
    for (name, value) in expected {
        assert_eq!(device["attributes"][name], value, "{name}");
    }
    assert!(device["attributes"].get("memoryGuard").is_none(), "the policy may change while the claim stays");
}

#[test]
fn a_virtual_machines_gpu_is_told_by_its_place_and_one_that_is_gone_by_what_the_record_knows() {
    let (_, files) = told(records::passed("u1", &["0000:42:00.0"]), &["gpu"]);
    let attributes = &files[0]["requests"][0]["devices"][0]["attributes"];
    assert_eq!(attributes["resource.kubernetes.io/pciBusID"]["string"], "0000:42:00.0");
    let (_, files) = told(records::record("u1", &["gpu-0000-77-00"]), &["gpu"]);
    let attributes = &files[0]["requests"][0]["devices"][0]["attributes"];
    assert_eq!(attributes, &serde_json::json!({"uuid": {"string": "GPU-gpu-0000-77-00"}}));
}

#[test]
fn what_containers_have_is_not_written_over_when_less_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let writer = writer(dir.path(), DeviceMetadata::All);
    let mut record = records::record("u1", &["gpu-0000-41-00"]);
    record.metadata = writer.of(&claim(&["gpu"]), &record.devices);
    let write = |inventory: &Inventory, before| {
        writer.write(&record, &writer.documents(&record, inventory).unwrap(), before).unwrap();
        std::fs::read_to_string(dir.path().join("u1/gpu.json")).unwrap()
    };
    let full = write(&inventory(), Before::Stays);
    assert!(full.contains("pciBusID"), "what isn't there is written");
    assert_eq!(write(&Inventory::default(), Before::Stays), full);
    assert_ne!(write(&Inventory::default(), Before::Goes), full);
}

#[test]
fn each_request_has_one_file_which_comes_with_its_first_device() {
    let mut record = records::record("u1", &["gpu-0000-41-00", "gpu-0000-42-00", "gpu-0000-43-00"]);
    record.devices[2].request = "other".into();
    let (record, files) = told(record, &["gpu", "gpu", "other"]);
    assert_eq!(files.len(), 2);
    let base = Base::of(&cdi_spec::Kind::new("gpu.example.com", "claim").unwrap()).unwrap();
    let answer: Vec<Vec<String>> = record.answer(&base).into_iter().map(|device| device.cdi_ids).collect();
    assert_eq!(answer[0].last().unwrap(), "gpu.example.com/claim=u1_gpu");
    assert_eq!(answer[2].last().unwrap(), "gpu.example.com/claim=u1_other");
    assert_eq!(answer[1].len(), 2, "the node's device and its own");
    assert_eq!(names(&record), ["u1_gpu", "u1_other"]);
}

#[test]
fn nobody_is_told_who_was_not_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, passed) = (records::record("u1", &["gpu-0000-41-00"]), records::passed("u1", &["0000:42:00.0"]));
    let of = |whom, record: &Record| writer(dir.path(), whom).of(&claim(&["gpu"]), &record.devices).is_some();
    assert!(!of(DeviceMetadata::None, &whole) && !of(DeviceMetadata::None, &passed));
    assert!(!of(DeviceMetadata::Vfio, &whole) && of(DeviceMetadata::Vfio, &passed));
    assert!(of(DeviceMetadata::All, &whole) && of(DeviceMetadata::All, &passed));
    let silent = writer(dir.path(), DeviceMetadata::All);
    assert!(silent.documents(&whole, &inventory()).unwrap().is_empty() && silent.has(&whole));
    assert!(silent.claims().unwrap().is_empty());
}
