//! The guard's figures, for metrics.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use aliquot_model::{GpuUuid, Memory};

use super::{
    act::Actions,
    attribute::{Attribution, Unattributed},
    judge::Judge,
    types::{GuardPolicy, Key},
};

/// The latest figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// What is used of shares. Where pods hold overlapping sets of claims, one process counts under several keys.
    pub shares: BTreeMap<Key, ShareUsage>,
    /// What is used without a share, by GPU.
    pub unattributed: BTreeMap<GpuUuid, Unattributed>,
    /// GPUs that couldn't be read this time; nothing is said of them above.
    pub unread: BTreeSet<GpuUuid>,
    /// What was done since the start.
    pub actions: Actions,
}

/// What is used of the shares of some claims on one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareUsage {
    /// So much is used.
    pub used: Memory,
    /// So much is allowed.
    pub limit: Memory,
    /// What happens beyond it.
    pub policy: GuardPolicy,
    /// Since when more is used than allowed.
    pub over_since: Option<Instant>,
}

impl Usage {
    /// As it was found and judged.
    pub(super) fn new(found: &Attribution, judge: &Judge, unread: BTreeSet<GpuUuid>, actions: Actions) -> Self {
        let shares = found.shares.iter().map(|(key, share)| {
            let over_since = judge.over_since(key);
            (key.clone(), ShareUsage { used: share.used, limit: share.limit, policy: share.policy, over_since })
        });
        Self { shares: shares.collect(), unattributed: found.unattributed.clone(), unread, actions }
    }
}
