//! Who else hands out this node's GPUs, noticed while the driver runs.
//!
//! ```text
//! kubelet: pod-resources socket ─┐                         ┌─> taint: what is offered
//! ResourceSlices of other drivers ┴─> Heard ──> judge ──> Elsewhere ─┼─> tell: events on the Node; metrics
//!                                           (linger)       └─> gate: a prepare on a GPU that another's pod holds
//! ```
//! `id`, `judge`, `linger`, `tell` and `taint` are pure; `kubelet` and `follow` are the edges. A device plugin counts by what
//! the kubelet says that it registered, so that extended resources which are served by DRA are never taken for one.
mod follow;
mod gate;
mod id;
mod judge;
mod kubelet;
mod linger;
mod published;
mod taint;
mod tell;

use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use follow::{Settings, Sources, follow};
pub(crate) use gate::Gate;
pub(crate) use judge::{Elsewhere, Heard, Other, Plugins, judge};
pub(crate) use kubelet::Kubelet;
pub(crate) use published::Published;
#[cfg(test)]
pub(crate) use published::tests as testing;
pub(crate) use taint::{Mark, Storage};

/// What has been heard of others, and what follows from it; none until they have been asked once.
pub(crate) type Latest = watch::Receiver<Option<Arc<Known>>>;

/// What is known of others at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// In their words.
    pub(crate) heard: Heard,
    /// Of this node's GPUs.
    pub(crate) elsewhere: Elsewhere,
    /// Whether the kubelet answered when it was last asked.
    pub(crate) kubelet_answers: bool,
}
