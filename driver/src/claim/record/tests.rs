//! Records as they are written and read, and those that other suites of this crate begin with.
use aliquot_model::Vfio;
use proptest::prelude::*;

use super::*;

/// A share of 80 GiB in ten parts.
pub(crate) fn share(uid: &str, gpu: &str, shares: u32, gibibytes: u64) -> Record {
    let mut record = record(uid, &[gpu]);
    let room = |shares, gibibytes: u64| Room { shares, memory: Memory::from_bytes(gibibytes << 30) };
    let held = &mut record.devices[0];
    held.device = format!("{gpu}-shared").parse().unwrap();
    held.share_id = Some(format!("share-{uid}"));
    held.share = Some(Share { takes: room(shares, gibibytes), of: room(10, 80), alone: false, hard: false });
    record
}

/// A GPU of a virtual machine, with others of its group.
pub(crate) fn passed(uid: &str, gpus: &[&str]) -> Record {
    let gpus: Vec<PciAddress> = gpus.iter().map(|pci| pci.parse().unwrap()).collect();
    let device = DeviceName::of(gpus[0], aliquot_model::Part::Vfio);
    let mut record = record(uid, &[device.as_str()]);
    let held = &mut record.devices[0];
    (held.gpu, held.minor) = (GpuUuid::of_place(gpus[0]), None);
    held.vfio = Some(Passed { group: IommuGroup(12), gpus, iommu: Iommu::default(), taken: None });
    record
}

/// Whole GPUs, each of a UUID of its own.
pub(crate) fn record(uid: &str, devices: &[&str]) -> Record {
    let held = |device: &&str| Held {
        request: "gpu".into(),
        pool: "gpu.example.com/node1".into(),
        device: device.parse().unwrap(),
        gpu: format!("GPU-{device}").parse().unwrap(),
        minor: Some(0),
        admin_access: false,
        share_id: None,
        share: None,
        time_slice: None,
        vfio: None,
        cdi_id: format!("gpu.example.com/claim={uid}-{device}"),
    };
    Record {
        schema: 1,
        boot_id: "boot-1".into(),
        claim: ClaimRef::new("default", "claim", uid).unwrap(),
        state: State::Preparing,
        devices: devices.iter().map(held).collect(),
        pods: vec![],
        metadata: None,
    }
}

/// The same, taken from NVIDIA's driver.
pub(crate) fn taken(uid: &str, bus: u8) -> Record {
    let Vfio { gpu, functions, .. } = aliquot_model::testing::switchable(bus);
    let mut record = passed(uid, &[&gpu.pci.to_string()]);
    let gpus = vec![aliquot_model::testing::gpu(bus)];
    record.devices[0].vfio.as_mut().unwrap().taken = Some(Taken { by: "vfio-pci".into(), functions, gpus });
    record.schema = schema(&record.devices);
    record
}

#[test]
fn a_version_that_would_not_give_a_gpu_back_takes_the_record_for_none_of_its_own() {
    assert_eq!((taken("u1", 0x41).schema, passed("u2", &["0000:42:00.0"]).schema), (2, 1));
    assert_eq!(schema(&record("u3", &["gpu-0000-41-00"]).devices), 1);
}

#[test]
fn what_is_taken_is_away_for_good_once_the_claim_is_prepared() {
    let mut record = taken("u1", 0x41);
    let away = |record: &Record| record.away().map(|away| (away.group, away.is_settled)).collect::<Vec<_>>();
    assert_eq!(away(&record), [(IommuGroup(12), false)]);
    record.state = State::Prepared;
    assert_eq!(away(&record), [(IommuGroup(12), true)]);
    assert_eq!(away(&passed("u2", &["0000:41:00.0"])), []);
}

#[test]
fn what_is_written_is_read_back() {
    let mut shared = share("u2", "gpu-0000-41-00", 2, 16);
    shared.devices[0].time_slice = Some(Slice { interval: TimeSlice::Short, asked: true, required: true });
    shared.devices[0].share.as_mut().unwrap().hard = true;
    shared.pods = vec![PodRef { name: "a".into(), uid: "b".into() }];
    let passed = passed("u3", &["0000:41:00.0", "0000:42:00.0"]);
    for record in [record("u1", &["gpu-0000-41-00", "gpu-0000-42-00"]), shared, passed, taken("u4", 0x43)] {
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
    }
}

/// A record of a version that writes one field more, under this schema.
pub(crate) fn of_schema(schema: u64) -> Vec<u8> {
    let mut json = serde_json::to_value(record("u1", &["gpu-0000-41-00"])).unwrap();
    json["later"] = serde_json::json!({"a": 1});
    json["schema"] = serde_json::json!(schema);
    let mut bytes = serde_json::to_vec(&json).unwrap();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(format!("\n{crc:08x}\n").as_bytes());
    bytes
}

#[test]
fn a_field_of_a_later_version_is_no_damage_and_another_schema_is_not_guessed_at() {
    assert_eq!(Record::decode(&of_schema(1)).unwrap(), record("u1", &["gpu-0000-41-00"]));
    for schema in [0, 3, u64::MAX] {
        let error = Record::decode(&of_schema(schema)).unwrap_err();
        assert!(matches!(error, Unreadable::Schema { found } if found == schema), "{error}");
    }
}

#[test]
fn what_can_not_be_used_still_shows_whose_it_is() {
    let later = Glimpse::of(&of_schema(3));
    assert_eq!(later.whose, Some(ClaimRef::new("default", "claim", "u1").unwrap()));
    assert_eq!((later.is_intact, later.devices.len()), (true, 1));
    let mut changed = of_schema(1);
    changed[20] ^= 1;
    assert!(!Glimpse::of(&changed).is_intact);
    for nothing in [&b""[..], b"{", b"[]", b"{\"claim\":{\"uid\":\"../x\"}}\n00000000\n", &[0xff; 300]] {
        assert_eq!(Glimpse::of(nothing), Glimpse::default());
    }
}

/// As version 0.1.0 wrote them; what each version writes is kept beside these when it is released.
const OF_RELEASES: [(&str, &[u8]); 5] = [
    ("0.1.0 whole", include_bytes!("../golden/0.1.0/whole.json")),
    ("0.1.0 share", include_bytes!("../golden/0.1.0/share.json")),
    ("0.1.0 share with a hard limit", include_bytes!("../golden/0.1.0/hard-limit.json")),
    ("0.1.0 share with a time slice", include_bytes!("../golden/0.1.0/time-slice.json")),
    ("0.1.0 fixed share and administration", include_bytes!("../golden/0.1.0/fixed-and-admin.json")),
];

#[test]
fn the_records_of_every_released_version_are_read() {
    for (name, bytes) in OF_RELEASES {
        let record = Record::decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(record.claim.to_string(), "team/training", "{name}");
        assert!(!record.devices.is_empty() && record.schema <= SCHEMA, "{name}");
        // Nothing that it said is lost on the way through this version.
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record, "{name}");
    }
    let read = |n: usize| Record::decode(OF_RELEASES[n].1).unwrap();
    assert_eq!((read(0).state, read(0).pods.len(), read(0).devices.len()), (State::Prepared, 1, 2));
    assert_eq!(read(1).devices[0].share.map(|share| share.takes.shares), Some(2));
    assert!(read(2).devices[0].hard().is_some());
    assert_eq!(read(3).devices[0].time_slice.map(|slice| slice.interval), Some(TimeSlice::Short));
    assert!(read(4).devices[0].share.is_some_and(|share| share.alone) && read(4).devices[1].admin_access);
}

proptest! {
    #[test]
    fn a_changed_or_missing_byte_is_noticed(at in 0usize..400, with: u8) {
        let good = record("u1", &["gpu-0000-41-00"]).encode().unwrap();
        let at = at % good.len();
        prop_assert!(Record::decode(&good[..at]).is_err());
        let mut bad = good.clone();
        bad[at] = with;
        // The checksum's own hexadecimal digits may change in case and still say the same.
        prop_assert!(bad.eq_ignore_ascii_case(&good) || Record::decode(&bad).is_err());
    }
}
