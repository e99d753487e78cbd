//! What processes and the kernel show in procfs; a process chooses its name, and below its pod the names of cgroups.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| aliquot_driver::fuzzing::procfs(text));
