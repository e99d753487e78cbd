//! A libnvidia-ml double with the NVML C ABI, described by profile files.
