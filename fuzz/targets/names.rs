//! Names that NVML, sysfs and other programs write: what is taken is spelled in one way.
#![no_main]
use std::{fmt::Display, str::FromStr};

use aliquot_model::{DeviceName, GpuUuid, Memory, PciAddress, semver};
use libfuzzer_sys::fuzz_target;

fn same<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = T::from_str(text) {
        assert!(T::from_str(&value.to_string()).is_ok_and(|again| again == value), "{text:?}");
    }
}

fuzz_target!(|text: &str| {
    same::<PciAddress>(text);
    same::<GpuUuid>(text);
    same::<DeviceName>(text);
    same::<Memory>(text);
    let _ = semver(text);
});
