//! Waits for a device that another claim still holds.
use std::time::Duration;

use dra_plugin::Call;
use tokio::sync::watch;

/// Another driver instance (a rolling update) tells nobody of its releases, so a waiting claim also looks by itself.
const LOOK: Duration = Duration::from_millis(100);

/// One claim's wait.
pub(super) struct Wait {
    released: watch::Receiver<()>,
}

impl Wait {
    /// From now on no release is missed.
    pub(super) fn new(released: watch::Receiver<()>) -> Self {
        Self { released }
    }

    /// True when it is worth looking again; false when the call has no time left or its claim is being unprepared.
    pub(super) async fn more(&mut self, call: &Call) -> bool {
        if call.remaining() <= LOOK {
            return false;
        }
        tokio::select! {
            biased;
            () = call.cancelled.cancelled() => false,
            changed = self.released.changed() => changed.is_ok(),
            () = tokio::time::sleep(LOOK) => true,
        }
    }
}
