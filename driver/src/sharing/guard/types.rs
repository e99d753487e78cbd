//! What the guard is told: who holds which share, by which rule, and which processes a GPU has.
use std::{collections::BTreeSet, fmt};

use aliquot_model::{GpuUuid, Memory};
pub use aliquot_params::policy::{Guard as GuardPolicy, GuardMode};
use dra_plugin::{ClaimRef, PodRef};

/// A process's number in the host's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A process that uses a GPU, as NVML lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuProcess {
    /// Which process.
    pub pid: Pid,
    /// Its memory on that GPU; `None` where NVML can't tell.
    pub used: Option<Memory>,
}

/// What one GPU's process list was, or why it can't be read.
pub type GpuReading = (GpuUuid, Result<Vec<GpuProcess>, String>);

/// Where the lists of processes come from.
pub trait Processes: Send {
    /// The processes of each of these GPUs. A GPU that can't be read, or that is left out of the answer, is unknown: it
    /// clears nobody and accuses nobody.
    fn read(&self, gpus: Vec<GpuUuid>) -> impl Future<Output = Result<Vec<GpuReading>, String>> + Send;
}

/// What one claim holds in shares of one GPU, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The claim.
    pub claim: ClaimRef,
    /// The GPU.
    pub gpu: GpuUuid,
    /// The memory of its shares together.
    pub limit: Memory,
    /// What happens when it uses more.
    pub guard: GuardPolicy,
    /// The pods that were known to use the claim when it was prepared; later ones are asked for.
    pub pods: Vec<PodRef>,
}

/// Whose use is measured together: the claims whose pods can't be told apart, on one GPU.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The GPU.
    pub gpu: GpuUuid,
    /// The claims; never empty.
    pub claims: BTreeSet<ClaimRef>,
}

/// A pod with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod {
    /// The namespace, which is also that of its claims.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
}
