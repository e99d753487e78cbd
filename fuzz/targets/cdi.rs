//! Files that are found in the CDI directory.
#![no_main]
use cdi_spec::Spec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(spec) = serde_json::from_slice::<Spec>(bytes) {
        let written = serde_json::to_vec(&spec).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<Spec>(&written).expect("and read again"), spec);
        for hook in spec.devices.iter().flat_map(|device| &device.container_edits.hooks) {
            assert!(
                !Vec::<String>::from(hook.env.clone()).is_empty(),
                "a hook would inherit the container's environment"
            );
        }
    }
});
