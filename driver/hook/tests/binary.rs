//! The binary as a host meets it: with nothing beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
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

/// With a log, and an input that stays open.
fn logging(log: &Path, args: &[&str]) -> Child {
    let mut hook = Command::new(HOOK);
    hook.args(args).arg("--log").arg(log).env_clear();
    hook.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_wrong_command_line_or_state_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut hook = logging(&log, &["limit-memory", "--device", "d"]);
    assert!(!hook.wait().unwrap().success());
    let mut hook = logging(&log, &["prepare-container"]);
    hook.stdin.take().unwrap().write_all(b"none").unwrap();
    assert!(!hook.wait().unwrap().success());
    let told = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("--socket is missing") && lines[1].contains("no JSON"), "{told}");
}

#[test]
fn one_that_blocks_for_ever_is_ended_and_the_log_says_whose_container_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (log, config) = (dir.path().join("log"), dir.path().join("config.json"));
    // Nobody ever writes to it, so that opening it doesn't end.
    rustix::fs::mknodat(rustix::fs::CWD, &config, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut hook = logging(&log, &["prepare-container"]);
    let state = format!(r#"{{"id": "c1", "bundle": "{}"}}"#, dir.path().display());
    hook.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
    assert_eq!(hook.wait().unwrap().code(), Some(1));
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(told.contains(r#""id":"c1""#) && told.contains("nobody answered within 10 s"), "{told}");
}
