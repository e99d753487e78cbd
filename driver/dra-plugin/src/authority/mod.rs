//! Lets the kubelet's plugin watcher talk to a strict HTTP/2 server: its `:authority` becomes `localhost`.
//!
//! The watcher dials a path, and grpc-go then sends that path percent-encoded as `:authority`. RFC 3986 allows no `%2F`
//! in a host, so `h2` resets the stream before a handler hears of it. Nothing on a Unix socket needs the authority;
//! [`LocalAuthority`] replaces it on the way in.
mod hpack;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The size of a frame's header (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;
/// The largest frame that a server takes unless it says otherwise (`SETTINGS_MAX_FRAME_SIZE`), which ours does not.
const LARGEST_FRAME: usize = 1 << 14;
const READ_SIZE: usize = 4096;

/// A connection on which every long `:authority` that arrives reads `localhost`, and all else is as it was.
#[derive(Debug)]
pub struct LocalAuthority<S> {
    inner: S,
    rewriter: Rewriter,
    /// Rewritten and not yet read, from `read` on.
    ready: Vec<u8>,
    read: usize,
}

impl<S> LocalAuthority<S> {
    /// Wraps a connection of which nothing has been read yet.
    pub fn new(inner: S) -> Self {
        Self { inner, rewriter: Rewriter::default(), ready: Vec::new(), read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LocalAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read == this.ready.len() {
            this.ready.clear();
            this.read = 0;
            let mut chunk = [0; READ_SIZE];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                this.rewriter.finish(&mut this.ready);
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.rewriter.feed(chunk.filled(), &mut this.ready);
            }
        }
        let take = into.remaining().min(this.ready.len() - this.read);
        into.put_slice(&this.ready[this.read..this.read + take]);
        this.read += take;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LocalAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, from)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: Connected> Connected for LocalAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

/// Follows the frames of a client, whatever chunks they come in.
#[derive(Debug, Default)]
struct Rewriter {
    state: State,
    /// What has been taken in and not yet given on: a preface or frame header in part, or a HEADERS frame in whole.
    held: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Preface,
    FrameHeader,
    /// A HEADERS frame that is held until it is complete, of this size with its header.
    Headers {
        whole: usize,
    },
    /// The rest of a frame that is none of our business.
    Payload {
        left: usize,
    },
    /// Not HTTP/2: everything passes.
    Foreign,
}

impl Rewriter {
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            match self.state {
                State::Preface => {
                    if self.hold(&mut input, PREFACE.len()) || !PREFACE.starts_with(&self.held) {
                        self.state = if self.held == PREFACE { State::FrameHeader } else { State::Foreign };
                        out.append(&mut self.held);
                    }
                }
                State::FrameHeader => {
                    if self.hold(&mut input, FRAME_HEADER) {
                        self.begin_frame(out);
                    }
                }
                State::Headers { whole } => {
                    if self.hold(&mut input, whole) {
                        self.end_headers(out);
                    }
                }
                State::Payload { left } => {
                    let (now, later) = input.split_at(left.min(input.len()));
                    out.extend_from_slice(now);
                    input = later;
                    self.state = match left - now.len() {
                        0 => State::FrameHeader,
                        left => State::Payload { left },
                    };
                }
                State::Foreign => {
                    out.extend_from_slice(input);
                    input = &[];
                }
            }
        }
    }

    /// Gives on what is still held when the client has said its last byte.
    fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = State::Foreign;
    }

    /// Takes from `input` until `whole` bytes are held; whether they are.
    fn hold(&mut self, input: &mut &[u8], whole: usize) -> bool {
        let (now, later) = input.split_at(input.len().min(whole - self.held.len()));
        self.held.extend_from_slice(now);
        *input = later;
        self.held.len() == whole
    }

    fn begin_frame(&mut self, out: &mut Vec<u8>) {
        const HEADERS: u8 = 1;
        const END_HEADERS: u8 = 4;
        let &[l2, l1, l0, kind, flags, ..] = self.held.as_slice() else { return };
        let payload = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
        // A field block that goes on in CONTINUATION frames is left alone: no client begins with 16 KiB of headers.
        let complete = kind == HEADERS && flags & END_HEADERS != 0 && payload <= LARGEST_FRAME;
        if complete && payload > 0 {
            self.state = State::Headers { whole: FRAME_HEADER + payload };
            return;
        }
        out.append(&mut self.held);
        self.state = if payload == 0 { State::FrameHeader } else { State::Payload { left: payload } };
    }

    fn end_headers(&mut self, out: &mut Vec<u8>) {
        if let Some(shorter) = rewrite_headers(&self.held) {
            out.extend_from_slice(&shorter);
            self.held.clear();
        } else {
            out.append(&mut self.held);
        }
        self.state = State::FrameHeader;
    }
}

/// A complete HEADERS frame with the authority replaced; `None` if there is nothing to replace.
fn rewrite_headers(frame: &[u8]) -> Option<Vec<u8>> {
    const PADDED: u8 = 0x08;
    const PRIORITY: u8 = 0x20;
    let (header, payload) = frame.split_at_checked(FRAME_HEADER)?;
    let flags = *header.get(4)?;
    let mut start = 0;
    let mut end = payload.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*payload.first()?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let block = hpack::with_local_authority(payload.get(start..end)?)?;
    let length = u32::try_from(start + block.len() + payload.len() - end).ok()?;
    let mut shorter = Vec::with_capacity(frame.len());
    shorter.extend_from_slice(&length.to_be_bytes()[1..]);
    shorter.extend_from_slice(&header[3..]);
    shorter.extend_from_slice(&payload[..start]);
    shorter.extend_from_slice(&block);
    shorter.extend_from_slice(&payload[end..]);
    Some(shorter)
}

#[cfg(test)]
mod tests;
