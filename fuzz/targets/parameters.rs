//! Opaque parameters of claims and classes, which any user writes.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(parameters) = serde_json::from_slice(bytes) {
        match aliquot_params::decode(&parameters) {
            Ok(config) => assert!(["GpuConfig", "ShareConfig", "VfioConfig"].contains(&config.kind())),
            Err(faults) => assert!(!faults.to_string().is_empty()),
        }
    }
});
