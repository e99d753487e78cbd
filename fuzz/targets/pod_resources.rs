//! What the kubelet's pod-resources socket answers, in which device plugins name devices as they like.
#![no_main]
use aliquot_driver::fuzzing;
use aliquot_model::{Inventory, testing::gpu};
use kubelet_api::podresources::v1::{AllocatableResourcesResponse, ListPodResourcesResponse};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Some((resource, id)) = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once('\n')) {
        fuzzing::device_id(resource, id);
    }
    let offered = AllocatableResourcesResponse::decode(bytes).unwrap_or_default();
    let pods = ListPodResourcesResponse::decode(bytes).unwrap_or_default();
    for count in [0, 1, 3] {
        let inventory = Inventory::new((0..count).map(gpu).collect(), vec![]);
        fuzzing::pod_resources(&inventory, &offered.devices, pods.pod_resources.clone());
    }
});
