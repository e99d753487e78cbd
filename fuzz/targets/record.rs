//! Records of prepared claims, past their checksum: another version wrote them, or a damaged disk.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aliquot_driver::fuzzing::record(bytes));
