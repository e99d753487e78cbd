//! Deletes the slices of nodes that are gone.
use tokio::time::Instant;

use super::{Sweep, Then};
use crate::{
    cluster::{CallError, Deleted},
    index::Slice,
    judge::StaleSlice,
    notes::{Note, reference},
};

/// What became of a slice's Node, by a live look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// There is none of its name.
    Gone,
    /// It has another UID than the slice's owner.
    Replaced,
}

impl Fate {
    fn label(self) -> &'static str {
        match self {
            Self::Gone => "node_gone",
            Self::Replaced => "node_replaced",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Gone => "there is no such Node any more",
            Self::Replaced => "the Node was made anew, with another UID than the slice's owner",
        }
    }
}

impl Sweep {
    pub(super) async fn act_on_slice(&mut self, stale: &StaleSlice) -> Then {
        let found = self.shared.index().slices.get(&stale.name).filter(|slice| slice.uid == stale.uid).cloned();
        // Else it is forgotten at the next look.
        let Some(slice) = found else { return Then::More };
        match self.delete(stale, &slice).await {
            Ok(Some(fate)) => {
                self.metrics.deleted(fate.label()).inc();
                self.tell_deleted(stale, &slice, fate).await;
                self.slices.confirm(stale, Instant::now(), super::RETRY);
                Then::More
            }
            Ok(None) => {
                self.slices.refute(stale, Instant::now());
                Then::More
            }
            Err(error) => {
                let (then, pause) = self.unanswered(&error);
                self.slices.postpone(stale, Instant::now(), pause);
                then
            }
        }
    }

    /// None if it isn't stale after all, or has changed meanwhile.
    async fn delete(&mut self, stale: &StaleSlice, slice: &Slice) -> Result<Option<Fate>, CallError> {
        let Some(node) = &slice.node else { return Ok(None) };
        let fate = match (self.cluster.node(node).await?, &slice.owner) {
            (None, _) => Fate::Gone,
            (Some(live), Some(owner)) if live != *owner => Fate::Replaced,
            (Some(_), _) => return Ok(None),
        };
        Ok(match self.cluster.delete(&stale.name, slice).await? {
            Deleted::Yes => Some(fate),
            Deleted::Changed => None,
        })
    }

    async fn tell_deleted(&mut self, stale: &StaleSlice, slice: &Slice, fate: Fate) {
        let node = slice.node.as_deref().unwrap_or_default();
        tracing::info!(slice = %stale.name, node, reason = fate.label(), "a stale ResourceSlice is deleted");
        let text = format!("ResourceSlice {} of node {node} is deleted: {}", stale.name, fate.words());
        let told = Note {
            // As the kubelet refers to its node: kubectl finds events by the name in place of the UID.
            regarding: reference("v1", "Node", None, node, node),
            related: Some(reference("resource.k8s.io/v1", "ResourceSlice", None, &stale.name, &stale.uid.to_string())),
            is_warning: false,
            reason: "StaleSliceDeleted",
            action: "Sweep",
            key: stale.uid.to_string(),
            text,
        };
        // It is done, and the log has said so.
        if let Err(error) = self.cluster.tell(&self.settings.reporter.event(told)).await {
            tracing::warn!(error = crate::report(&error), "an Event can't be written");
        }
    }
}
