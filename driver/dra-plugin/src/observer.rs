//! The seam for those who measure: told of every call and of every claim that fails, and of nothing else.
use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::driver::Operation;

/// Measures what the kubelet asks for. It is called on the way of every call: it must not block and had better not
/// allocate. All its functions do nothing by default.
pub trait Observer: Send + Sync + 'static {
    /// A call of the kubelet has come, with one claim or several.
    fn begun(&self, operation: Operation) {
        let _ = operation;
    }

    /// It was answered, or the kubelet has hung up.
    fn ended(&self, operation: Operation, took: Duration) {
        let _ = (operation, took);
    }

    /// The kubelet was given an error for one claim: once for each call.
    fn failed(&self, operation: Operation, reason: Reason) {
        let _ = (operation, reason);
    }
}

/// Observes nothing.
impl Observer for () {}

/// Why the kubelet was given an error for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It named a claim that no claim can be named.
    Invalid,
    /// The claim couldn't be had from the API server, or isn't the one that was asked for, or isn't allocated here.
    Claim,
    /// The driver refused: [`Failure::Permanent`](crate::Failure::Permanent).
    Refused,
    /// Something that may pass did not in time: [`Failure::Transient`](crate::Failure::Transient).
    Unready,
    /// The work goes on after the kubelet had to be told something.
    Late,
    /// An unprepare of the claim came meanwhile.
    Cancelled,
    /// The driver broke off.
    Internal,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Invalid, Self::Claim, Self::Refused, Self::Unready, Self::Late, Self::Cancelled, Self::Internal];

    /// One word, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Claim => "claim",
            Self::Refused => "refused",
            Self::Unready => "unready",
            Self::Late => "late",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One call under way. It has ended when this goes, as it does when the kubelet hangs up.
pub(crate) struct UnderWay<'a> {
    observer: &'a dyn Observer,
    operation: Operation,
    since: Instant,
}

impl<'a> UnderWay<'a> {
    pub(crate) fn begin(observer: &'a Arc<dyn Observer>, operation: Operation) -> Self {
        observer.begun(operation);
        Self { observer: observer.as_ref(), operation, since: Instant::now() }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.observer.ended(self.operation, self.since.elapsed());
    }
}
