//! The policy file: whatever it says, no GPU is offered beyond what it has.
#![no_main]
use aliquot_model::{ComputeCapability, Gpu, Memory};
use aliquot_params::policy::Policy;
use libfuzzer_sys::fuzz_target;

fn gpu() -> Gpu {
    Gpu {
        uuid: "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c".parse().expect("it is a UUID"),
        pci: "0000:1b:00.0".parse().expect("it is an address"),
        index: 0,
        minor: 0,
        product_name: "NVIDIA H100 80GB HBM3".into(),
        brand: "Nvidia".into(),
        architecture: "Hopper".into(),
        compute_capability: ComputeCapability { major: 9, minor: 0 },
        memory: Memory::from_bytes(80 << 30),
        driver_version: "580.65.06".into(),
        cuda_driver_version: "13.0".into(),
        pcie_root: None,
        numa_node: None,
        drm: vec![],
        process_memory: true,
        hard_limits: false,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let policy = match Policy::parse(bytes) {
        Ok(policy) => policy,
        Err(error) => {
            assert!(error.to_string().len() < 16 << 10, "what is wrong is told in few words");
            return;
        }
    };
    if let Ok(offer) = policy.for_gpu(&gpu())
        && let Some(shares) = offer.shares
    {
        assert!(shares.count > 0);
        assert!(shares.memory <= gpu().memory);
    }
});
