//! The controller: removes what dead nodes leave in the cluster, tells of claims that are stuck, and refuses wrong parameters.
//!
//! ```text
//! nodes, pods ──┐ metadata only
//! slices ───────┼─> objects (trimmed) ─> index (compact) ─> judge ─> grace ─┐ what has held for long enough
//! claims ───────┘                                                           │
//! Lease ─> lease ──────────── may this replica act? ─────────────> sweep <──┘
//!                                                                    └─> cluster: GET it live, then delete or tell
//! aliquot_admission: the webhook, of every replica
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

/// An error with all its causes, in one line; of an API server's answer only what it says.
fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(kube::Error::Api(status)) = cause.downcast_ref::<kube::Error>() {
            // kube's own texts show all of its fields.
            let is_in = text.contains(&status.message);
            return if is_in { status.message.clone() } else { format!("{text}: {}", status.message) };
        }
        let inner = cause.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_only_what_the_api_server_says_is_told() {
        let status: kube::core::Status =
            serde_json::from_value(serde_json::json!({"message": "no such luck"})).unwrap();
        let refusal = || kube::Error::Api(status.clone().boxed());
        assert_eq!(report(&refusal()), "no such luck");
        assert_eq!(
            report(&cluster::CallError::Api { what: "get a Pod", source: refusal() }),
            "get a Pod: no such luck"
        );
        let watch = kube::runtime::watcher::Error::InitialListFailed(refusal());
        assert_eq!(report(&watch), "no such luck");
    }
}
