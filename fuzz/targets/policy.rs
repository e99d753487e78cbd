//! The policy file: whatever it says, no GPU is offered beyond what it has.
#![no_main]
use aliquot_model::{Gpu, testing};
use aliquot_params::policy::Policy;
use libfuzzer_sys::fuzz_target;

/// One that the corpus names.
fn gpu() -> Gpu {
    let uuid = "GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c".parse().expect("it is a UUID");
    Gpu { uuid, ..testing::gpu(0x1b) }
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
