//! What is to be done about the certificates, if anything. Pure: the Secret, what is trusted, and the time in.
//!
//! ```text
//! nothing good ──issue──> in force ──two thirds of its life──stage──> next is trusted too ──settle──promote──> in force
//! ```
//! A certificate is served only after API servers have had time to trust it, and its predecessor stays trusted until
//! the one after is staged: no request fails. Only where there is nothing good left the order can't be kept.
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::sign::CertifiedKey;

use super::{
    issue::issue,
    pair::{self, Host},
    stored::{Issued, Stored},
};

/// What certificates must be like.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    hosts: Vec<Host>,
    life: Duration,
}

/// What to do with what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    Keep,
    /// Make one and serve it at once, as there is none to serve.
    Issue,
    /// Make the next one, to be trusted from now on.
    Stage,
    /// Serve the next one.
    Promote,
}

impl Terms {
    /// For all of these hosts, and that long.
    pub(crate) fn new(hosts: Vec<Host>, life: Duration) -> Self {
        Self { hosts, life }
    }

    /// How long API servers may take to trust what a configuration says.
    pub(crate) fn settle(&self) -> Duration {
        (self.life / 12).min(Duration::from_mins(10))
    }

    /// How often to look at the time.
    pub(crate) fn tick(&self) -> Duration {
        (self.life / 48).min(Duration::from_mins(1))
    }

    /// What can be served.
    pub(crate) fn usable(&self, issued: &Issued, at: SystemTime) -> Option<Arc<CertifiedKey>> {
        let certified = pair::certified(issued.certificate.as_bytes(), issued.key.as_bytes()).ok()?;
        pair::is_good(&certified, &issued.ca, &self.hosts, at).then(|| Arc::new(certified))
    }

    /// What to do now, where the configuration has trusted all that is stored for `trusted`.
    pub(crate) fn decide(&self, stored: &Stored, trusted: Option<Duration>, now: SystemTime) -> Action {
        let good = |issued: &Option<Issued>, at| issued.as_ref().is_some_and(|one| self.usable(one, at).is_some());
        let due = now + self.life / 3;
        match (good(&stored.current, now), good(&stored.next, now)) {
            (false, true) => Action::Promote,
            (false, false) => Action::Issue,
            (true, true) if trusted.is_some_and(|trusted| trusted >= self.settle()) => Action::Promote,
            (true, true) => Action::Keep,
            (true, false) if good(&stored.current, due) => Action::Keep,
            (true, false) => Action::Stage,
        }
    }

    /// What is stored after an action.
    pub(crate) fn act(&self, action: Action, stored: &Stored, now: SystemTime) -> Result<Stored, rcgen::Error> {
        let Stored { current, next, previous } = stored.clone();
        let replaced = |current: Option<Issued>| current.map(|issued| issued.ca).or(previous.clone());
        Ok(match action {
            Action::Keep => Stored { current, next, previous },
            Action::Issue => {
                Stored { current: Some(issue(&self.hosts, now, self.life)?), next: None, previous: replaced(current) }
            }
            Action::Stage => Stored { current, next: Some(issue(&self.hosts, now, self.life)?), previous: None },
            Action::Promote => Stored { previous: replaced(current), current: next, next: None },
        })
    }
}
