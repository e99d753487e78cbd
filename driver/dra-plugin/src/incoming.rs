//! Connections to a socket that stays reachable: when its file disappears, it is made again.
use std::time::Duration;

use futures::{Stream, stream};
use tokio::{net::UnixStream, time::MissedTickBehavior};

use crate::{
    causes::with_causes,
    socket::{Socket, SocketPath},
};

/// How often to look whether the file is still there. A kubelet that was installed anew waits this long at most.
const LOOK: Duration = Duration::from_secs(2);
/// The pause after a connection could not be accepted, as when the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections to `socket`, without end. `remade` is called each time the socket had to be made anew at `path`.
pub(crate) fn connections(
    socket: Socket,
    path: SocketPath,
    remade: impl Fn() + Send + 'static,
) -> impl Stream<Item = std::io::Result<UnixStream>> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((socket, path, remade, look), |(mut socket, path, remade, mut look)| async move {
        loop {
            tokio::select! {
                accepted = socket.listener.accept() => match accepted {
                    Ok((stream, _)) => return Some((Ok(stream), (socket, path, remade, look))),
                    Err(error) => {
                        tracing::warn!(path = path.as_str(), "cannot accept a connection: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                _ = look.tick() => if !socket.is_in_place() {
                    match Socket::bind(&path) {
                        Ok(new) => {
                            tracing::warn!(path = path.as_str(), "the socket had been removed; it is there again");
                            socket = new;
                            remade();
                        }
                        Err(error) => tracing::error!("the socket was removed and cannot be made again: {}", with_causes(&error)),
                    }
                },
            }
        }
    })
}
