//! The binary as a host meets it: with nothing beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

const HOOK: &str = env!("CARGO_BIN_EXE_aliquot-hook");

#[test]
fn it_asks_for_no_loader_and_no_library() {
    let bytes = std::fs::read(HOOK).unwrap();
    let number =
        |at: usize, size: usize| bytes[at..at + size].iter().rev().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
    // The ELF header's e_phoff, e_phentsize and e_phnum; PT_INTERP is 3.
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<usize> = (0..count).map(|index| number(table + index * size, 4)).collect();
    assert!(!kinds.is_empty() && !kinds.contains(&3), "it is linked dynamically: {kinds:?}");
}

#[test]
fn a_container_without_a_state_or_a_driver_fails_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let ended = |args: &[&str], state: &str| {
        let mut hook = Command::new(HOOK);
        hook.args(args).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut hook = hook.spawn().unwrap();
        // It may have ended without reading.
        let _ = hook.stdin.take().unwrap().write_all(state.as_bytes());
        let output = hook.wait_with_output().unwrap();
        assert!(output.stdout.is_empty());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let socket = dir.path().join("file");
    std::fs::write(&socket, "").unwrap();
    let socket = socket.to_str().unwrap();
    let (code, error) = ended(&["limit-memory", "--socket", socket, "--claim", "u", "--device", "d"], "{}");
    assert_eq!((code, error.as_str()), (Some(1), "aliquot-hook: the container's state on standard input has no pid\n"));
    let (code, error) = ended(&[], "");
    assert!(code == Some(1) && error.contains("usage"), "{error}");
}
