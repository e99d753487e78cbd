//! What the sweep tells of itself: to metrics, and to `aliquot-driver status` over a socket of root's.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dra_plugin::ClaimUid;
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt as _, sync::watch};
use tokio_util::sync::CancellationToken;

use super::types::{Reason, Verdict};
use crate::{
    args::SweepMode,
    sharing::limits::socket::{Socket, is_trusted},
};

/// The socket's name in the directory of the records' parent.
pub(crate) const SOCKET: &str = "sweep.sock";
/// How long a caller may take to read.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the sweep thinks of one claim.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// The claim.
    pub(crate) uid: ClaimUid,
    /// Whether there is nothing of it but a CDI spec.
    pub(crate) is_spec: bool,
    /// What is thought of it.
    pub(crate) verdict: Verdict,
}

/// What came of the last round, and of all before it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// The verdicts of the last round.
    pub(crate) verdicts: Arc<Vec<Judged>>,
    /// How many records can't be used.
    pub(crate) quarantined: usize,
    /// What was removed since the start.
    pub(crate) removed: BTreeMap<Reason, u64>,
    /// Rounds in which the kubelet gave no answer.
    pub(crate) kubelet_silent: u64,
    /// Claims of which the API server gave no answer.
    pub(crate) api_silent: u64,
    /// When the last round was.
    pub(crate) at: Option<Instant>,
}

/// The same as it goes over the socket: one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// `act` or `report`.
    pub(crate) mode: String,
    /// How long something must look stale.
    pub(crate) grace_seconds: u64,
    /// How long ago the last round was.
    pub(crate) seconds_ago: Option<u64>,
    /// By claim UID.
    pub(crate) verdicts: BTreeMap<String, ToldVerdict>,
}

/// One verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ToldVerdict {
    /// `in_use`, `asked`, `allocated`, `unknown`, `suspect` or `stale`, as in metrics.
    pub(crate) verdict: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// For how long it has looked stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) for_seconds: Option<u64>,
    /// Whether it is about a CDI spec without a record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_spec: bool,
}

impl Report {
    /// How many have a verdict of this label.
    pub(crate) fn count(&self, label: &str) -> usize {
        self.verdicts.iter().filter(|judged| judged.verdict.label() == label).count()
    }

    fn told(&self, mode: SweepMode, grace: Duration, now: Instant) -> Told {
        let verdicts = self.verdicts.iter().map(|judged| (judged.uid.to_string(), told(judged, now)));
        Told {
            mode: mode.to_string(),
            grace_seconds: grace.as_secs(),
            seconds_ago: self.at.map(|at| now.saturating_duration_since(at).as_secs()),
            verdicts: verdicts.collect(),
        }
    }
}

fn told(judged: &Judged, now: Instant) -> ToldVerdict {
    let (reason, since) = match &judged.verdict {
        Verdict::InUse | Verdict::Asked | Verdict::Allocated => (None, None),
        Verdict::Unknown(reason) => (Some(reason.clone()), None),
        Verdict::Suspect { reason, since } | Verdict::Stale { reason, since } => {
            (Some(reason.text().to_owned()), Some(*since))
        }
    };
    let for_seconds = since.map(|since| now.saturating_duration_since(since).as_secs());
    ToldVerdict { verdict: judged.verdict.label().to_owned(), reason, for_seconds, is_spec: judged.is_spec }
}

/// Tells whoever asks, until `stop`. Of several drivers on a node, the one that sweeps.
pub(crate) async fn serve(
    socket: Socket,
    report: watch::Receiver<Report>,
    mode: SweepMode,
    grace: Duration,
    stop: CancellationToken,
) {
    while let Some(caller) = stop.run_until_cancelled(socket.accept()).await {
        let Ok(mut stream) = caller else {
            // Out of descriptors, say.
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        if !is_trusted(&stream) {
            continue;
        }
        let told = report.borrow().told(mode, grace, Instant::now());
        let Ok(bytes) = serde_json::to_vec(&told) else { continue };
        let _ = tokio::time::timeout(PATIENCE, stream.write_all(&bytes)).await;
    }
}
