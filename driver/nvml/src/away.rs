//! Who wants this process out of NVML: while a kernel driver is taken from a GPU, an open session would count as its user.
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aliquot_model::GpuUuid;

/// The time in which this process has no session, for all that want it so.
#[derive(Debug, Default)]
pub(crate) struct Away {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Who hasn't let it come back yet.
    wanting: usize,
    /// When it comes back even so.
    end: Option<Instant>,
    /// Every session has ended, and none begins.
    is_kept: bool,
}

/// No session of NVML begins in this process until this is dropped, or its time has passed.
#[derive(Debug)]
pub struct Absence {
    away: Arc<Away>,
    rested: Vec<GpuUuid>,
}

impl Absence {
    /// The GPUs whose persistence mode was on, and is off now.
    pub fn rested(&self) -> &[GpuUuid] {
        &self.rested
    }
}

impl Drop for Absence {
    fn drop(&mut self) {
        self.away.lock().wanting -= 1;
        self.away.changed.notify_all();
    }
}

impl Away {
    /// For the thread that has ended its sessions: one more wants none.
    pub(crate) fn begin(self: &Arc<Self>, longest: Duration, rested: Vec<GpuUuid>) -> Absence {
        let mut state = self.lock();
        state.is_kept = true;
        self.want(&mut state, longest, rested)
    }

    /// For whoever comes while it is so already.
    pub(crate) fn join(self: &Arc<Self>, longest: Duration) -> Option<Absence> {
        let mut state = self.lock();
        state.is_kept.then(|| self.want(&mut state, longest, Vec::new()))
    }

    fn want(self: &Arc<Self>, state: &mut State, longest: Duration, rested: Vec<GpuUuid>) -> Absence {
        state.wanting += 1;
        state.end = state.end.max(Some(Instant::now() + longest));
        Absence { away: Arc::clone(self), rested }
    }

    /// For that thread: until nobody wants it any more, or the time has passed.
    pub(crate) fn keep(&self) {
        let mut state = self.lock();
        while let Some(left) = state.end.and_then(|end| end.checked_duration_since(Instant::now()))
            && state.wanting > 0
        {
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_kept = false;
        state.end = None;
    }

    /// Whether it is so.
    pub(crate) fn is_kept(&self) -> bool {
        self.lock().is_kept
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn it_comes_back_when_the_last_that_wanted_it_away_has_gone() {
        let away = Arc::new(Away::default());
        assert!(away.join(LONG).is_none(), "nobody has ended the sessions");
        let first = away.begin(LONG, Vec::new());
        let second = away.join(LONG).unwrap();
        drop(first);
        assert!(away.is_kept());
        let kept = Arc::clone(&away);
        let thread = std::thread::spawn(move || kept.keep());
        drop(second);
        thread.join().unwrap();
        assert!(!away.is_kept() && away.join(LONG).is_none());
    }

    #[test]
    fn it_comes_back_in_the_end_whoever_still_wants_it_away() {
        let away = Arc::new(Away::default());
        let stuck = away.begin(SHORT, Vec::new());
        away.keep();
        assert!(!away.is_kept());
        // Who was stuck doesn't shorten the next one's time.
        let next = away.begin(LONG, Vec::new());
        drop(stuck);
        assert!(away.is_kept());
        drop(next);
        away.keep();
        assert!(!away.is_kept());
    }
}
