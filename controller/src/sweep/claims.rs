//! Tells of claims that are stuck, and frees them where that was asked for.
use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{RETRY, Sweep, TELL_AGAIN, TELL_SOON, Then, release, remedy::State};
use crate::{
    cluster::{CallError, LiveClaim, Told},
    index::{self, Held, PodRef, Uid},
    judge::{self, Stuck, StuckClaim},
    notes::{Note, reference},
};

/// What is stuck, by claim.
pub(super) fn by_claim(all: Vec<StuckClaim>) -> BTreeMap<Uid, Vec<Stuck>> {
    let mut claims: BTreeMap<Uid, Vec<Stuck>> = BTreeMap::new();
    for StuckClaim { claim, stuck } in all {
        claims.entry(claim).or_default().push(stuck);
    }
    claims
}

/// What live looks say of one claim.
struct Look {
    live: LiveClaim,
    confirmed: Vec<Stuck>,
}

impl Sweep {
    pub(super) async fn act_on_claim(&mut self, uid: &Uid, stuck: Vec<Stuck>) -> Then {
        let found = self.shared.index().claims.get(uid).map(|claim| (claim.namespace.clone(), claim.name.clone()));
        // Else it is forgotten at the next look.
        let Some((namespace, name)) = found else { return Then::More };
        let all: Vec<StuckClaim> = stuck.into_iter().map(|stuck| StuckClaim { claim: uid.clone(), stuck }).collect();
        match self.deal_with(uid, &namespace, &name, &all).await {
            Ok(()) => Then::More,
            Err(error) => {
                let (then, pause) = self.unanswered(&error);
                for stuck in &all {
                    self.claims.postpone(stuck, Instant::now(), pause);
                }
                then
            }
        }
    }

    async fn deal_with(&mut self, uid: &Uid, namespace: &str, name: &str, all: &[StuckClaim]) -> Result<(), CallError> {
        let look = self.live(uid, namespace, name, all).await?;
        let Some(Look { live, confirmed }) = look else {
            for stuck in all {
                self.claims.refute(stuck, Instant::now());
            }
            return Ok(());
        };
        let mut told = BTreeMap::new();
        for state in State::ALL {
            let of_state: Vec<Stuck> = confirmed.iter().filter(|stuck| State::of(stuck) == state).cloned().collect();
            if !of_state.is_empty() {
                told.insert(state, self.tell_stuck(uid, &live, state, &of_state).await?);
            }
        }
        let mut gone = Vec::new();
        for stuck in all {
            let now = Instant::now();
            if !confirmed.contains(&stuck.stuck) {
                self.claims.refute(stuck, now);
                continue;
            }
            let told = told.get(&State::of(&stuck.stuck)).copied().flatten();
            let may_go = self.settings.release && matches!(stuck.stuck, Stuck::GonePod(_));
            let pause = match told {
                None => RETRY.min(self.settings.stuck_after),
                Some(_) if may_go => self.settings.stuck_after,
                Some(Told::Before) => TELL_SOON,
                Some(Told::Now | Told::NoPlace) => TELL_AGAIN,
            };
            self.claims.confirm(stuck, now, pause);
            if told.is_none() {
                continue;
            }
            let announced_for = self.claims.announce(stuck, now);
            if let Stuck::GonePod(pod) = &stuck.stuck
                && may_go
                && announced_for >= self.settings.stuck_after
            {
                gone.push(pod.clone());
            }
        }
        if gone.is_empty() { Ok(()) } else { self.release(namespace, name, &live, &gone).await }
    }

    /// What is so right now; none if the claim is another one, or isn't allocated by this driver any more.
    async fn live(
        &mut self,
        uid: &Uid,
        namespace: &str,
        name: &str,
        all: &[StuckClaim],
    ) -> Result<Option<Look>, CallError> {
        let Some(live) = self.cluster.claim(namespace, name).await? else { return Ok(None) };
        if index::uid(&live.claim.metadata) != *uid {
            return Ok(None);
        }
        let Some(claim) = index::Claim::new(&live.claim, &self.settings.reporter.driver) else { return Ok(None) };
        let mut confirmed = Vec::new();
        for StuckClaim { stuck, .. } in all {
            let holds = match stuck {
                Stuck::Deleting => claim.is_deleting,
                Stuck::GoneGpu(held) | Stuck::UnseenGpu(held) => {
                    let uses = claim.is_reserved && claim.devices.contains(held);
                    uses && self.without(held).await?.as_ref() == Some(stuck)
                }
                Stuck::GonePod(pod) => match claim.pods.iter().find(|reserved| reserved.uid == *pod) {
                    Some(reserved) => self.is_gone(namespace, reserved).await?,
                    None => false,
                },
            };
            if holds {
                confirmed.push(stuck.clone());
            }
        }
        Ok(Some(Look { live, confirmed }))
    }

    /// What the node's slices say of the GPU: the index is as old as its watches.
    async fn without(&mut self, held: &Held) -> Result<Option<Stuck>, CallError> {
        let node = {
            let index = self.shared.index();
            let mut of_pool = index.slices.iter().filter(|(_, slice)| slice.pool == held.pool);
            of_pool.find_map(|(_, slice)| slice.node.clone())
        };
        let Some(node) = node else { return Ok(None) };
        let Some(uid) = self.cluster.node(&node).await? else { return Ok(None) };
        let slices = self.cluster.slices(&self.settings.reporter.driver, &node).await?;
        Ok(judge::without(&slices, &uid, held))
    }

    async fn is_gone(&mut self, namespace: &str, pod: &PodRef) -> Result<bool, CallError> {
        Ok(self.cluster.pod(namespace, &pod.name).await?.is_none_or(|live| live != pod.uid))
    }

    /// None if the API server refuses the Event for now: what is stuck is so all the same.
    async fn tell_stuck(
        &mut self,
        uid: &Uid,
        live: &LiveClaim,
        state: State,
        confirmed: &[Stuck],
    ) -> Result<Option<Told>, CallError> {
        let metadata = &live.claim.metadata;
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref().unwrap_or_default());
        let after = words(self.settings.stuck_after);
        let text = state.text(&live.claim, confirmed, &after, self.settings.release);
        let note = Note {
            regarding: reference("resource.k8s.io/v1", "ResourceClaim", namespace, name, &uid.to_string()),
            related: None,
            is_warning: true,
            reason: state.reason(),
            action: "Sweep",
            key: uid.to_string(),
            text: text.clone(),
        };
        let told = match self.cluster.tell(&self.settings.reporter.event(note)).await {
            Ok(told) => told,
            Err(CallError::NotLeading) => return Err(CallError::NotLeading),
            Err(error) => {
                let error = crate::report(&error);
                tracing::warn!(
                    namespace,
                    claim = name,
                    state = state.label(),
                    error,
                    "no Event can tell that it is {text}"
                );
                return Ok(None);
            }
        };
        match told {
            Told::Now => tracing::warn!(namespace, claim = name, state = state.label(), "{text}"),
            Told::NoPlace => {
                tracing::warn!(
                    namespace,
                    claim = name,
                    state = state.label(),
                    "in a namespace that is being deleted: {text}"
                );
            }
            Told::Before => {}
        }
        Ok(Some(told))
    }

    async fn release(&mut self, namespace: &str, name: &str, live: &LiveClaim, gone: &[Uid]) -> Result<(), CallError> {
        let patch = match release::patch(&live.whole, &self.settings.reporter.driver, gone) {
            Ok(patch) => patch,
            Err(reason) => {
                tracing::info!(namespace, claim = name, reason, "the claim isn't released");
                return Ok(());
            }
        };
        if !self.cluster.patch_status(namespace, name, &patch).await? {
            return Ok(());
        }
        self.metrics.released.inc();
        let freed = patch.pointer("/status/allocation").is_some();
        tracing::warn!(namespace, claim = name, freed, "reservations for pods that are gone are removed");
        let uid = index::uid(&live.claim.metadata).to_string();
        // Each release is told, also the second of a claim that several pods share.
        let version = live.claim.metadata.resource_version.as_deref().unwrap_or_default();
        let key = format!("{uid}.{version}");
        let rest = if freed { ", and its devices are freed" } else { "" };
        let note = Note {
            regarding: reference("resource.k8s.io/v1", "ResourceClaim", Some(namespace), name, &uid),
            related: None,
            is_warning: false,
            reason: "ClaimReleased",
            action: "Release",
            key,
            text: format!("reservations for pods that are gone are removed ({}){rest}", gone.len()),
        };
        // It is done, and the log has said so.
        if let Err(error) = self.cluster.tell(&self.settings.reporter.event(note)).await {
            tracing::warn!(error = crate::report(&error), "an Event can't be written");
        }
        Ok(())
    }
}

/// As flags write it.
fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 60 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        0 => format!("{}ms", time.as_millis()),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_they_were_given() {
        let all = [600_000, 90_000, 500].map(|ms| words(Duration::from_millis(ms)));
        assert_eq!(all, ["10m", "90s", "500ms"]);
    }
}
