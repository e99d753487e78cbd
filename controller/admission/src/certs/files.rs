//! Follows `tls.crt` and `tls.key` in a directory that someone else writes, such as a Secret's volume.
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use rustls::sign::CertifiedKey;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{InForce, pair};
use aliquot_daemon::report;

/// Both files come one after the other: they are read when nothing more has changed for so long.
const SETTLE: Duration = Duration::from_millis(200);
/// Changes that can't be seen, or never settle, are found by looking that often.
const LOOK: Duration = Duration::from_secs(30);

/// Why there is nothing new to serve.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{} can't be read", .0.display())]
    Read(PathBuf, #[source] io::Error),
    #[error("what is in {} can't be used", .0.display())]
    Pair(PathBuf, #[source] pair::BadPair),
}

/// Serves what is in the directory, and after each change what is there then, until `stop`. What can't be used changes
/// nothing.
pub(crate) async fn follow(dir: PathBuf, in_force: InForce, stop: CancellationToken) {
    let mut told = None;
    let mut served: Option<Arc<CertifiedKey>> = None;
    loop {
        // The watch is there before the files are read, so nothing is missed.
        let mut changes = watch(&dir).ok();
        let trouble = match read(&dir).await {
            Ok(certified) => {
                if served.as_ref().is_none_or(|served| served.cert != certified.cert) {
                    tracing::info!(dir = %dir.display(), "a certificate is in force");
                    let certified = Arc::new(certified);
                    served = Some(Arc::clone(&certified));
                    in_force.send_replace(Some(certified));
                }
                None
            }
            Err(trouble) => Some(report(&trouble)),
        };
        if trouble != told
            && let Some(error) = &trouble
        {
            tracing::warn!(error, "the webhook's certificate isn't renewed");
        }
        told = trouble;
        if stop.run_until_cancelled(change(changes.as_mut())).await.is_none() {
            return;
        }
    }
}

async fn read(dir: &Path) -> Result<CertifiedKey, Trouble> {
    let file = async |name: &str| {
        let path = dir.join(name);
        tokio::fs::read(&path).await.map_err(|source| Trouble::Read(path, source))
    };
    let (certificate, key) = (file("tls.crt").await?, file("tls.key").await?);
    pair::certified(&certificate, &key).map_err(|source| Trouble::Pair(dir.to_owned(), source))
}

type Changes = EventStream<[u8; 4096]>;

fn watch(dir: &Path) -> io::Result<Changes> {
    let events = Inotify::init()?.into_event_stream([0; 4096])?;
    let mask = WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE;
    events.watches().add(dir, mask | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR)?;
    Ok(events)
}

/// Returns once something has changed and then nothing more, or after a while.
async fn change(changes: Option<&mut Changes>) {
    let Some(changes) = changes else { return sleep(LOOK).await };
    let quiet = async {
        if matches!(changes.next().await, Some(Ok(_))) {
            while let Ok(Some(Ok(_))) = timeout(SETTLE, changes.next()).await {}
        } else {
            sleep(LOOK).await;
        }
    };
    let _ = timeout(LOOK, quiet).await;
}
