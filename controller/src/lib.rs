//! The controller: removes what dead nodes leave in the cluster, and tells of claims that are stuck.
//!
//! ```text
//! nodes, pods ──┐ metadata only
//! slices ───────┼─> objects (trimmed) ─> index (compact) ─> judge ─> grace ─┐ what has held for long enough
//! claims ───────┘                                                           │
//! Lease ─> lease ──────────── may this replica act? ─────────────> sweep <──┘
//!                                                                    └─> cluster: GET it live, then delete or tell
//! ```
//! `index`, `judge`, `grace` and `lease::decide` are pure; `watch`, `cluster` and `http` are the edges. Both replicas watch
//! and count graces, and the one that holds the Lease acts. What the cache says is a reason to look, and never one to act.
#![forbid(unsafe_code)]

pub mod args;
mod cluster;
mod grace;
mod http;
mod index;
mod judge;
mod lease;
mod logs;
mod metrics;
mod notes;
mod objects;
mod run;
mod sweep;
mod watch;

use std::{io::Write as _, process::ExitCode};

/// Runs until SIGTERM.
pub fn main(cli: args::Cli) -> ExitCode {
    match run::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be reading.
            let _ = writeln!(std::io::stderr(), "aliquot-controller: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes, in one line.
fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
