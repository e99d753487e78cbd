//! An image's cache of the loader: refused, or merged so that ours are found and merging again changes nothing.
#![no_main]
use ld_cache::{Library, Machine, find, merge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let ours = [Library { name: "libcuda.so.1".into(), path: "/usr/lib64/libcuda.so.1".into() }];
    if let Ok(merged) = merge(Some(bytes), &ours, Machine::X86_64) {
        let found = find(&merged, "libcuda.so.1", Machine::X86_64).expect("what was written can be read");
        assert_eq!(found.as_deref(), Some("/usr/lib64/libcuda.so.1"));
        assert_eq!(merge(Some(&merged), &ours, Machine::X86_64).expect("and merged again"), merged);
    }
});
