//! The configuration of container runtimes, which doctor reads.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| aliquot_driver::fuzzing::runtime_config(text));
