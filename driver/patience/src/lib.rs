//! How watchers of the API server pause while it can't be reached: longer each time, until a watch has lasted.
//!
//! kube's own default begins anew with every event of the stream, and a watcher says by an event that it will list, before it
//! does. So against a server that is down that default stays at its first pause for good: each watcher of each node would knock
//! about once a second, and once more when thousands of them are to be served again.
#![forbid(unsafe_code)]

use std::time::Duration;

use kube::runtime::{utils::Backoff, watcher::DefaultBackoff};
use tokio::time::Instant;

/// A watch that goes on this long after a pause has succeeded. Load balancers cut watches after minutes.
const LASTED: Duration = Duration::from_secs(10);

/// For [`WatchStreamExt::backoff`](kube::runtime::WatchStreamExt::backoff): kube's pauses, from 0.8 s to 30 s with jitter, which
/// begin anew after a watch that lasted.
#[derive(Default)]
pub struct Patience {
    pauses: DefaultBackoff,
    /// The end of the last pause.
    tried: Option<Instant>,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.tried.is_none_or(|tried| now >= tried + LASTED) {
            self.pauses.reset();
        }
        let pause = self.pauses.next()?;
        self.tried = Some(now + pause);
        Some(pause)
    }
}

impl Backoff for Patience {
    /// Asked for at every event, and so no sign of success.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{StreamExt as _, stream};
    use kube::runtime::WatchStreamExt as _;
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_for_ten_minutes_is_asked_some_thirty_times() {
        let down = stream::iter([Ok("it will list"), Err("refused")]).cycle();
        let mut watched = pin!(down.backoff(Patience::default()));
        let (begun, mut tries) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_mins(10) {
            tries += usize::from(watched.next().await.is_some_and(|event| event.is_err()));
        }
        assert!((15..40).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_watch_that_lasted_the_first_pause_is_short_again() {
        let mut patience = Patience::default();
        for _ in 0..8 {
            let pause = patience.next().unwrap();
            time::advance(pause).await;
        }
        assert!(patience.next().unwrap() > Duration::from_secs(10));
        time::advance(Duration::from_mins(2)).await;
        assert!(patience.next().unwrap() < Duration::from_secs(2));
    }
}
