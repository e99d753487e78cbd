//! What the hook is given: its command line, the state that the runtime writes, and the bundle's configuration.
#![no_main]
use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Component};

use aliquot_hook::{
    args::{Command, Order},
    bundle::Config,
    state::State,
};
use libfuzzer_sys::fuzz_target;

/// Absolute, of plain names: what is looked up cannot lead elsewhere than it says.
fn is_plain(path: &std::path::Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir) && components.all(|part| matches!(part, Component::Normal(_)))
}

fn order(words: &[u8]) {
    let words = words.split(|byte| *byte == b'\n').map(|word| OsStr::from_bytes(word).to_owned());
    let Ok(Order { command, log }) = Order::parse(words) else { return };
    assert!(log.is_none_or(|log| is_plain(&log)));
    match command {
        Command::Prepare(job) => {
            assert!(job.params.is_none_or(|params| is_plain(&params)));
            assert!(job.library_dirs.iter().all(|dir| is_plain(dir.as_ref())));
            assert!(job.links.iter().all(|link| is_plain(link.path.as_ref())));
            for library in &job.libraries {
                assert!([&library.name, &library.file].iter().all(|name| is_plain(format!("/{name}").as_ref())));
            }
        }
        Command::Limit(limit) => assert!(is_plain(&limit.socket)),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    order(part());
    let Ok(state) = State::read(part()) else { return };
    let config = part();
    if let Ok(pid) = state.pid() {
        assert!(pid.get() > 0, "a hook never asks about itself, or about a group");
    }
    if let Ok(bundle) = state.bundle() {
        assert!(bundle.is_absolute());
        if let Ok(Config { root, dev }) = Config::read(bundle, config) {
            assert!(dev.is_none() || config.windows(5).any(|five| five == b"tmpfs") || config.contains(&b'\\'));
            assert!(root.is_absolute(), "the hook's directory is of no account");
            assert!(root.starts_with(bundle) || config.windows(2).any(|two| two == b"\"/") || config.contains(&b'\\'));
        }
    }
    let subject = state.subject();
    assert!(subject.to_string().len() < 4096 && !subject.to_string().contains(char::is_control));
});
