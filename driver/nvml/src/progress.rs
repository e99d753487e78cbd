//! How far the thread has come, so that a call that hangs can be laid at its GPU's door and costs no other GPU.
use std::sync::{Mutex, MutexGuard, PoisonError};

use aliquot_model::BrokenGpu;

use crate::{GpuReading, Reading};

/// Written by the thread, read by those whose deadline passes.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What the reading that is under way has read.
    so_far: Option<Reading>,
    asking: Option<u32>,
}

impl Progress {
    /// What the reading that is under way has read.
    pub(crate) fn so_far(&self) -> Option<Reading> {
        self.lock().so_far.clone()
    }

    /// The index of the GPU that is being asked.
    pub(crate) fn gpu(&self) -> Option<u32> {
        self.lock().asking
    }

    /// A reading begins.
    pub(crate) fn begin(&self, so_far: Reading) {
        self.lock().so_far = Some(so_far);
    }

    /// Another GPU is asked, or none.
    pub(crate) fn ask(&self, index: Option<u32>) {
        self.lock().asking = index;
    }

    /// The GPU has answered the reading.
    pub(crate) fn answered(&self, gpu: Result<GpuReading, BrokenGpu>) {
        let mut state = self.lock();
        state.asking = None;
        if let Some(so_far) = &mut state.so_far {
            so_far.gpus.push(gpu);
        }
    }

    /// Forgets a reading that has ended, and gives what it read.
    pub(crate) fn end(&self) -> Option<Reading> {
        std::mem::take(&mut *self.lock()).so_far
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
