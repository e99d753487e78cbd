//! One question to the driver: a line of JSON there, a line of JSON back.
use std::{
    io::{self, Read as _, Write as _},
    num::NonZeroI32,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// A longer answer is none of the driver's.
const LARGEST: u64 = 64 * 1024;
/// Between two looks for a driver that is being replaced.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no limit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "the driver doesn't serve {socket} ({source}), and without it this container's GPU memory can't be limited as its \
         claim was promised: is aliquot-driver running on this node?"
    )]
    NoDriver { socket: String, source: io::Error },
    #[error("the driver doesn't answer: {0}")]
    Io(#[from] io::Error),
    #[error("the driver's answer is none: {0}")]
    Odd(String),
    #[error("{0}")]
    Refused(String),
}

/// The line that is sent.
pub(crate) fn request(claim: &str, device: &str, pid: NonZeroI32) -> String {
    json!({"claim": claim, "device": device, "pid": pid.get()}).to_string() + "\n"
}

/// Sends `request`, once: a driver that died over it may have done it already.
pub(crate) fn ask(socket: &Path, request: &str, deadline: Instant) -> Result<(), Error> {
    let mut stream = connect(socket, deadline)?;
    let remaining = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
    stream.set_read_timeout(Some(remaining))?;
    stream.set_write_timeout(Some(remaining))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer)?;
    let odd = || Error::Odd(String::from_utf8_lossy(&answer).into_owned());
    let told: Value = serde_json::from_slice(&answer).map_err(|_| odd())?;
    if told.get("ok") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    Err(told.get("error").and_then(Value::as_str).map_or_else(odd, |error| Error::Refused(error.to_owned())))
}

/// The driver may be between two lives (an upgrade), so it has until `deadline` to be there.
fn connect(socket: &Path, deadline: Instant) -> Result<UnixStream, Error> {
    loop {
        let source = match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let may_come = matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        if !may_come || Instant::now() + PAUSE > deadline {
            return Err(Error::NoDriver { socket: socket.display().to_string(), source });
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::net::UnixListener,
    };

    use super::*;

    /// What the hook makes of a driver's answer, and what the driver was asked.
    fn answered(answer: &'static [u8]) -> (Result<(), String>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let driver = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        let request = request("u1", "d", NonZeroI32::new(7).unwrap());
        let result = ask(&path, &request, Instant::now() + Duration::from_secs(5)).map_err(|error| error.to_string());
        (result, driver.join().unwrap())
    }

    #[test]
    fn one_line_goes_there_and_one_comes_back() {
        let (result, line) = answered(b"{\"ok\":true}\n");
        assert_eq!((result, line.as_str()), (Ok(()), "{\"claim\":\"u1\",\"device\":\"d\",\"pid\":7}\n"));
        assert_eq!(answered(b"{\"error\":\"no such claim\"}\n").0, Err("no such claim".to_owned()));
    }

    #[test]
    fn whatever_is_no_consent_is_an_error() {
        for answer in [&b""[..], b"ok", b"{\"ok\":false}", b"{\"ok\":1}", b"{}", b"\xff"] {
            assert!(answered(answer).0.unwrap_err().contains("the driver's answer is none"), "{answer:?}");
        }
    }

    #[test]
    fn a_driver_that_is_not_there_is_waited_for_and_then_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let error = ask(&path, "", Instant::now() + Duration::from_millis(200)).unwrap_err().to_string();
        assert!(error.contains("is aliquot-driver running"), "{error}");
        let later = path.clone();
        let driver = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let (mut stream, _) = UnixListener::bind(later).unwrap().accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(b"{\"ok\":true}\n").unwrap();
        });
        ask(&path, "{}\n", Instant::now() + Duration::from_secs(5)).unwrap();
        driver.join().unwrap();
    }
}
