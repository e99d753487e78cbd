//! Calls a registration socket as the kubelet's grpc-go does, with the socket's percent-encoded path as `:authority`.
//!
//! The kubelet dials registration sockets by plain path, so grpc-go derives the authority from the path. Rust's `http`
//! crate cannot express such an authority, which is why servers built on it may refuse it and why no Rust client can show
//! that. Hence the few frames of a registration are written by hand here.
use std::{
    fmt::Write as _,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::hpack::Encoder;

/// How long the kubelet tries to connect (`dialTimeoutDuration`).
const DIAL: Duration = Duration::from_secs(10);
/// grpc-go's first pause between two connection attempts.
const REDIAL: Duration = Duration::from_secs(1);
/// The client's side of RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `SETTINGS_MAX_FRAME_SIZE` unless announced otherwise.
const MAX_FRAME: usize = 16_384;
const USER_AGENT: &str = "grpc-go/1.81.1";

/// HTTP/2 frame types (RFC 9113, section 6).
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
}

/// Why a call to a registration socket failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No server there, or it spoke no HTTP/2, within ten seconds.
    #[error("failed to dial socket {0}, err: context deadline exceeded: {1}")]
    Dial(PathBuf, String),
    /// The server reset the stream.
    #[error("stream terminated by RST_STREAM with error code: {}", code_name(*.0))]
    Reset(u32),
    /// The server ended the connection.
    #[error("server closed the connection with GOAWAY, error code: {}", code_name(*.0))]
    GoAway(u32),
    /// The response had no message: the server answered with an error status.
    #[error("the server answered with an error status and no message")]
    NoMessage,
    /// No answer in time.
    #[error("rpc error: code = DeadlineExceeded desc = context deadline exceeded")]
    Deadline,
    /// The connection broke.
    #[error("connection error: {0}")]
    Io(#[from] io::Error),
    /// What came back was no gRPC message of the expected type.
    #[error("malformed response: {0}")]
    Malformed(String),
}

/// The names that grpc-go prints for HTTP/2 error codes (RFC 9113, section 7).
fn code_name(code: u32) -> String {
    let name = match code {
        0 => "NO_ERROR",
        1 => "PROTOCOL_ERROR",
        2 => "INTERNAL_ERROR",
        3 => "FLOW_CONTROL_ERROR",
        5 => "STREAM_CLOSED",
        7 => "REFUSED_STREAM",
        8 => "CANCEL",
        11 => "ENHANCE_YOUR_CALM",
        _ => return code.to_string(),
    };
    name.to_owned()
}

/// What grpc-go makes of a socket path as `:authority`: unreserved characters, sub-delimiters and `:[]@` stay.
pub fn authority_of(socket: &Path) -> String {
    let mut out = String::new();
    for octet in socket.as_os_str().as_bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]@".contains(octet) {
            out.push(char::from(*octet));
        } else {
            let _ = write!(out, "%{octet:02X}");
        }
    }
    out
}

/// One connection to a registration socket; the kubelet opens one per registration attempt.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    authority: String,
    headers: Encoder,
    next_stream: u32,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Connection {
    /// Connects and waits for the server's settings, trying again each second for ten seconds, as a blocking dial does.
    pub async fn dial(socket: &Path) -> Result<Self, DialError> {
        let mut last = "no attempt".to_owned();
        let attempts = async {
            loop {
                match Self::attempt(socket).await {
                    Ok(connection) => return connection,
                    Err(error) => last = error.to_string(),
                }
                sleep(REDIAL).await;
            }
        };
        let result = timeout(DIAL, attempts).await;
        result.map_err(|_| DialError::Dial(socket.to_owned(), last))
    }

    async fn attempt(socket: &Path) -> Result<Self, DialError> {
        let stream = UnixStream::connect(socket).await?;
        let mut connection =
            Self { stream, authority: authority_of(socket), headers: Encoder::default(), next_stream: 1 };
        connection.stream.write_all(PREFACE).await?;
        connection.send(frame::SETTINGS, 0, 0, &[]).await?;
        let first = connection.receive().await?;
        if first.kind != frame::SETTINGS {
            return Err(DialError::Malformed(format!("first frame has type {}, not SETTINGS", first.kind)));
        }
        connection.send(frame::SETTINGS, frame::ACK, 0, &[]).await?;
        Ok(connection)
    }

    /// One unary call of a full method (`/package.Service/Method`).
    pub async fn unary<Request, Response>(
        &mut self,
        method: &str,
        request: &Request,
        within: Duration,
    ) -> Result<Response, DialError>
    where
        Request: Message,
        Response: Message + Default,
    {
        let call = self.exchange(method, request.encode_to_vec(), within);
        let answer = timeout_at(Instant::now() + within, call).await.map_err(|_| DialError::Deadline)??;
        let Some((prefix, message)) = answer.split_at_checked(5) else {
            return Err(DialError::NoMessage);
        };
        if prefix[0] != 0 {
            return Err(DialError::Malformed("compressed message".to_owned()));
        }
        Response::decode(message).map_err(|error| DialError::Malformed(error.to_string()))
    }

    async fn exchange(&mut self, method: &str, request: Vec<u8>, within: Duration) -> Result<Vec<u8>, DialError> {
        let stream = self.next_stream;
        self.next_stream += 2;
        let timeout = format!("{}u", within.as_micros().min(99_999_999));
        let block = self.headers.block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", &self.authority),
            ("content-type", "application/grpc"),
            ("user-agent", USER_AGENT),
            ("te", "trailers"),
            ("grpc-timeout", &timeout),
        ]);
        self.send(frame::HEADERS, frame::END_HEADERS, stream, &block).await?;
        let length = u32::try_from(request.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.send(frame::DATA, frame::END_STREAM, stream, &[&[0], &length[..], &request].concat()).await?;

        let mut answer = Vec::new();
        loop {
            let frame = self.receive().await?;
            match frame.kind {
                frame::SETTINGS if frame.flags & frame::ACK == 0 => {
                    self.send(frame::SETTINGS, frame::ACK, 0, &[]).await?;
                }
                frame::PING if frame.flags & frame::ACK == 0 => {
                    self.send(frame::PING, frame::ACK, 0, &frame.payload).await?;
                }
                frame::GOAWAY => return Err(DialError::GoAway(number(&frame.payload, 4))),
                frame::RST_STREAM if frame.stream == stream => return Err(DialError::Reset(number(&frame.payload, 0))),
                frame::DATA if frame.stream == stream => answer.extend(&frame.payload),
                _ => {}
            }
            let ends = matches!(frame.kind, frame::DATA | frame::HEADERS) && frame.flags & frame::END_STREAM != 0;
            if ends && frame.stream == stream {
                return Ok(answer);
            }
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let header = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&header, payload].concat()).await
    }

    async fn receive(&mut self) -> Result<Frame, DialError> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).await?;
        let length = (number(&header, 0) >> 8) as usize;
        if length > MAX_FRAME {
            return Err(DialError::Malformed(format!("frame of {length} bytes")));
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(Frame { kind: header[3], flags: header[4], stream: number(&header, 5) & 0x7fff_ffff, payload })
    }
}

/// The big-endian number at `offset`; bytes beyond the end count as zero.
fn number(bytes: &[u8], offset: usize) -> u32 {
    (0..4).fold(0, |value, i| value << 8 | u32::from(bytes.get(offset + i).copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_at_sign_stays_and_a_slash_does_not() {
        let path = Path::new("/var/lib/kubelet/plugins_registry/gpu.example.com@reg.sock");
        assert_eq!(authority_of(path), "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fgpu.example.com@reg.sock");
    }

    #[test]
    fn other_bytes_are_encoded_in_upper_case() {
        assert_eq!(authority_of(Path::new("a b\u{e9}")), "a%20b%C3%A9");
    }
}
