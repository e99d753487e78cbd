//! A tiny nvidia-smi for fake driver roots that asks the NVML library beside it.
fn main() {}
