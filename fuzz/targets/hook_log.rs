//! Lines of the hook's log: what is in one comes from containers and their images in part.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| aliquot_driver::fuzzing::refusal(bytes));
