//! One request's way: record, grant, cgroup, sum, NVML. One at a time, so that a container's devices add up.
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Limiter,
    cgroup::{self, Cgroups},
    grant::{self, grant},
    ledger::{Entry, Ledger},
};
use crate::{
    claim::Record,
    fault::{self, Point},
};

/// What a hook sends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Request {
    /// The claim's UID.
    pub(super) claim: String,
    /// The device's name in the claim's CDI spec.
    pub(super) device: String,
    /// The container's first process.
    pub(super) pid: u32,
}

/// What a hook is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    /// The limit is set.
    Ok(bool),
    /// The container must not start.
    Error(String),
}

impl From<Result<(), Error>> for Answer {
    fn from(result: Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self::Ok(true),
            Err(error) => Self::Error(crate::report(&error)),
        }
    }
}

/// Why a container must not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The records.
    #[error("the claims' records can't be read: {0}")]
    Records(String),
    /// The claim isn't prepared.
    #[error("no claim with UID {0} is prepared on this node")]
    NoClaim(String),
    /// The device.
    #[error(transparent)]
    Grant(#[from] grant::Error),
    /// The process.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// NVML.
    #[error(
        "the GPU's memory can't be limited: {0}; where it never can, an empty --hook offers shares without hard limits"
    )]
    Limiter(String),
}

/// Where requests are answered.
#[derive(Debug)]
pub(super) struct Desk<R, L> {
    cgroups: Cgroups,
    records: R,
    limiter: L,
    ledger: Ledger,
}

impl<R: Fn(&str) -> Result<Option<Arc<Record>>, String>, L: Limiter> Desk<R, L> {
    pub(super) fn new(cgroups: Cgroups, records: R, limiter: L) -> Self {
        Self { cgroups, records, limiter, ledger: Ledger::default() }
    }

    /// Does what a hook asks for.
    pub(super) async fn answer(&mut self, request: Request) -> Answer {
        let (claim, device, pid) = (request.claim.clone(), request.device.clone(), request.pid);
        let result = self.limit(request).await;
        if let Err(error) = &result {
            tracing::error!(claim.uid = claim, device, pid, error = %crate::report(error),
                "a container can't start, as its memory can't be limited");
        }
        result.into()
    }

    async fn limit(&mut self, request: Request) -> Result<(), Error> {
        let Request { claim, device, pid } = request;
        let record = (self.records)(&claim).map_err(Error::Records)?.ok_or_else(|| Error::NoClaim(claim.clone()))?;
        let granted = grant(&record, &device)?;
        let cgroup = self.cgroups.of(pid)?;
        self.ledger.retain(cgroup::Cgroup::is_there);
        let known = if let Some(entry) = self.ledger.entry(&cgroup, &granted.gpu) {
            entry
        } else {
            let earlier = self.limiter.limit(&granted.gpu, &cgroup.path).await.map_err(Error::Limiter)?;
            Entry::with(earlier, &granted)
        };
        let entry = known.and((claim, device), granted.memory);
        let limit = entry.limit();
        self.limiter.set(&granted.gpu, &cgroup.path, limit).await.map_err(Error::Limiter)?;
        fault::point(Point::LimitSet);
        tracing::info!(claim = %record.claim, claim.uid = %record.claim.uid(), gpu = %granted.gpu, %limit,
            cgroup = %cgroup.path.display(), "limited a container's memory");
        self.ledger.note(cgroup, granted.gpu, entry);
        Ok(())
    }
}
