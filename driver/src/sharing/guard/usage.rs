//! The guard's figures, for metrics.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use aliquot_model::{GpuUuid, Memory};

use super::{act::Actions, attribute::Attribution, judge::Judge, process::Blind, types::Key};

/// The latest figures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// What is used of shares. Where pods hold overlapping sets of claims, one process counts under several keys.
    pub shares: BTreeMap<Key, ShareUsage>,
    /// What is used without a share, by GPU.
    pub unattributed: BTreeMap<GpuUuid, Memory>,
    /// GPUs that couldn't be read this time; nothing is said of them above.
    pub unread: BTreeSet<GpuUuid>,
    /// Why no share is guarded, if none is.
    pub blind: Option<Blind>,
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
    /// Since when more is used than allowed.
    pub over_since: Option<Instant>,
}

impl Usage {
    /// As it was found and judged.
    pub(super) fn of(found: &Attribution, judge: &Judge) -> Self {
        let shares = found.shares.iter().map(|(key, share)| {
            let over_since = judge.over_since(key);
            (key.clone(), ShareUsage { used: share.used, limit: share.limit, over_since })
        });
        Self { shares: shares.collect(), unattributed: found.unattributed.clone(), ..Self::default() }
    }
}
