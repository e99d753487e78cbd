//! Takes hooks' requests: as many callers as there may be, each for a short while, and one answer at a time.
use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    Limiter,
    answer::{Answer, Desk, Request},
    socket::{Socket, is_trusted},
};
use crate::claim::Record;

/// A longer request is no hook's.
const LARGEST: u64 = 4096;
/// How long a caller may take to say what it wants, and to hear the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Callers at a time; more wait in the socket's queue.
const CALLERS: usize = 32;
/// How often it is looked whether the socket's file is there: hooks look for it for longer.
const LOOK: Duration = Duration::from_secs(5);

type Inbox = mpsc::Sender<(Request, oneshot::Sender<Answer>)>;

/// Serves for ever.
pub(super) async fn serve<R, L>(socket: Socket, mut desk: Desk<R, L>)
where
    R: Fn(&str) -> Result<Option<Arc<Record>>, String>,
    L: Limiter,
{
    let (inbox, mut requests) = mpsc::channel::<(Request, oneshot::Sender<Answer>)>(CALLERS);
    let answering = async {
        while let Some((request, caller)) = requests.recv().await {
            if !caller.is_closed() {
                let _ = caller.send(desk.answer(request).await);
            }
        }
    };
    tokio::join!(answering, accept(socket, inbox));
}

async fn accept(mut socket: Socket, inbox: Inbox) {
    let mut callers = JoinSet::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            caller = socket.accept(), if callers.len() < CALLERS => match caller {
                Ok(stream) => { callers.spawn(serve_one(stream, inbox.clone())); }
                // Out of descriptors, say.
                Err(error) => {
                    tracing::warn!(%error, "no connection can be taken from the hook's socket");
                    tokio::time::sleep(PATIENCE).await;
                }
            },
            Some(_) = callers.join_next() => {}
            _ = look.tick() => if socket.is_gone() {
                match Socket::bind(socket.dir(), super::SOCKET) {
                    Ok(anew) => socket = anew,
                    Err(error) => tracing::warn!(error = %crate::report(&error), "containers with hard limits can't start"),
                }
            },
        }
    }
}

async fn serve_one(mut stream: UnixStream, inbox: Inbox) {
    if let Err(error) = answer(&mut stream, &inbox).await {
        tracing::warn!(%error, "a caller at the hook's socket got no answer");
    }
}

async fn answer(stream: &mut UnixStream, inbox: &Inbox) -> io::Result<()> {
    // Before a byte of it is read.
    if !is_trusted(stream) {
        return Err(io::Error::other("it is not root"));
    }
    let mut line = Vec::new();
    timeout(PATIENCE, BufReader::new(&mut *stream).take(LARGEST).read_until(b'\n', &mut line)).await??;
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => ask(request, inbox).await,
        Err(error) => Answer::Error(format!("the request is none: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    timeout(PATIENCE, stream.write_all(&text)).await?
}

async fn ask(request: Request, inbox: &Inbox) -> Answer {
    let (caller, answer) = oneshot::channel();
    let sent = inbox.send((request, caller)).await;
    let answer = if sent.is_ok() { answer.await.ok() } else { None };
    answer.unwrap_or_else(|| Answer::Error("the driver is stopping".to_owned()))
}
