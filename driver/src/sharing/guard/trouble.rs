//! Says once in the log what can't be read, and once that it can be read again.
use std::collections::BTreeMap;

use aliquot_model::GpuUuid;

use super::{
    process::Blind,
    types::{GpuProcess, GpuReading},
};

/// A process that ends between two readings is nothing to speak of.
const UNSEEN: u32 = 5;

/// What couldn't be read last time.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// All GPUs, or this one.
    gpus: BTreeMap<Option<GpuUuid>, String>,
    /// In so many ticks in a row no process was found.
    unseen: u32,
}

impl Troubles {
    /// The GPUs that were read.
    pub(super) fn readings(&mut self, answer: Result<Vec<GpuReading>, String>) -> BTreeMap<GpuUuid, Vec<GpuProcess>> {
        let mut now = BTreeMap::new();
        let mut good = BTreeMap::new();
        match answer {
            Ok(readings) => {
                for (gpu, reading) in readings {
                    match reading {
                        Ok(processes) => {
                            good.insert(gpu, processes);
                        }
                        Err(reason) => {
                            now.insert(Some(gpu), reason);
                        }
                    }
                }
            }
            Err(reason) => {
                now.insert(None, reason);
            }
        }
        for (gpu, reason) in now.iter().filter(|(gpu, reason)| self.gpus.get(*gpu) != Some(reason)) {
            tracing::warn!(gpu = name(gpu.as_ref()), reason, "processes can't be read; their shares aren't guarded");
        }
        for gpu in self.gpus.keys().filter(|gpu| !now.contains_key(*gpu)) {
            tracing::info!(gpu = name(gpu.as_ref()), "processes can be read again");
        }
        self.gpus = now;
        good
    }

    /// Whether any process was listed, and any of those was in procfs. Returns why the guard is blind, if it is.
    pub(super) fn traced(&mut self, listed: bool, traced: bool) -> Option<Blind> {
        self.unseen = if listed && !traced { self.unseen.saturating_add(1) } else { 0 };
        (self.unseen >= UNSEEN).then_some(Blind::Strangers)
    }
}

fn name(gpu: Option<&GpuUuid>) -> &str {
    gpu.map_or("all", GpuUuid::as_str)
}
