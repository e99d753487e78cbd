//! The sweep: judges the index when it changes, and acts on what has been wrong for long enough, if this replica leads.
mod claims;
mod release;
mod remedy;
mod slices;

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::{CallError, Cluster},
    grace::Graces,
    judge::{StaleSlice, StuckClaim, judge},
    lease::Leadership,
    metrics::Metrics,
    notes::Reporter,
    watch::Shared,
};

/// After a request that got no answer.
const RETRY: Duration = Duration::from_secs(30);
/// Events live for an hour unless the API server is told otherwise (`--event-ttl`), and for up to a minute more, as leases
/// of etcd are shared. What is still wrong is told again when the last Event has surely gone.
const TELL_AGAIN: Duration = Duration::from_mins(65);
/// After an Event that was there already, whose age isn't known.
const TELL_SOON: Duration = Duration::from_mins(10);
/// As much is acted on before everything is judged again.
const AT_ONCE: usize = 100;

/// How it sweeps.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) slice_grace: Duration,
    pub(crate) stuck_after: Duration,
    /// Whether reservations for gone pods are removed.
    pub(crate) release: bool,
    pub(crate) reporter: Reporter,
}

/// The sweep's state.
pub(crate) struct Sweep {
    settings: Settings,
    shared: Shared,
    leadership: Leadership,
    cluster: Cluster,
    metrics: Metrics,
    slices: Graces<StaleSlice>,
    claims: Graces<StuckClaim>,
    begun: Instant,
    ready: watch::Sender<bool>,
}

/// Whether to go on.
enum Then {
    More,
    /// Nothing can be done now.
    Stop,
}

/// Never, where there is no time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Sweep {
    /// `ready` becomes true when everything has been listed and judged once.
    pub(crate) fn new(
        settings: Settings,
        shared: Shared,
        leadership: Leadership,
        cluster: Cluster,
        metrics: Metrics,
        ready: watch::Sender<bool>,
    ) -> Self {
        let (slices, claims) = (Graces::new(settings.slice_grace), Graces::new(settings.stuck_after));
        Self { settings, shared, leadership, cluster, metrics, slices, claims, begun: Instant::now(), ready }
    }

    /// Runs until it is dropped, at any point: every step can be repeated.
    pub(crate) async fn run(mut self) {
        loop {
            self.look();
            if self.leadership.until().is_some() {
                self.act().await;
            }
            self.show();
            self.wait().await;
        }
    }

    /// Judges the index as it is.
    fn look(&mut self) {
        let index = self.shared.index();
        if !index.is_complete() {
            return;
        }
        let findings = judge(&index);
        drop(index);
        let now = Instant::now();
        for gone in self.claims.confirmed().filter(|stuck| !findings.claims.contains(*stuck)) {
            tracing::info!(claim = %gone.claim, state = remedy::State::of(&gone.stuck).label(), "a claim is stuck no more");
        }
        self.slices.observe(now, findings.slices);
        self.claims.observe(now, findings.claims);
        if !self.ready.send_replace(true) {
            let time = self.begun.elapsed();
            self.metrics.first_look.set(time.as_secs_f64());
            tracing::info!(seconds = time.as_secs_f64(), "everything is read and judged");
        }
    }

    async fn act(&mut self) {
        let now = Instant::now();
        for stale in self.slices.due(now).into_iter().take(AT_ONCE) {
            if matches!(self.act_on_slice(&stale).await, Then::Stop) {
                return;
            }
        }
        for (claim, stuck) in claims::by_claim(self.claims.due(now)).into_iter().take(AT_ONCE) {
            if matches!(self.act_on_claim(&claim, stuck).await, Then::Stop) {
                return;
            }
        }
    }

    /// Waits until there may be something to do. Changes are let gather for a moment, as everything is judged at once.
    async fn wait(&mut self) {
        let shortest = self.settings.slice_grace.min(self.settings.stuck_after);
        let gather = (shortest / 60).clamp(Duration::from_millis(50), Duration::from_secs(5));
        let next = [self.slices.next(), self.claims.next()].into_iter().flatten().min();
        let leads_until = self.leadership.until();
        let due = next.filter(|_| leads_until.is_some());
        tokio::select! {
            () = self.shared.changed() => tokio::time::sleep(gather).await,
            () = self.leadership.changed() => {}
            () = until(due) => {}
            // What is shown should say so when it is over.
            () = until(leads_until) => {}
        }
    }

    /// What is known now, as metrics. A replica that doesn't lead confirms nothing.
    fn show(&self) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let leads = self.leadership.until().is_some();
        self.metrics.leader.set(i64::from(leads));
        self.metrics.stale_slices.set(count(self.slices.len()));
        for state in remedy::State::ALL {
            let of_state = self.claims.confirmed().filter(|stuck| remedy::State::of(&stuck.stuck) == state);
            let claims: std::collections::BTreeSet<_> = of_state.map(|stuck| &stuck.claim).collect();
            // What was confirmed while it led is no more known to hold.
            self.metrics.stuck(state.label()).set(if leads { count(claims.len()) } else { 0 });
        }
    }

    /// Says that there was no answer; nothing follows from that.
    fn unanswered(&self, error: &CallError) -> (Then, Duration) {
        if matches!(error, CallError::NotLeading) {
            return (Then::Stop, Duration::ZERO);
        }
        tracing::warn!(error = crate::report(error), "nothing is done without an answer; it is tried again");
        (Then::More, RETRY.min(self.settings.slice_grace).min(self.settings.stuck_after))
    }
}
