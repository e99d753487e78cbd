//! What a driver implements; everything else about being a DRA plugin is this crate's.
use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::claim::{AllocatedClaim, ClaimRef, PreparedDevice};

/// What is left for a call that has used up its budget before the kubelet is told that it has not ended. With the default
/// budget of 35 s, the answer is there before the kubelet's own deadline of 45 s.
const OVERTIME: Duration = Duration::from_secs(5);

/// A driver's own work on claims.
///
/// Calls for one claim UID never overlap and come in the order in which the kubelet asked; calls for different claims run
/// at the same time. Every call is driven to its end, even if the kubelet has stopped waiting. All of them must be
/// idempotent: the kubelet repeats what it has seen succeed.
pub trait Driver: Send + Sync + 'static {
    /// What an earlier prepare of this claim gave, asked first so that a prepared claim needs no API server.
    ///
    /// `None` means that the claim is not prepared: it is fetched and given to [`Driver::prepare`]. An implementation
    /// makes sure that what containers need is still there, for example a CDI file that somebody deleted.
    fn recall(&self, claim: &ClaimRef) -> impl Future<Output = Option<Result<Vec<PreparedDevice>, Failure>>> + Send;

    /// Makes the claim's devices usable by containers.
    fn prepare(
        &self,
        claim: AllocatedClaim,
        call: &Call,
    ) -> impl Future<Output = Result<Vec<PreparedDevice>, Failure>> + Send;

    /// Undoes a prepare. A claim that was never prepared succeeds; the API server is not needed.
    fn unprepare(&self, claim: &ClaimRef) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Told once for each call of the kubelet in which a claim failed, to count it or to write an Event.
    ///
    /// Must not block; the default does nothing. The failure has been logged.
    fn failed(&self, failed: &FailedClaim<'_>) {
        let _ = failed;
    }
}

/// A driver that other parts of the process use as well.
impl<D: Driver> Driver for Arc<D> {
    async fn recall(&self, claim: &ClaimRef) -> Option<Result<Vec<PreparedDevice>, Failure>> {
        D::recall(self, claim).await
    }

    async fn prepare(&self, claim: AllocatedClaim, call: &Call) -> Result<Vec<PreparedDevice>, Failure> {
        D::prepare(self, claim, call).await
    }

    async fn unprepare(&self, claim: &ClaimRef) -> Result<(), Failure> {
        D::unprepare(self, claim).await
    }

    fn failed(&self, failed: &FailedClaim<'_>) {
        D::failed(self, failed);
    }
}

/// Why a claim failed; the text ends up in an Event on the pod, so it speaks to users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// May pass by itself: tried again within the call's budget.
    #[error("{0}")]
    Transient(String),
    /// Will not pass without someone's help: reported at once.
    #[error("{0}")]
    Permanent(String),
}

/// The circumstances of one call.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the answer must be there; well before the kubelet gives up.
    pub deadline: Instant,
    /// Cancelled when an unprepare of the same claim waits for this call to end. A prepare that waits for something gives
    /// up then.
    pub cancelled: CancellationToken,
}

impl Call {
    /// A call that begins now and has `budget` to answer.
    pub fn within(budget: Duration) -> Self {
        Self { deadline: Instant::now() + budget, cancelled: CancellationToken::new() }
    }

    /// Whether nobody waits for the answer any more: the kubelet has been told that the call has not ended in time. Only work
    /// that stood still comes to this, as in a process that was stopped; everything that waits gives up before.
    pub fn is_unheard(&self) -> bool {
        Instant::now() >= self.answer_by()
    }

    /// When the kubelet is told that the call has not ended.
    pub(crate) fn answer_by(&self) -> Instant {
        self.deadline + OVERTIME
    }

    /// The time left until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What comes of `work`; none if the deadline passes or the call is cancelled before.
    pub async fn limit<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = tokio::time::sleep(self.remaining()) => None,
            () = self.cancelled.cancelled() => None,
        }
    }

    /// Waits for `pause`; false if the deadline would pass meanwhile or the call is cancelled, without waiting it out.
    pub async fn pause(&self, pause: Duration) -> bool {
        if pause >= self.remaining() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }
}

/// What the kubelet asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `NodePrepareResources`.
    Prepare,
    /// `NodeUnprepareResources`.
    Unprepare,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Unprepare => "unprepare",
        })
    }
}

/// A claim for which the kubelet is given an error.
#[derive(Clone, Copy, Debug)]
pub struct FailedClaim<'a> {
    /// Which claim.
    pub claim: &'a ClaimRef,
    /// What was asked for.
    pub operation: Operation,
    /// What the kubelet was told.
    pub error: &'a str,
}
