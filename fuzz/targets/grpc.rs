//! What comes over the kubelet's sockets.
#![no_main]
use kubelet_api::{dra, registration};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fn same<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let written = message.encode_to_vec();
        assert_eq!(M::decode(written.as_slice()).expect("what was written can be read"), message);
    }
}

fuzz_target!(|bytes: &[u8]| {
    same::<dra::v1::NodePrepareResourcesRequest>(bytes);
    same::<dra::v1::NodeUnprepareResourcesRequest>(bytes);
    same::<dra::v1beta1::NodePrepareResourcesRequest>(bytes);
    same::<registration::v1::RegistrationStatus>(bytes);
});
